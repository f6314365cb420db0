"""Errors of K one-layer models on the same sequences, compiled (arXiv 2305.19190, Definition 3.4).

    h[k+1] = h[k] + dt act_in(U x[k] + b - a h[k]),  h[0] = 0,  y[k] = c^T act_out(h[k+1]) + d
    E = sum over sequences n, steps k and outputs q of  w[k] (y - target)^2,  or  max |y - target|

Layout: sequences are the innermost axis of blocks (blocks, T, channels, S), so that every line of
arithmetic runs on S neighbouring sequences and vectorises. A block of inputs, targets and outputs
fits the second-level cache (with one input and one output the first) and is read from memory once
for all K models of its task; the states of a few units stay in registers (in the first-level cache)
from the first step to the last. States are float32 or float64 as the inputs are, errors always
float64: one partial sum per block and model,
added in a fixed order, so the result does not depend on the number of threads.
Padding sequences of the last block are computed and left out of the sum.

Traffic: T S (d + p) numbers per block and task in, one number per (block, model) out.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from llvmlite.binding import get_host_cpu_features
from torch import Tensor

from cofm_triton.cpu.jit.activation import activate, constant
from cofm_triton.cpu.jit.bits import like
from cofm_triton.cpu.jit.compiled import entry, inlined, inner, summing
from cofm_triton.cpu.jit.threads import run, workers
from cofm_triton.cpu.jit.vectors import load, store
from cofm_triton.step.stacked_cells import StackedCells

# Units updated together: one read of x and one update of y serve all, as long as their states and coefficients, four
# each, fit the vector registers. AVX-512 has 32 of them; with sixteen, four units run at half the speed of two.
_UNITS = 4 if get_host_cpu_features().get("avx512vl", False) else 2
_CACHE_BYTES = 400_000  # inputs, targets and outputs of a block, in the second-level cache
_MIN_LANES, _MAX_LANES = 64, 256
_TASKS_PER_THREAD = 8
# With one input and one output a block is one column of vectors, two registers each: two chains hide each other's
# latency, the states never leave their registers, and x, targets and outputs of 100 steps fit the first-level cache.
_COLUMN_BYTES = 2 * (64 if _UNITS == 4 else 32)


@inlined
def _next_state(act_in: int, e: Any, h: Any, rate: Any, bias: Any, encoder: Any) -> Any:
    return h + activate(act_in, encoder * e + bias - rate * h)


@inlined
def _run_two_units(act_in: int, act_out: int, lanes: Any, x: Any, y: Any, unit: Any) -> None:
    """All time steps of two units: x and y (T, S) contiguous, S lanes, unit (2, 4) rows (a, b, U, c)."""
    zero = like(load(lanes, x.ctypes.data, x), 0)
    a0, b0, u0, c0 = like(zero, unit[0, 0]), like(zero, unit[0, 1]), like(zero, unit[0, 2]), like(zero, unit[0, 3])
    a1, b1, u1, c1 = like(zero, unit[1, 0]), like(zero, unit[1, 1]), like(zero, unit[1, 2]), like(zero, unit[1, 3])
    h0, h1 = zero, zero
    for t in range(x.shape[0]):
        at = t * x.strides[0]
        e, total = load(lanes, x.ctypes.data + at, x), load(lanes, y.ctypes.data + at, y)
        h0 = _next_state(act_in, e, h0, a0, b0, u0)
        h1 = _next_state(act_in, e, h1, a1, b1, u1)
        total = total + c0 * activate(act_out, h0) + c1 * activate(act_out, h1)
        store(total, y.ctypes.data + at, y, False)


@inlined
def _run_four_units(act_in: int, act_out: int, lanes: Any, x: Any, y: Any, unit: Any) -> None:
    """The same for four units."""
    zero = like(load(lanes, x.ctypes.data, x), 0)
    a0, b0, u0, c0 = like(zero, unit[0, 0]), like(zero, unit[0, 1]), like(zero, unit[0, 2]), like(zero, unit[0, 3])
    a1, b1, u1, c1 = like(zero, unit[1, 0]), like(zero, unit[1, 1]), like(zero, unit[1, 2]), like(zero, unit[1, 3])
    a2, b2, u2, c2 = like(zero, unit[2, 0]), like(zero, unit[2, 1]), like(zero, unit[2, 2]), like(zero, unit[2, 3])
    a3, b3, u3, c3 = like(zero, unit[3, 0]), like(zero, unit[3, 1]), like(zero, unit[3, 2]), like(zero, unit[3, 3])
    h0, h1, h2, h3 = zero, zero, zero, zero
    for t in range(x.shape[0]):
        at = t * x.strides[0]
        e, total = load(lanes, x.ctypes.data + at, x), load(lanes, y.ctypes.data + at, y)
        h0 = _next_state(act_in, e, h0, a0, b0, u0)
        h1 = _next_state(act_in, e, h1, a1, b1, u1)
        h2 = _next_state(act_in, e, h2, a2, b2, u2)
        h3 = _next_state(act_in, e, h3, a3, b3, u3)
        total = total + c0 * activate(act_out, h0) + c1 * activate(act_out, h1)
        total = total + c2 * activate(act_out, h2) + c3 * activate(act_out, h3)
        store(total, y.ctypes.data + at, y, False)


@inlined
def _add_scaled(row: Any, factor: Any, source: Any) -> None:
    for s in range(row.shape[0]):
        row[s] += factor * source[s]


@inlined
def _step_one_unit(act_in: int, act_out: int, h: Any, z: Any, rate: Any) -> None:
    """Advance h by one step; z holds e on entry and act_out(h) on return."""
    for s in range(h.shape[0]):
        g = h[s] + activate(act_in, z[s] - rate * h[s])
        h[s] = g
        z[s] = activate(act_out, g)


@inlined
def _run_one_unit(act_in: int, act_out: int, x: Any, y: Any, h: Any, z: Any, unit: Any) -> None:
    """All time steps of one unit: x (T, d, S), y (T, p, S), unit (2 + d + p,): a, b, U, c."""
    inputs = x.shape[1]
    h[:] = 0
    for t in range(x.shape[0]):
        z[:] = unit[1]
        for j in range(inputs):
            _add_scaled(z, unit[2 + j], x[t, j])
        _step_one_unit(act_in, act_out, h, z, unit[0])
        for q in range(y.shape[1]):
            _add_scaled(y[t, q], unit[2 + inputs + q], z)


@inlined
def _run_model(act_in: int, act_out: int, column: Any, x: Any, y: Any, h: Any, z: Any, units: Any) -> None:
    """Add the read-out of every unit to y: units (m, 2 + d + p), m a multiple of _UNITS; column as for `_task`."""
    if len(column) > 0:
        for i in range(0, units.shape[0], _UNITS):
            if _UNITS == 4:
                _run_four_units(act_in, act_out, column, x, y, units[i : i + _UNITS])
            else:
                _run_two_units(act_in, act_out, column, x, y, units[i : i + _UNITS])
    else:
        for i in range(units.shape[0]):
            _run_one_unit(act_in, act_out, x, y, h, z, units[i])


@summing
def weighted_squares(y: Any, target: Any, weights: Any, valid: int) -> float:
    """The sum over rows r and the first sequences of weights[r] (y[r, s] - target[r, s])^2, by partial sums."""
    error = 0.0
    for r in range(y.shape[0]):
        total = 0.0
        for s in range(valid):
            gap = np.float64(y[r, s] - target[r, s])
            total += gap * gap
        error += weights[r] * total
    return error


@inner
def largest_gap(y: Any, target: Any, largest: Any, valid: int) -> float:
    """The maximum over rows and the first sequences of |y[r, s] - target[r, s]|; NaN stays, whichever side it is on."""
    largest[:] = 0.0
    for r in range(y.shape[0]):
        for s in range(valid):
            gap = np.float64(abs(y[r, s] - target[r, s]))
            largest[s] = gap if (gap > largest[s] or gap != gap) else largest[s]
    error = 0.0
    for s in range(valid):
        error = largest[s] if (largest[s] > error or largest[s] != largest[s]) else error
    return error


@entry
def _task(
    act_in: tuple[int, ...],
    act_out: tuple[int, ...],
    column: tuple[int, ...],
    x: Any,
    target: Any,
    valid: int,
    weights: Any,
    units: Any,
    widths: Any,
    offset: Any,
    sup: bool,
    errors: Any,
) -> None:
    """Errors of some models on one block: units (K, m, 2 + d + p), widths and errors (K,).

    The nonlinearities are tuples of that length (see `constant`). If `column` is not empty, there is one input, one
    output and one sequence for each of its entries.
    """
    steps, _, lanes = x.shape
    outputs = target.shape[1]
    y = np.empty((steps, outputs, lanes), x.dtype)
    h, z = np.empty(lanes, x.dtype), np.empty(lanes, x.dtype)
    largest, rows = np.empty(lanes), (steps * outputs, lanes)
    for k in range(units.shape[0]):
        for q in range(outputs):
            y[:, q] = offset[k, q]
        _run_model(len(act_in), len(act_out), column, x, y, h, z, units[k, : widths[k]])
        if sup:
            errors[k] = largest_gap(y.reshape(rows), target.reshape(rows), largest, valid)
        else:
            errors[k] = weighted_squares(y.reshape(rows), target.reshape(rows), weights, valid)


def _lanes(sequences: int, steps: int, numbers: int, item_size: int) -> int:
    """Sequences per block: as many as the cache takes, a multiple of 16."""
    fitting = _CACHE_BYTES // max(1, steps * numbers * item_size)
    lanes = min(_MAX_LANES, max(_MIN_LANES, fitting // 16 * 16))
    return min(lanes, -(-sequences // 16) * 16)


def pad_sequences(sequences: Tensor, together: int) -> Tensor:
    """(N, T, d) -> (blocks, together, T, d), the last block padded with zeros."""
    count, steps, channels = sequences.shape
    blocks = -(-count // together)
    padded = sequences.new_zeros(blocks * together, steps, channels)
    padded[:count] = sequences
    return padded.view(blocks, together, steps, channels)


def blocked(sequences: Tensor, lanes: int) -> np.ndarray[Any, Any]:
    """(N, T, d) -> (blocks, T, d, lanes), the last block padded with zeros."""
    return pad_sequences(sequences, lanes).permute(0, 2, 3, 1).contiguous().numpy()


def unit_rows(cells: StackedCells, dtype: torch.dtype, multiple: int = _UNITS) -> np.ndarray[Any, Any]:
    """(K, m rounded up to a multiple, 2 + d + p): a, b, U, c of each unit; padding units stay at zero."""
    columns = (cells.rate[..., None], cells.bias[..., None], cells.encoder, cells.readout.mT)
    rows = torch.cat(columns, -1)
    padding = -rows.shape[1] % multiple
    rows = torch.nn.functional.pad(rows, (0, 0, 0, padding))
    return rows.to(dtype).contiguous().numpy()


def sweep_errors(cells: StackedCells, inputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    """Errors of K models on the same data; see the module's equation.

    Args:
        cells: K models of one shape, on the CPU.
        inputs: (N, T, d), float32 or float64, on the CPU: the type of the states too.
        targets: (N, T, p), the same type.
        weights: (T,) float64, w[k]; None for the largest |y - target|.

    Returns:
        (K,) float64; not finite where a state overflowed.
    """
    dtype = inputs.dtype
    count, steps, channels = inputs.shape
    outputs = targets.shape[2]
    column = (0,) * (_COLUMN_BYTES // inputs.element_size() if channels == outputs == 1 else 0)
    lanes = len(column) or _lanes(count, steps, channels + 2 * outputs, inputs.element_size())
    x, target = blocked(inputs, lanes), blocked(targets, lanes)
    units = unit_rows(_of_unit_step(cells), dtype)
    widths = _computed_units(cells)
    offset = cells.offset.to(dtype).contiguous().numpy()
    row_weights = np.ones(steps) if weights is None else weights.numpy().repeat(outputs)
    threads = workers()
    chunks = min(len(units), -(-_TASKS_PER_THREAD * threads // len(x)))
    errors = np.empty((len(x), len(units)))
    act_in, act_out = constant(cells.act_in), constant(cells.act_out)

    def work(tasks: Sequence[tuple[int, int]]) -> None:
        for block, chunk in tasks:
            some, valid = part(len(units), chunk, chunks), min(lanes, count - block * lanes)
            _task(
                act_in, act_out, column, x[block], target[block], valid, row_weights, units[some], widths[some],
                offset[some],
                weights is None, errors[block, some],
            )  # fmt: skip

    tasks = list(product(range(len(x)), range(chunks)))
    work(tasks[:1])  # compiles at the first call: one thread, not all
    run([partial(work, tasks[1 + thread :: threads]) for thread in range(threads)])
    return torch.from_numpy(errors.max(0) if weights is None else errors.sum(0))


def part(count: int, chunk: int, chunks: int) -> slice:
    """Chunk number `chunk` of `count` things: neighbours, as contiguous arrays are compiled for once."""
    return slice(count * chunk // chunks, count * (chunk + 1) // chunks)


def _computed_units(cells: StackedCells) -> np.ndarray[Any, Any]:
    """How many units of each model are computed, (K,): a multiple of _UNITS."""
    widths = torch.full((cells.count,), cells.rate.shape[1], device="cpu") if cells.widths is None else cells.widths
    return (-(-widths // _UNITS) * _UNITS).numpy()


def _of_unit_step(cells: StackedCells) -> StackedCells:
    """The same models with dt = 1, so that states are added to without a product.

    A linear act_in takes dt into its argument; otherwise the states become h / dt.
    """
    dt, rate = cells.dt, cells.dt * cells.rate
    if cells.act_in == "linear":
        return replace(cells, rate=rate, encoder=dt * cells.encoder, bias=dt * cells.bias, dt=1.0)
    return replace(cells, rate=rate, readout=dt * cells.readout, dt=1.0)

"""Errors of K one-layer models on the same sequences, compiled (arXiv 2305.19190, Definition 3.4).

    h[k+1] = h[k] + dt act_in(U x[k] + b - a h[k]),  h[0] = 0,  y[k] = c^T act_out(h[k+1]) + d
    E = sum over sequences n, steps k and outputs q of  w[k] (y - target)^2,  or  max |y - target|

Layout: sequences are the innermost axis of blocks (blocks, channels, T, S), a few registers wide. A block is read from
memory once for all K models of its task. The states of two units, which share each reading of x and each update of y,
stay in registers from the first step to the last.

States have the dtype of the inputs, float32 or float64. Errors are float64: one partial sum per block and model, added
in a fixed order, so the result does not depend on the number of threads. Padding sequences of the last block are
computed and left out of the sum.

Traffic: T S (d + p) numbers per block and task in, one number per (block, model) out.
"""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import torch
from llvmlite.binding import get_host_cpu_features
from torch import Tensor

from cofm_triton.cpu.jit.activation import activate, constant
from cofm_triton.cpu.jit.bits import like
from cofm_triton.cpu.jit.blocks import blocked
from cofm_triton.cpu.jit.compiled import entry, inlined, inner, summing
from cofm_triton.cpu.jit.threads import spread, workers
from cofm_triton.cpu.jit.vectors import load, store
from cofm_triton.step.activations import properties
from cofm_triton.step.stacked_cells import StackedCells

_UNITS = 2
# Of the sequences of a block: independent chains hide each other's latency. States and coefficients of two units must
# fit the registers: AVX-512 has 32 of 64 bytes, others 16 of 32.
_LANE_BYTES = 256 if get_host_cpu_features().get("avx512vl", False) else 64
_TASKS_PER_THREAD = 8


@inlined
def _run_two_units(act_in: Any, act_out: Any, lanes: Any, single: Any, x: Any, y: Any, unit: Any) -> None:
    """Add the read-out of two units to y: x (d, T, S), y (p, T, S), unit (2, 2 + d + p); arguments as for `_task`."""
    inputs, outputs = (1 if len(single) else x.shape[0]), (1 if len(single) else y.shape[0])
    zero = like(load(lanes, x.ctypes.data, x), 0)
    a0, b0, a1, b1 = like(zero, unit[0, 0]), like(zero, unit[0, 1]), like(zero, unit[1, 0]), like(zero, unit[1, 1])
    h0, h1 = zero, zero
    for t in range(x.shape[1]):
        z0, z1 = b0 - a0 * h0, b1 - a1 * h1
        for j in range(inputs):
            e = load(lanes, x.ctypes.data + j * x.strides[0] + t * x.strides[1], x)
            z0, z1 = z0 + like(zero, unit[0, 2 + j]) * e, z1 + like(zero, unit[1, 2 + j]) * e
        h0, h1 = h0 + activate(act_in, z0), h1 + activate(act_in, z1)
        v0, v1 = activate(act_out, h0), activate(act_out, h1)
        for q in range(outputs):
            at, c = y.ctypes.data + q * y.strides[0] + t * y.strides[1], 2 + inputs + q
            store(load(lanes, at, y) + like(zero, unit[0, c]) * v0 + like(zero, unit[1, c]) * v1, at, y, False)


@summing
def _weighted_squares(y: Any, target: Any, weights: Any, valid: int) -> float:
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
def _largest_gap(y: Any, target: Any, valid: int) -> float:
    """The maximum over rows and the first sequences of |y[r, s] - target[r, s]|; NaN stays, whichever side it is on."""
    largest = np.zeros(valid)
    for r in range(y.shape[0]):
        for s in range(valid):
            gap = np.float64(abs(y[r, s] - target[r, s]))
            largest[s] = gap if (gap > largest[s] or gap != gap) else largest[s]
    error = 0.0
    for s in range(valid):
        error = largest[s] if (largest[s] > error or largest[s] != largest[s]) else error
    return error


@inlined
def error_of(y: Any, target: Any, weights: Any, valid: int, sup: bool) -> float:
    """The error of outputs (p, T, S), of which the first `valid` sequences count; weights (p T,), unused if `sup`."""
    rows = (y.shape[0] * y.shape[1], y.shape[2])
    if sup:
        return _largest_gap(y.reshape(rows), target.reshape(rows), valid)
    return _weighted_squares(y.reshape(rows), target.reshape(rows), weights, valid)


@entry
def _task(
    act_in: Any, act_out: Any, lanes: Any, single: Any, x: Any, target: Any, valid: int, weights: Any, units: Any,
    widths: Any, offset: Any, sup: bool, errors: Any,
) -> None:  # fmt: skip
    """Errors of some models on one block: units (K, m, 2 + d + p), m even, widths and errors (K,).

    The nonlinearities are tuples of that length (see `constant`); `lanes` has S entries, `single` one if d = p = 1 and
    else none.
    """
    y = np.empty_like(target)
    for k in range(units.shape[0]):
        for q in range(y.shape[0]):
            y[q] = offset[k, q]
        for i in range(0, widths[k], _UNITS):
            _run_two_units(act_in, act_out, lanes, single, x, y, units[k, i : i + _UNITS])
        errors[k] = error_of(y, target, weights, valid, sup)


def unit_rows(cells: StackedCells, dtype: torch.dtype, multiple: int = _UNITS) -> np.ndarray[Any, Any]:
    """(K, m rounded up to a multiple, 2 + d + p): a, b, U, c of each unit; padding units stay at zero."""
    columns = (cells.rate[..., None], cells.bias[..., None], cells.encoder, cells.readout.mT)
    rows = torch.cat(columns, -1)
    rows = torch.nn.functional.pad(rows, (0, 0, 0, -rows.shape[1] % multiple))
    return rows.to(dtype).numpy()


def row_weights(weights: Tensor | None, targets: Tensor) -> np.ndarray[Any, Any]:
    """w[k] for the rows (q, k) of a block of targets (N, T, p); any numbers for None."""
    steps, outputs = targets.shape[1:]
    return np.ones(outputs * steps) if weights is None else np.tile(weights.numpy(), outputs)


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
    lanes = min(_LANE_BYTES // inputs.element_size(), -(-len(inputs) // 16) * 16)
    x, target = blocked(inputs, lanes), blocked(targets, lanes)
    units, widths = unit_rows(_of_unit_step(cells), inputs.dtype), _computed_units(cells)
    offset = cells.offset.to(inputs.dtype).contiguous().numpy()
    kinds = constant(cells.act_in), constant(cells.act_out), (0,) * lanes, (0,) * (x.shape[1] == target.shape[1] == 1)
    by_row, sup = row_weights(weights, targets), weights is None
    chunks = min(len(units), -(-_TASKS_PER_THREAD * workers() // len(x)))
    errors = np.empty((len(x), len(units)))

    def work(block: int, chunk: int) -> None:
        # Neighbours: contiguous arrays are compiled for once.
        some = slice(len(units) * chunk // chunks, len(units) * (chunk + 1) // chunks)
        valid, model = min(lanes, len(inputs) - block * lanes), (units[some], widths[some], offset[some])
        _task(*kinds, x[block], target[block], valid, by_row, *model, sup, errors[block, some])

    spread(work, product(range(len(x)), range(chunks)))
    return torch.from_numpy(errors.max(0) if sup else errors.sum(0))


def _computed_units(cells: StackedCells) -> np.ndarray[Any, Any]:
    """How many units of each model are computed, (K,): a multiple of _UNITS."""
    widths = torch.full((cells.count,), cells.rate.shape[1], device="cpu") if cells.widths is None else cells.widths
    return (-(-widths // _UNITS) * _UNITS).numpy()


def _of_unit_step(cells: StackedCells) -> StackedCells:
    """The same models with dt = 1, so that states are added to without a product.

    A linear act_in takes dt into its argument; otherwise the states become h / dt.
    """
    dt, rate = cells.dt, cells.dt * cells.rate
    if properties(cells.act_in).is_linear:
        return replace(cells, rate=rate, encoder=dt * cells.encoder, bias=dt * cells.bias, dt=1.0)
    return replace(cells, rate=rate, readout=dt * cells.readout, dt=1.0)

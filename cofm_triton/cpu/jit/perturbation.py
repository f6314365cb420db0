"""Errors of K one-layer models on the same sequences, compiled (arXiv 2305.19190, Definition 3.4).

    h[k+1] = h[k] + dt act_in(U x[k] + b - a h[k]),  h[0] = 0,  y[k] = c^T act_out(h[k+1]) + d
    E = sum over sequences n, steps k and outputs q of  w[k] (y - target)^2,  or  max |y - target|

Layout: sequences are the innermost axis of blocks (blocks, T, channels, S), so that every line of
arithmetic runs on S neighbouring sequences and vectorises. A block of inputs, targets and outputs
fits the second-level cache and is read from memory once for all K models of its task; the states
of four units, `(4, S)`, stay in the first-level cache from the first step to the last. States are
float32 or float64 as the inputs are, errors always float64: one partial sum per sequence, block
and model, added in a fixed order, so the result does not depend on the number of threads.
Padding sequences of the last block are computed and left out of the sum.

Traffic: T S (d + p) numbers per block and task in, one number per (block, model) out.
"""

from typing import Any

import numpy as np
import torch
from numba import get_num_threads, literally, njit, prange
from torch import Tensor

from cofm_triton.cpu.jit.activation import OPTIONS, activate
from cofm_triton.nonlinearity import NONLINEARITIES
from cofm_triton.stacked import StackedCells

_UNITS = 4  # units updated together: one read of x and one update of y serve all four
_CACHE_BYTES = 400_000  # inputs, targets and outputs of a block, in the second-level cache
_MIN_LANES, _MAX_LANES = 64, 256
_TASKS_PER_THREAD = 8


@njit(cache=True, **OPTIONS)  # type: ignore[untyped-decorator]
def _step_four_units(
    act_in: int, act_out: int, x: Any, y: Any, h0: Any, h1: Any, h2: Any, h3: Any, unit: Any, dt: Any
) -> None:
    """One time step of four units on S sequences; unit rows hold (a, b, U, c)."""
    a0, a1, a2, a3 = unit[0, 0], unit[1, 0], unit[2, 0], unit[3, 0]
    b0, b1, b2, b3 = unit[0, 1], unit[1, 1], unit[2, 1], unit[3, 1]
    u0, u1, u2, u3 = unit[0, 2], unit[1, 2], unit[2, 2], unit[3, 2]
    c0, c1, c2, c3 = unit[0, 3], unit[1, 3], unit[2, 3], unit[3, 3]
    for s in range(x.shape[0]):
        g0 = h0[s] + dt * activate(act_in, u0 * x[s] + b0 - a0 * h0[s])
        g1 = h1[s] + dt * activate(act_in, u1 * x[s] + b1 - a1 * h1[s])
        g2 = h2[s] + dt * activate(act_in, u2 * x[s] + b2 - a2 * h2[s])
        g3 = h3[s] + dt * activate(act_in, u3 * x[s] + b3 - a3 * h3[s])
        h0[s], h1[s], h2[s], h3[s] = g0, g1, g2, g3
        y[s] += (
            c0 * activate(act_out, g0)
            + c1 * activate(act_out, g1)
            + c2 * activate(act_out, g2)
            + c3 * activate(act_out, g3)
        )


@njit(forceinline=True, **OPTIONS)  # type: ignore[untyped-decorator]
def _run_four_units(act_in: int, act_out: int, x: Any, y: Any, h: Any, unit: Any, dt: Any) -> None:
    """All time steps of four units: x and y (T, 1, S), h (4, S), unit (4, 4)."""
    h[:] = 0
    for t in range(x.shape[0]):
        _step_four_units(act_in, act_out, x[t, 0], y[t, 0], h[0], h[1], h[2], h[3], unit, dt)


@njit(cache=True, **OPTIONS)  # type: ignore[untyped-decorator]
def _add_scaled(row: Any, factor: Any, source: Any) -> None:
    for s in range(row.shape[0]):
        row[s] += factor * source[s]


@njit(cache=True, **OPTIONS)  # type: ignore[untyped-decorator]
def _step_one_unit(act_in: int, act_out: int, h: Any, z: Any, rate: Any, dt: Any) -> None:
    """Advance h by one step; z holds e on entry and act_out(h) on return."""
    for s in range(h.shape[0]):
        g = h[s] + dt * activate(act_in, z[s] - rate * h[s])
        h[s] = g
        z[s] = activate(act_out, g)


@njit(forceinline=True, **OPTIONS)  # type: ignore[untyped-decorator]
def _run_one_unit(
    act_in: int, act_out: int, x: Any, y: Any, h: Any, z: Any, unit: Any, dt: Any
) -> None:
    """All time steps of one unit: x (T, d, S), y (T, p, S), unit (2 + d + p,): a, b, U, c."""
    inputs = x.shape[1]
    h[:] = 0
    for t in range(x.shape[0]):
        z[:] = unit[1]
        for j in range(inputs):
            _add_scaled(z, unit[2 + j], x[t, j])
        _step_one_unit(act_in, act_out, h, z, unit[0], dt)
        for q in range(y.shape[1]):
            _add_scaled(y[t, q], unit[2 + inputs + q], z)


@njit(forceinline=True, **OPTIONS)  # type: ignore[untyped-decorator]
def _run_model(
    act_in: int, act_out: int, x: Any, y: Any, h: Any, z: Any, units: Any, dt: Any
) -> None:
    """Add the read-out of every unit to y: units (m, 2 + d + p), m a multiple of four."""
    if x.shape[1] == 1 and y.shape[1] == 1:
        for i in range(0, units.shape[0], _UNITS):
            _run_four_units(act_in, act_out, x, y, h, units[i : i + _UNITS], dt)
    else:
        for i in range(units.shape[0]):
            _run_one_unit(act_in, act_out, x, y, h[0], z, units[i], dt)


@njit(cache=True, **OPTIONS)  # type: ignore[untyped-decorator]
def _add_squares(y: Any, target: Any, weight: float, error: Any) -> None:
    for s in range(error.shape[0]):
        gap = np.float64(y[s] - target[s])
        error[s] += weight * (gap * gap)


@njit(cache=True, **OPTIONS)  # type: ignore[untyped-decorator]
def _keep_largest(y: Any, target: Any, error: Any) -> None:
    """max(error, |y - target|) that keeps NaN, whichever side it is on."""
    for s in range(error.shape[0]):
        gap = np.float64(abs(y[s] - target[s]))
        error[s] = gap if (gap > error[s] or gap != gap) else error[s]


@njit(cache=True, **OPTIONS)  # type: ignore[untyped-decorator]
def _block_error(y: Any, target: Any, weights: Any, sup: bool, error: Any, valid: int) -> float:
    error[:] = 0.0
    for t in range(y.shape[0]):
        for q in range(y.shape[1]):
            if sup:
                _keep_largest(y[t, q], target[t, q], error)
            else:
                _add_squares(y[t, q], target[t, q], weights[t], error)
    total = 0.0
    for s in range(valid):
        if not sup:
            total += error[s]
        elif error[s] > total or error[s] != error[s]:
            total = error[s]
    return total


@njit(cache=True, parallel=True, **OPTIONS)  # type: ignore[untyped-decorator]
def _sweep(
    act_in: int,
    act_out: int,
    x: Any,
    target: Any,
    sequences: int,
    weights: Any,
    units: Any,
    offset: Any,
    dt: Any,
    sup: bool,
    chunks: int,
) -> Any:
    """Errors (blocks, K); task (block, chunk) computes models chunk, chunk + chunks, ..."""
    act_in, act_out = literally(act_in), literally(act_out)  # compile for these two alone
    blocks, steps, _, lanes = x.shape
    outputs = target.shape[2]
    models = units.shape[0]
    errors = np.empty((blocks, models))
    for task in prange(blocks * chunks):
        block, chunk = task // chunks, task % chunks
        valid = min(lanes, sequences - block * lanes)
        y = np.empty((steps, outputs, lanes), x.dtype)
        h = np.empty((_UNITS, lanes), x.dtype)
        z = np.empty(lanes, x.dtype)
        error = np.empty(lanes)
        for k in range(chunk, models, chunks):
            for q in range(outputs):
                y[:, q] = offset[k, q]
            _run_model(act_in, act_out, x[block], y, h, z, units[k], dt)
            errors[block, k] = _block_error(y, target[block], weights, sup, error, valid)
    return errors


def _lanes(sequences: int, steps: int, numbers: int, item_size: int) -> int:
    """Sequences per block: as many as the cache takes, a multiple of 16."""
    fitting = _CACHE_BYTES // max(1, steps * numbers * item_size)
    lanes = min(_MAX_LANES, max(_MIN_LANES, fitting // 16 * 16))
    return min(lanes, -(-sequences // 16) * 16)


def _blocked(sequences: Tensor, lanes: int) -> np.ndarray[Any, Any]:
    """(N, T, d) -> (blocks, T, d, lanes), the last block padded with zeros."""
    count, steps, channels = sequences.shape
    blocks = -(-count // lanes)
    padded = sequences.new_zeros(blocks * lanes, steps, channels)
    padded[:count] = sequences
    return padded.view(blocks, lanes, steps, channels).permute(0, 2, 3, 1).contiguous().numpy()


def _unit_rows(cells: StackedCells, dtype: torch.dtype) -> np.ndarray[Any, Any]:
    """(K, m rounded up to four, 2 + d + p): a, b, U, c of each unit; padding units stay at zero."""
    columns = (cells.rate[..., None], cells.bias[..., None], cells.encoder, cells.readout.mT)
    rows = torch.cat(columns, -1)
    padding = -rows.shape[1] % _UNITS
    rows = torch.nn.functional.pad(rows, (0, 0, 0, padding))
    return rows.to(dtype).contiguous().numpy()


def sweep_errors(
    cells: StackedCells, inputs: Tensor, targets: Tensor, weights: Tensor | None
) -> Tensor:
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
    lanes = _lanes(count, steps, channels + 2 * outputs, inputs.element_size())
    x, target = _blocked(inputs, lanes), _blocked(targets, lanes)
    units = _unit_rows(cells, dtype)
    chunks = min(len(units), -(-_TASKS_PER_THREAD * get_num_threads() // len(x)))
    sup = weights is None
    step_weights = np.ones(steps) if weights is None else weights.contiguous().numpy()
    errors = _sweep(
        NONLINEARITIES.index(cells.act_in),
        NONLINEARITIES.index(cells.act_out),
        x,
        target,
        count,
        step_weights,
        units,
        cells.offset.to(dtype).contiguous().numpy(),
        x.dtype.type(cells.dt),
        sup,
        chunks,
    )
    return torch.from_numpy(errors.max(0) if sup else errors.sum(0))

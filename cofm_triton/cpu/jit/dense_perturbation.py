"""Errors of K dense one-layer models on the same sequences, compiled (arXiv 2305.19190, Definition 3.4).

    h[k+1] = h[k] + dt act(U x[k] + b - A h[k]),  h[0] = 0,  y[k] = c^T h[k+1] + d
    E = sum over sequences n, steps k and outputs q of  w[k] (y - target)^2,  or  max |y - target|

Layout: sequences are the innermost axis of blocks (blocks, channels, T, S), S filling a cache line. So the state of a
unit is a vector, which a number of A multiplies as a whole. Old and new states (m, S) stay in the first-level cache,
and so does the matrix of a model of up to 64 units.

States have the dtype of the inputs, float32 or float64. Errors are float64: one partial sum per model and block, added
in a fixed order, so the result does not depend on the number of threads.

Traffic: T (d + p) numbers per sequence and model in, one number per (block, model) out.
"""

from itertools import product as pairs
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cofm_triton.cpu.jit.activation import activate, constant
from cofm_triton.cpu.jit.bits import like
from cofm_triton.cpu.jit.blocks import blocked
from cofm_triton.cpu.jit.compiled import entry, inlined
from cofm_triton.cpu.jit.perturbation import error_of, row_weights
from cofm_triton.cpu.jit.threads import spread
from cofm_triton.cpu.jit.vectors import load, store
from cofm_triton.step.stacked_cells import StackedCells

_LINE_BYTES = 64  # of the states of one unit: two vectors of 32 bytes
# Units whose sums over A are formed together: with two vectors each, independent chains enough for the multipliers.
_UNITS = 4
_BLOCKS_PER_TASK = 64


@inlined
def _new_state(act: Any, product: Any, state: Any, x: Any, lanes: Any, unit: Any, inputs: int, dt: Any) -> Any:
    """h + dt act(U x + b - product) of one unit: x (d, S), unit (1 + d + p,): b, U, c."""
    z = like(product, unit[0]) - product
    for j in range(inputs):
        z = z + like(product, unit[1 + j]) * load(lanes, x.ctypes.data + j * x.strides[0], x)
    return state + like(product, dt) * activate(act, z)


@inlined
def _advance(
    act: Any, lanes: Any, single: Any, matrix: Any, units: Any, x: Any, old: Any, new: Any, y: Any, dt: Any
) -> None:
    """One step: matrix (tiles, m, _UNITS), units (m, 1 + d + p), x (d, S), states old and new (m, S), y (p, S)."""
    inputs, outputs, line = (1 if len(single) else x.shape[0]), (1 if len(single) else y.shape[0]), old.strides[0]
    zero = like(load(lanes, old.ctypes.data, old), 0.0)
    for tile in range(matrix.shape[0]):
        p0, p1, p2, p3 = zero, zero, zero, zero
        for k in range(matrix.shape[1]):
            state = load(lanes, old.ctypes.data + k * line, old)
            p0 = p0 + like(zero, matrix[tile, k, 0]) * state
            p1 = p1 + like(zero, matrix[tile, k, 1]) * state
            p2 = p2 + like(zero, matrix[tile, k, 2]) * state
            p3 = p3 + like(zero, matrix[tile, k, 3]) * state
        i = tile * _UNITS
        before, after, unit = old.ctypes.data + i * line, new.ctypes.data + i * line, units[i : i + _UNITS]
        h0 = _new_state(act, p0, load(lanes, before, old), x, lanes, unit[0], inputs, dt)
        h1 = _new_state(act, p1, load(lanes, before + line, old), x, lanes, unit[1], inputs, dt)
        h2 = _new_state(act, p2, load(lanes, before + 2 * line, old), x, lanes, unit[2], inputs, dt)
        h3 = _new_state(act, p3, load(lanes, before + 3 * line, old), x, lanes, unit[3], inputs, dt)
        store(h0, after, new, False)
        store(h1, after + line, new, False)
        store(h2, after + 2 * line, new, False)
        store(h3, after + 3 * line, new, False)
        for q in range(outputs):
            at, c = y.ctypes.data + q * y.strides[0], 1 + inputs + q
            total = load(lanes, at, y) + like(zero, unit[0, c]) * h0 + like(zero, unit[1, c]) * h1
            store(total + like(zero, unit[2, c]) * h2 + like(zero, unit[3, c]) * h3, at, y, False)


@entry
def _task(
    act: tuple[int, ...], lanes: tuple[int, ...], single: tuple[int, ...], x: Any, target: Any, sequences: int,
    weights: Any, matrix: Any, units: Any, offset: Any, dt: Any, sup: bool, errors: Any,
) -> None:  # fmt: skip
    """Errors of one model on some blocks: x and target (blocks, channels, T, S), of which `sequences` count; matrix and
    units as for `_advance`, offset (p,), errors (blocks,); lanes has S entries, single one if d = p = 1 and else none.
    """
    old = np.empty((units.shape[0], len(lanes)), x.dtype)
    new, y = np.empty_like(old), np.empty_like(target[0])
    for block in range(x.shape[0]):
        old[:] = 0
        for q in range(y.shape[0]):
            y[q] = offset[q]
        for t in range(y.shape[1]):
            _advance(act, lanes, single, matrix, units, x[block, :, t], old, new, y[:, t], dt)
            old, new = new, old
        errors[block] = error_of(y, target[block], weights, min(len(lanes), sequences - block * len(lanes)), sup)


def sweep_errors(cells: StackedCells, inputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    """Errors of K models on the same data; see the module's equation.

    Args:
        cells: K models of one shape whose a is a matrix, on the CPU.
        inputs: (N, T, d), float32 or float64, on the CPU: the type of the states too.
        targets: (N, T, p), the same type.
        weights: (T,) float64, w[k]; None for the largest |y - target|.

    Returns:
        (K,) float64; not finite where a state overflowed.
    """
    together = _LINE_BYTES // inputs.element_size()
    x, target = blocked(inputs, together), blocked(targets, together)
    padding = -cells.rate.shape[1] % _UNITS  # units that stay at zero
    rows = F.pad(cells.rate, (0, padding, 0, padding)).to(inputs)
    matrix = rows.unflatten(1, (-1, _UNITS)).transpose(2, 3).contiguous().numpy()  # (K, tiles, m, _UNITS)
    columns = torch.cat((cells.bias[..., None], cells.encoder, cells.readout.mT), -1)
    units = F.pad(columns, (0, 0, 0, padding)).to(inputs).contiguous().numpy()
    offset = cells.offset.to(inputs).contiguous().numpy()
    by_row = row_weights(weights, targets)
    errors = np.empty((len(x), cells.count))
    act, lanes, dt = constant(cells.act_in), (0,) * together, x.dtype.type(cells.dt)
    single = (0,) * (inputs.shape[2] == targets.shape[2] == 1)

    def work(k: int, first: int) -> None:
        some, left = slice(first, first + _BLOCKS_PER_TASK), len(inputs) - first * together
        model = matrix[k], units[k], offset[k], dt
        _task(act, lanes, single, x[some], target[some], left, by_row, *model, weights is None, errors[some, k])

    spread(work, pairs(range(cells.count), range(0, len(x), _BLOCKS_PER_TASK)))
    return torch.from_numpy(errors.max(0) if weights is None else errors.sum(0))

"""Errors of K dense one-layer models on the same sequences, compiled (arXiv 2305.19190, Definition 3.4).

    h[k+1] = h[k] + dt act(U x[k] + b - A h[k]),  h[0] = 0,  y[k] = c^T h[k+1] + d
    E = sum over sequences n, steps k and outputs q of  w[k] (y - target)^2,  or  max |y - target|

A few sequences go through time together; their states, (sequences, m), and the matrix of the model stay in the
first-level cache. The read-out is m more columns of that matrix: one product with h gives A h for the next step and
c^T h for this one. States are float32 or float64 as the inputs are, errors always float64: one partial sum per model
and block of sequences, added in a fixed order, so the result does not depend on the number of threads.

Traffic: T (d + p) numbers per sequence and model in, one number per (block, model) out.
"""

from functools import partial
from itertools import product as pairs
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cofm_triton.cpu.jit.activation import activate
from cofm_triton.cpu.jit.compiled import entry, inlined
from cofm_triton.cpu.jit.perturbation import as_type, pad_sequences
from cofm_triton.cpu.jit.product import TILE_ROWS, multiply, panels
from cofm_triton.cpu.jit.threads import run, workers
from cofm_triton.stacked import StackedCells

_TOGETHER = 4 * TILE_ROWS  # sequences of a block
_BLOCKS_PER_TASK = 64


@inlined
def _add_gap(sup: bool, error: float, weight: float, gap: float) -> float:
    """The sum of weighted squares, or the largest gap; NaN stays."""
    if sup:
        gap = abs(gap)
        return gap if (gap > error or gap != gap) else error
    return error + weight * (gap * gap)


@inlined
def _advance(act: int, h: Any, z: Any, product: Any, x: Any, encoder: Any, bias: Any, dt: Any) -> None:
    """One step of one sequence: h, z, bias and the first numbers of product (m,), x (d,), encoder (d, m)."""
    for i in range(h.shape[0]):
        z[i] = bias[i] - product[i]
    for j in range(x.shape[0]):
        source, row = x[j], encoder[j]
        for i in range(h.shape[0]):
            z[i] += source * row[i]
    for i in range(h.shape[0]):
        h[i] += dt * activate(act, z[i])


@entry
def _task(
    act: tuple[int, ...], x: Any, target: Any, sequences: int, weights: Any, matrix: Any, encoder: Any, bias: Any,
    offset: Any, dt: Any, sup: bool, errors: Any,
) -> None:  # fmt: skip
    """Errors of one model on some blocks: x and target (blocks, sequences, T, channels), of which `sequences` count;
    matrix in panels, encoder (d, m), bias (m,), offset (p,), errors (blocks,).
    """
    together, steps, size = x.shape[1], x.shape[2], bias.shape[0]
    h = np.empty((together, size), x.dtype)
    z = np.empty(size, x.dtype)
    product = np.empty((together, matrix.shape[0] * matrix.shape[2]), x.dtype)
    for block in range(x.shape[0]):
        h[:] = 0
        product[:] = 0
        error = 0.0
        for t in range(steps):
            for r in range(together):
                _advance(len(act), h[r], z, product[r], x[block, r, t], encoder, bias, dt)
            multiply(h, matrix, product)
            for r in range(min(together, sequences - block * together)):
                for q in range(target.shape[3]):
                    gap = product[r, size + q] + offset[q] - target[block, r, t, q]
                    error = _add_gap(sup, error, weights[t], np.float64(gap))
        errors[block] = error


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
    x, target = pad_sequences(inputs, _TOGETHER).numpy(), pad_sequences(targets, _TOGETHER).numpy()
    matrix = panels(torch.cat((cells.rate.mT, cells.readout.mT), 2).to(inputs)).numpy()
    encoder, bias, offset = (
        value.to(inputs).contiguous().numpy() for value in (cells.encoder.mT, cells.bias, cells.offset)
    )
    step_weights = np.zeros(inputs.shape[1]) if weights is None else weights.numpy()
    errors = np.empty((len(x), cells.count))
    act, dt = as_type(cells.act_in), x.dtype.type(cells.dt)

    def work(tasks: list[tuple[int, int]]) -> None:
        for k, first in tasks:
            some = slice(first, first + _BLOCKS_PER_TASK)
            left = len(inputs) - first * _TOGETHER
            _task(
                act, x[some], target[some], left, step_weights, matrix[k], encoder[k], bias[k], offset[k], dt,
                weights is None, errors[some, k],
            )  # fmt: skip

    tasks = list(pairs(range(cells.count), range(0, len(x), _BLOCKS_PER_TASK)))
    work(tasks[:1])  # compiles at the first call: one thread, not all
    threads = workers()
    run([partial(work, tasks[1 + thread :: threads]) for thread in range(threads)])
    return torch.from_numpy(errors.max(0) if weights is None else errors.sum(0))

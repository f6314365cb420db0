"""Errors of K one-layer models on the same sequences and their gradients, compiled (arXiv 2305.19190, Definition 3.4).

The equation of `cofm_triton.cpu.jit.perturbation`. Each model is a read-out (`rnn_readout.py`), whose outputs y are
pulled by r[k] = 2 w[k] (y[k] - target[k]): a forward and a backward pass in one chunk of time for each model and block
of sequences. Sums over blocks are float64, in a fixed order. Padding sequences have r = 0.

Traffic: T S (d + p) numbers per block and model in, m (2 + d + p) + p + 1 out.
"""

from itertools import product

import numpy as np
import torch
from torch import Tensor

from cofm_triton.cpu.jit import rnn_readout
from cofm_triton.cpu.jit.activation import constant
from cofm_triton.cpu.jit.blocks import blocked
from cofm_triton.cpu.jit.perturbation import unit_rows
from cofm_triton.cpu.jit.threads import spread
from cofm_triton.step.stacked_cells import StackedCells

_LANES = 64  # sequences of a block: the states of a unit over 100 steps take 26 KB in float32


def sweep_gradients(
    cells: StackedCells, inputs: Tensor, targets: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Errors of K models and their derivatives by the coefficients; see the module's equation.

    Args:
        cells: K models of one shape, on the CPU.
        inputs: (N, T, d), float32 or float64, on the CPU: the type of the states and of their adjoints too.
        targets: (N, T, p), the same type.
        weights: (T,) float64, w[k].

    Returns:
        Errors (K,); derivatives by a, b, U, c of every unit (K, m, 2 + d + p), and by d (K, p). All float64, not finite
        where a state or an adjoint overflowed.
    """
    lanes = min(_LANES, -(-len(inputs) // 16) * 16)
    x, target = blocked(inputs, lanes), blocked(targets, lanes)
    units, offset = unit_rows(cells, inputs.dtype, multiple=1), cells.offset.to(inputs.dtype).numpy()
    length, at_rest = inputs.shape[1], np.zeros((lanes, 1, units.shape[1]), x.dtype)
    nothing, squares = at_rest[:, :0], weights.numpy()[:, None]
    errors, by_offset = np.empty((len(x), len(units))), np.empty((len(x), *offset.shape))
    by_unit = np.empty((len(x), *units.shape))
    kinds, dt = (constant(cells.act_in), constant(cells.act_out), ()), x.dtype.type(cells.dt)

    def work(block: int, k: int) -> None:
        y = np.empty_like(target[block])
        rnn_readout.forward_task(*kinds, x[block], y, nothing, 0, 0, units[k], dt, length)
        gap = y + offset[k][:, None, None] - target[block]
        gap[..., len(inputs) - block * lanes :] = 0
        errors[block, k] = (squares * np.square(gap, dtype=np.float64)).sum()
        pull = (2 * squares * gap).astype(x.dtype)
        by_offset[block, k] = pull.sum((1, 2), dtype=np.float64)
        no_dx = x[block, :0]
        rnn_readout.backward_task(
            *kinds, x[block], pull, no_dx, at_rest, 0, 0, units[k], by_unit[block, k], dt, length
        )  # fmt: skip

    spread(work, product(range(len(x)), range(len(units))))
    summed, unit_gradients, offset_gradients = (torch.from_numpy(of.sum(0)) for of in (errors, by_unit, by_offset))
    return summed, unit_gradients, offset_gradients

"""Errors of K one-layer models on the same sequences, in PyTorch alone: any device, differentiable.

The same equation, arguments and numbers as the compiled sweep (`cofm_triton.cpu.jit.perturbation`):

    h[k+1] = h[k] + dt act_in(U x[k] + b - a h[k]),  h[0] = 0,  y[k] = c^T act_out(h[k+1]) + d
    E = sum over sequences n, steps k and outputs q of  w[k] (y - target)^2,  or  max |y - target|

States `(models, m, sequences)` are computed in blocks of models and sequences of bounded size, one
time step at a time. Where a is a rate per unit, products are elementwise.
"""

import torch
from torch import Tensor

from cofm_triton.step.activation import activation
from cofm_triton.step.stacked_cells import StackedCells
from cofm_triton.support.progress import Finished, ignore

# Numbers in a block of states. On a CPU, PyTorch computes fewer than 2^15 on one thread; with more of them, the threads
# wait for one another and for memory longer than they compute.
_CPU_NUMBERS = 1 << 14
_NUMBERS = 1 << 18  # elsewhere
_MAX_LANES = 1024


def sweep_errors(
    cells: StackedCells,
    inputs: Tensor,
    targets: Tensor,
    weights: Tensor | None,
    finished: Finished = ignore,
) -> Tensor:
    """Errors of K models on the same data; see the module's equation.

    Args:
        cells: K models of one shape.
        inputs: (N, T, d), float32 or float64: the type of the states too.
        targets: (N, T, p), the same type.
        weights: (T,) float64, w[k]; None for the largest |y - target|.
        finished: told how many models are.

    Returns:
        (K,) float64, differentiable in the coefficients; not finite where a state overflowed.
    """
    numbers, units = _CPU_NUMBERS if inputs.device.type == "cpu" else _NUMBERS, cells.rate.shape[1]
    lanes = max(1, min(_MAX_LANES, len(inputs), numbers // units))
    models = max(1, numbers // (lanes * units))
    blocks = []
    for first in range(0, cells.count, models):
        some = cells[first : first + models]
        parts = [
            _block_errors(some, x, target, weights)
            for x, target in zip(inputs.split(lanes), targets.split(lanes), strict=True)
        ]
        stacked = torch.stack(parts)
        blocks.append(stacked.sum(0) if weights is not None else stacked.amax(0))
        finished(some.count)
    return torch.cat(blocks)


def _block_errors(cells: StackedCells, inputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    """(K,) errors of one block of sequences; amax and sum both keep NaN."""
    act_in, act_out = activation(cells.act_in), activation(cells.act_out)
    rate, bias = cells.rate.to(inputs), cells.bias.to(inputs)[..., None]
    encoder, readout = cells.encoder.to(inputs), cells.readout.to(inputs)
    offset = cells.offset.to(inputs)[..., None]
    h = torch.zeros_like(bias).expand(-1, -1, len(inputs))
    error = torch.zeros(cells.count, dtype=torch.float64, device=inputs.device)
    for k in range(inputs.shape[1]):
        drive = bias
        for j in range(inputs.shape[2]):
            drive = drive + encoder[:, :, j, None] * inputs[:, k, j]
        product = rate @ h if cells.is_dense else rate[..., None] * h
        h = h + cells.dt * act_in(drive - product)
        state = act_out(h)
        columns = [(c[..., None] * state).sum(1) for c in readout.unbind(1)]
        gap = (torch.stack(columns, 1) + offset - targets[:, k].T).double()
        if weights is None:
            error = torch.maximum(error, gap.abs().amax((1, 2)))
        else:
            error = error + weights[k] * (gap * gap).sum((1, 2))
    return error

"""Errors of K stacked models on the same sequences, and their gradients, on the fastest backend there is.

    h[k+1] = h[k] + dt act_in(U x[k] + b - a h[k]),  h[0] = 0,  y[k] = c^T act_out(h[k+1]) + d
    E = sum over sequences n, steps k and outputs q of  w[k] (y - target)^2,  or  max |y - target|

Gradients come from the adjoint that is compiled for the CPU. Elsewhere the copies lie side by side, as channels of one
call of `rnn_scan` or `linear_scan`, whose adjoints are kernels of ours too; a matrix a goes through PyTorch. Errors of
pairs, complex units, are those of matrices of blocks; their gradients are taken side by side on every device.
"""

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cofm_triton.cpu.blocked import perturbation as blocked
from cofm_triton.functional import linear_scan, rnn_scan
from cofm_triton.ops.backends import implementation, resolve
from cofm_triton.step.activation import activation
from cofm_triton.step.stacked_cells import StackedCells
from cofm_triton.support.progress import Finished, ignore

_NUMBERS = 1 << 24  # states of copies that lie side by side: 64 MB in float32, kept a few times for the adjoint


def is_compiled(device: torch.device) -> bool:
    """Whether sweeps on this device are the ones compiled for the CPU."""
    return resolve(None, device) == "numba"


def sweep_errors(
    cells: StackedCells,
    inputs: Tensor,
    targets: Tensor,
    weights: Tensor | None,
    finished: Finished = ignore,
) -> Tensor:
    """Errors of K models; arguments and result of `cofm_triton.cpu.blocked.perturbation.sweep_errors`."""
    if cells.is_complex:
        size = max(1, _NUMBERS // (2 * cells.rate.shape[1]) ** 2)
        starts = range(0, cells.count, size)
        some = (cells[first : first + size].as_dense() for first in starts)
        return torch.cat([sweep_errors(matrices, inputs, targets, weights, finished) for matrices in some])
    backend, operator = resolve(None, inputs.device), "dense_perturbation" if cells.is_dense else "perturbation"
    if backend != "torch":
        module = implementation(backend, operator)
        if backend == "numba" or module.fits(cells, inputs, targets):
            errors = cast(Tensor, module.sweep_errors(cells, inputs, targets, weights))
            finished(cells.count)
            return errors
        if cells.widths is not None:  # the widest model is too much for the kernel, narrower ones may not be
            return _width_by_width(cells, cells.widths, inputs, targets, weights, finished)
    return blocked.sweep_errors(cells, inputs, targets, weights, finished)


def _width_by_width(
    cells: StackedCells, widths: Tensor, inputs: Tensor, targets: Tensor, weights: Tensor | None, finished: Finished
) -> Tensor:
    """Errors of joined models, one launch for each width."""
    errors = torch.empty(cells.count, dtype=torch.float64, device=inputs.device)
    for width in widths.unique().tolist():
        some = replace(cells[widths == width].widened(width), widths=None)
        errors[widths == width] = sweep_errors(some, inputs, targets, weights, finished)
    return errors


def sweep_errors_and_gradients(cells: StackedCells, inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Errors of K models, differentiable once in their coefficients; arguments and result of `sweep_errors`."""
    if cells.is_dense:
        return blocked.sweep_errors(cells, inputs, targets, weights)
    coefficients = (cells.rate, cells.bias, cells.encoder, cells.readout, cells.offset)
    return cast(Tensor, _Errors.apply(cells, inputs, targets, weights, *coefficients))


class _Errors(torch.autograd.Function):
    """Errors, whose gradients are computed along with them."""

    @staticmethod
    def forward(ctx: Any, cells: StackedCells, inputs: Tensor, targets: Tensor, weights: Tensor, *_: Tensor) -> Tensor:
        compiled = is_compiled(inputs.device) and not cells.is_complex
        compute = _compiled_gradients if compiled else _scanned_gradients
        errors, *gradients = compute(cells, inputs, targets, weights)
        ctx.save_for_backward(*gradients)
        return errors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (grad.view(-1, *([1] * (value.dim() - 1))) * value for value in ctx.saved_tensors)
        return (None, None, None, None, *scaled)


def _compiled_gradients(cells: StackedCells, inputs: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    """Errors and their derivatives by a, b, U, c, d."""
    from cofm_triton.cpu.jit.perturbation_gradient import sweep_gradients

    errors, units, offset = sweep_gradients(cells, inputs, targets, weights)
    rate, bias, encoder, readout = units.split((1, 1, inputs.shape[2], targets.shape[2]), -1)
    return errors, rate[..., 0], bias[..., 0], encoder, readout.mT, offset


def _scanned_gradients(cells: StackedCells, inputs: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    """The same by autograd, over as many models at a time as memory takes."""
    units = cells.rate.shape[1] * (2 if cells.is_complex else 1)
    size = max(1, _NUMBERS // (inputs.shape[0] * inputs.shape[1] * units))
    parts = []
    for first in range(0, cells.count, size):
        some = cells[first : first + size].as_leaves()
        leaves = (some.rate, some.bias, some.encoder, some.readout, some.offset)
        with torch.enable_grad():
            errors = scanned_errors(some, inputs, targets, weights)
            parts.append((errors.detach(), *torch.autograd.grad(errors.sum(), leaves)))
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def scanned_errors(cells: StackedCells, inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Errors of K models that lie side by side in one scan of K m channels, (K,) float64, differentiable.

    Args:
        cells: K models with one rate per unit or pair.
        inputs: as for `sweep_errors`, like the others.
        targets: (N, T, p).
        weights: (T,).
    """
    dt, rate, frequency = cells.dt, cells.rate, None
    if cells.is_complex:
        rate, frequency = cells.rate.real, cells.rate.imag.to(inputs).flatten()
    rate = rate.to(inputs).flatten()
    encoder, bias, readout = (value.to(inputs) for value in cells.of_units())
    drive = inputs @ encoder.flatten(0, 1).mT + bias.flatten()
    if cells.act_in == "linear":
        decay = 1 - dt * rate
        states, _ = linear_scan(dt * drive, decay if frequency is None else torch.complex(decay, -dt * frequency))
    else:
        states, _ = rnn_scan(drive, rate, frequency=frequency, dt=dt, nonlinearity=cells.act_in)
    states = activation(cells.act_out)(states.unflatten(2, bias.shape))
    outputs = torch.einsum("ntkm,kqm->kntq", states, readout) + cells.offset.to(inputs)[:, None, None]
    gaps = (outputs - targets).double()
    return (gaps * gaps * weights[:, None]).sum((1, 2, 3))

"""Errors of K stacked models on the same sequences, and their gradients, on the fastest backend there is.

    h[k+1] = h[k] + dt act_in(U x[k] + b - a h[k]),  h[0] = 0,  y[k] = c^T act_out(h[k+1]) + d
    E = sum over sequences n, steps k and outputs q of  w[k] (y - target)^2,  or  max |y - target|

Gradients come from the adjoint that is compiled for the CPU. Elsewhere the copies lie side by side, as channels of one
call of `rnn_scan` or `linear_scan`, whose adjoints are kernels of ours too; a matrix a goes through PyTorch. Pairs,
complex units, are one fused read-out for each model on every device (`ops/rnn_readout.py`), or side by side where it
does not take them; narrow ones with act_in are matrices of blocks.
Source: arXiv 2305.19190, Definition 3.4.
"""

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cofm_triton.cpu.blocked import perturbation as blocked
from cofm_triton.ops.backends import on_device, resolve
from cofm_triton.ops.linear_scan import apply_linear_scan
from cofm_triton.ops.paired_rnn_scan import apply_paired_rnn_scan
from cofm_triton.ops.rnn_readout import apply_rnn_readout, is_fused
from cofm_triton.ops.rnn_scan import apply_rnn_scan
from cofm_triton.ops.sweeps import compiled_sweep
from cofm_triton.step.activation import activation
from cofm_triton.step.activations import properties
from cofm_triton.step.stacked_cells import StackedCells
from cofm_triton.support.progress import Finished, ignore

_WIDEST_MATRIX = 32  # units of pairs up to which the sweep over matrices is faster than read-outs one by one
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
    if cells.is_complex and (cells.act_in == "linear" or 2 * cells.rate.shape[1] > _WIDEST_MATRIX):
        return _scanned_errors(cells, inputs, targets, weights, finished)
    if cells.is_complex:
        size = max(1, _NUMBERS // (2 * cells.rate.shape[1]) ** 2)
        starts = range(0, cells.count, size)
        some = (cells[first : first + size].as_dense() for first in starts)
        return torch.cat([sweep_errors(matrices, inputs, targets, weights, finished) for matrices in some])
    backend = resolve(None, inputs.device)
    if backend != "torch":
        with on_device(inputs.device):
            errors = compiled_sweep(backend, dense=cells.is_dense).sweep_errors(cells, inputs, targets, weights)
        if errors is not None:
            finished(cells.count)
            return errors
        if cells.widths is not None:  # the widest model is too much for the kernel, narrower ones may not be
            return _width_by_width(cells, cells.widths, inputs, targets, weights, finished)
    return blocked.sweep_errors(cells, inputs, targets, weights, finished)


def _scanned_errors(
    cells: StackedCells, inputs: Tensor, targets: Tensor, weights: Tensor | None, finished: Finished
) -> Tensor:
    """Errors by `scanned_errors`, as many models and sequences at a time as memory takes."""
    sequence = inputs.shape[1] * cells.rate.shape[1] * 2
    size = max(1, _NUMBERS // (len(inputs) * sequence))
    together = max(1, min(len(inputs), _NUMBERS // (size * sequence)))
    errors = []
    for first in range(0, cells.count, size):
        some = cells[first : first + size]
        batches = zip(inputs.split(together), targets.split(together), strict=True)
        parts = torch.stack([scanned_errors(some, *batch, weights) for batch in batches])
        errors.append(parts.amax(0) if weights is None else parts.sum(0))
        finished(some.count)
    return torch.cat(errors)


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


def scanned_errors(cells: StackedCells, inputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    """Errors of K models by read-outs, or side by side in one scan of K m channels, (K,) float64, differentiable.

    Args:
        cells: K models with one rate per unit or pair.
        inputs: as for `sweep_errors`, like the others.
        targets: (N, T, p).
        weights: (T,); None: the largest gap.
    """
    gaps = (_outputs(cells, inputs) - targets).double()
    if weights is None:
        return gaps.abs().amax((1, 2, 3))
    return (gaps * gaps * weights[:, None]).sum((1, 2, 3))


def _outputs(cells: StackedCells, inputs: Tensor) -> Tensor:
    """Outputs (K, N, T, p) of models with one rate per unit or pair."""
    encoder, bias, readout = (value.to(inputs) for value in cells.of_units())
    rate, offset = cells.rate.real.to(inputs), cells.offset.to(inputs)
    if cells.is_complex:
        turn, backend = cells.rate.imag.to(inputs), resolve(None, inputs.device)
        kind = dict(paired=True, double=inputs.dtype == torch.float64)
        if is_fused(len(inputs), inputs.shape[2], readout.shape[1], backend, **kind):
            options = (cells.dt, cells.act_in, cells.act_out, backend)
            outputs = [
                apply_rnn_readout(inputs, u, b, a, c, d, *options, turn=w)
                for u, b, a, c, d, w in zip(encoder, bias, rate, readout, offset, turn, strict=True)
            ]
            return torch.stack(outputs)
    states = _states(cells, inputs @ encoder.flatten(0, 1).mT + bias.flatten())
    states = activation(cells.act_out)(states.unflatten(2, bias.shape))
    return torch.einsum("ntkm,kqm->kntq", states, readout) + offset[:, None, None]


def _states(cells: StackedCells, drive: Tensor) -> Tensor:
    """States (N, T, K m) of the scan of all units, pairs being two."""
    dt, backend = cells.dt, resolve(None, drive.device)
    rate, omega = cells.rate.real.to(drive).flatten(), None
    if cells.is_complex:
        omega = cells.rate.imag.to(drive).flatten()
    if properties(cells.act_in).is_linear:
        decay = 1 - dt * rate if omega is None else torch.complex(1 - dt * rate, -dt * omega)
        return apply_linear_scan(dt * drive, decay, None, None, False, backend)[0]
    if omega is None:
        return apply_rnn_scan(drive, rate, None, None, dt, cells.act_in, backend, "auto")[0]
    return apply_paired_rnn_scan(drive, rate, omega, None, None, dt, cells.act_in, backend)[0]


def traffic(sequences: int, length: int, inputs: int, outputs: int, itemsize: int) -> int:
    """Bytes that a sweep must move for all models that are computed together: inputs and targets, read once."""
    return (inputs + outputs) * sequences * length * itemsize

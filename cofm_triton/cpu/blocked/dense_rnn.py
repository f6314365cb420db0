"""Dense nonlinear recurrence in plain PyTorch: one matrix product per step, in buffers that all steps reuse.

    z[t] = x[t] - weight @ h[t-1],   h[t] = h[t-1] + dt * act(z[t])

Runs on any device. Rows are updated in place, without autograd's bookkeeping.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cofm_triton.step.activation import activation, activation_slope


def forward(
    x: Tensor, weight: Tensor, h0: Tensor | None, resets: Tensor | None, *, reset_to: str,
    dt: float, nonlinearity: str, precision: str, keep: bool, state_dtype: torch.dtype, lanes: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`(h, h_last, slope)` with T >= 1: h (B, T, D) in x's dtype, h_last and slope in the state's.

    The slopes are (B, 0, D) unless kept; `precision` is PyTorch's own here, `torch.set_float32_matmul_precision`.
    """
    act = activation(nonlinearity)
    h = torch.empty_like(x, memory_format=torch.contiguous_format)
    z = x.to(state_dtype, copy=True) if keep else None
    drive = x.to(state_dtype)
    state = drive.new_zeros((x.shape[0], x.shape[2])) if h0 is None else h0.clone()
    start, row = torch.zeros_like(state) if reset_to == "zero" else state.clone(), torch.empty_like(state)
    for t in range(x.shape[1]):
        if resets is not None:
            state = torch.where(resets[:, t, None], start, state)
        torch.addmm(drive[:, t], state, weight.T, alpha=-1, out=row)
        if z is not None:
            z[:, t] = row
        state.add_(act(row), alpha=dt)
        h[:, t] = state
    slope = drive.new_empty((x.shape[0], 0, x.shape[2])) if z is None else activation_slope(nonlinearity)(z)
    return h, state, slope


def adjoint(
    grad_h: Tensor, grad_last: Tensor | None, slope: Tensor, weight: Tensor, resets: Tensor | None, *, reset_to: str,
    dt: float, precision: str, lanes: int = 1,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`(grad_x, grad_h0)` with T >= 1, (B, T, D) and (B, D) in the dtype of the slopes; `precision` as in `forward`."""
    grad_x = dt * slope
    mu = torch.zeros_like(slope[:, 0]) if grad_last is None else grad_last.clone()
    grad_h0 = torch.zeros_like(mu)
    for t in reversed(range(slope.shape[1])):
        mu.add_(grad_h[:, t])
        grad_x[:, t].mul_(mu)
        mu.addmm_(grad_x[:, t], weight, alpha=-1)
        if resets is not None:
            cut = resets[:, t, None]
            if reset_to == "h0":
                grad_h0 += torch.where(cut, mu, 0.0)
            mu.masked_fill_(cut, 0.0)
    return grad_x, grad_h0 + mu

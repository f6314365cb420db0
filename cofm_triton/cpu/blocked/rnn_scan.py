"""Diagonal nonlinear recurrence in plain PyTorch: forward row by row, backward in blocks of time.

The forward pass is sequential; its rows are updated in place, outside autograd. The adjoint is affine in its state: it
is the blocked linear scan, with the Jacobians as gates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cofm_triton.cpu.blocked import linear_scan
from cofm_triton.cpu.packed import spans, starts_of
from cofm_triton.step.activation import activation, activation_slope
from cofm_triton.step.step_rate import step_rate, step_rate_slope


def forward(
    x: Tensor, w: Tensor, h0: Tensor | None, seq_starts: Tensor | None, *,
    dt: float, nonlinearity: str, parameterization: str, discretization: str, state_dtype: torch.dtype,
    num_sms: int = 1, sequential: bool = False, resets: Tensor | None = None, reset_to: str = "h0",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`(h, h_last)` with T >= 1: h (B, T, D) in x's dtype, h_last (S, D) in the state's."""
    h = torch.empty_like(x, memory_format=torch.contiguous_format)
    act, rate = activation(nonlinearity), step_rate(w, dt, parameterization, discretization)
    lasts = []
    for rows, span in spans(starts_of(seq_starts), x.shape[1]):
        state = linear_scan.start_states(x, h0, rows, seq_starts, state_dtype)
        anew = state if reset_to == "h0" else torch.zeros_like(state)
        for t in range(span.start, span.stop):
            if resets is not None:
                state = torch.where(resets[:, t, None], anew, state)
            of_step = rate if rate.dim() == 1 else rate[:, t].to(state_dtype)
            state = torch.add(state, act(torch.addcmul(x[:, t].to(state_dtype), of_step, state, value=-1)), alpha=dt)
            h[:, t] = state
        lasts.append(state)
    return h, torch.cat(lasts)


def backward(
    grad_h: Tensor, grad_last: Tensor | None, x: Tensor, w: Tensor, h: Tensor, h0: Tensor | None,
    seq_starts: Tensor | None, *,
    dt: float, nonlinearity: str, parameterization: str, discretization: str, state_dtype: torch.dtype,
    num_sms: int = 1, resets: Tensor | None = None, reset_to: str = "h0",
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`(grad_x, grad_w, grad_h0)` with T >= 1; grad_w like w, grad_h0 (S, D) in the state's dtype."""
    slope_of, rate = activation_slope(nonlinearity), step_rate(w, dt, parameterization, discretization)
    grad_x = torch.empty_like(h)
    grad_rate = torch.zeros_like(rate)
    grad_starts = []
    for rows, span in spans(starts_of(seq_starts), x.shape[1]):
        end = linear_scan.start_states(x, grad_last, rows, seq_starts, state_dtype)
        if span.start == span.stop:
            grad_starts.append(end)
            continue
        start = linear_scan.start_states(x, h0, rows, seq_starts, state_dtype)
        before = h[:, span].to(state_dtype).roll(1, 1)
        before[:, 0] = start
        nothing, cut, cut_after = torch.zeros_like(end), None, None
        if resets is not None:
            cut, anew = resets[:, span], start if reset_to == "h0" else nothing
            before, cut_after = torch.where(cut.unsqueeze(2), anew.unsqueeze(1), before), cut.roll(-1, 1)
        of_steps = rate if rate.dim() == 1 else rate[:, span].to(state_dtype)
        slope = dt * slope_of(torch.addcmul(x[:, span].to(state_dtype), of_steps, before, value=-1))
        jacobian = 1 - of_steps * slope
        drive = grad_h[:, span].to(state_dtype, copy=True)
        drive[:, -1] += end
        # lambda[t] = drive[t] + J[t+1] lambda[t+1], without the latter where the sequence is cut between the two; what
        # wraps around meets a zero state.
        adjoint = linear_scan.scan(drive, jacobian.roll(-1, 1), nothing, True, state_dtype, cut_after, nothing)
        product = slope * adjoint
        grad_x[:, span] = product
        if rate.dim() == 1:
            grad_rate -= (product * before).sum((0, 1))
        else:
            grad_rate[:, span] = -product * before
        mu = jacobian * adjoint
        if cut is None:
            grad_starts.append(mu[:, 0])
        else:
            grad_starts.append(mu.masked_fill(~linear_scan.from_start(cut, 0, reset_to).unsqueeze(2), 0).sum(1))
    if w.dim() == 1:
        grad_rate = grad_rate * step_rate_slope(w, dt, parameterization, discretization)
    return grad_x, grad_rate, torch.cat(grad_starts)

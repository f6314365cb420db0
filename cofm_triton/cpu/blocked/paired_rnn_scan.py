"""Nonlinear recurrence of pairs of units in plain PyTorch, row by row in both directions.

    h[t] = h[t-1] + dt * act(z[t]),   z[t] = x[t] - pull * h[t-1] + turn * swap(h[t-1])

swap exchanges channels 2k and 2k + 1. Rows are updated in place, outside autograd. Slopes are formed for all rows at
once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cofm_triton.cpu.blocked.linear_scan import start_states
from cofm_triton.cpu.packed import spans, starts_of
from cofm_triton.step.activation import activation, activation_slope


def forward(
    x: Tensor, pull: Tensor, turn: Tensor, h0: Tensor | None, seq_starts: Tensor | None, *,
    dt: float, nonlinearity: str, state_dtype: torch.dtype, num_sms: int = 1, lanes: int = 1,
    sequential: bool = False, resets: Tensor | None = None, reset_to: str = "h0",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`(h, h_last)` with T >= 1: h (B, T, D) in x's dtype, h_last (S, D) in the state's."""
    h = torch.empty_like(x, memory_format=torch.contiguous_format)
    act = activation(nonlinearity)
    lasts = []
    for rows, span in spans(starts_of(seq_starts), x.shape[1]):
        state = start_states(x, h0, rows, seq_starts, state_dtype)
        anew = state if reset_to == "h0" else torch.zeros_like(state)
        for t in range(span.start, span.stop):
            if resets is not None:
                state = torch.where(resets[:, t, None], anew, state)
            z = _pre_activation(x[:, t].to(state_dtype), pull, turn, state)
            state = torch.add(state, act(z), alpha=dt)
            h[:, t] = state
        lasts.append(state)
    return h, torch.cat(lasts)


def backward(
    grad_h: Tensor, grad_last: Tensor | None, x: Tensor, pull: Tensor, turn: Tensor, h: Tensor, h0: Tensor | None,
    seq_starts: Tensor | None, *,
    dt: float, nonlinearity: str, state_dtype: torch.dtype, num_sms: int = 1, lanes: int = 1,
    resets: Tensor | None = None, reset_to: str = "h0",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """`(grad_x, grad_pull, grad_turn, grad_h0)` with T >= 1; (D,), (D,) and (S, D) in the state's dtype.

    `lambda[t] = g[t] + mu[t]`, `dx[t] = dt act'(z[t]) lambda[t]`,
    `mu[t-1] = lambda[t] - pull * dx[t] - turn * swap(dx[t])`.
    """
    slope_of = activation_slope(nonlinearity)
    grad_x = torch.empty_like(h)
    grad_pull, grad_turn = torch.zeros_like(pull), torch.zeros_like(turn)
    grad_starts = []
    for rows, span in spans(starts_of(seq_starts), x.shape[1]):
        mu = start_states(x, grad_last, rows, seq_starts, state_dtype)
        if span.start == span.stop:
            grad_starts.append(mu)
            continue
        start = start_states(x, h0, rows, seq_starts, state_dtype)
        before = h[:, span].to(state_dtype).roll(1, 1)
        before[:, 0] = start
        at_start, anew = torch.zeros_like(start), start if reset_to == "h0" else torch.zeros_like(start)
        if resets is not None:
            before = torch.where(resets[:, span].unsqueeze(2), anew.unsqueeze(1), before)
        slope = dt * slope_of(_pre_activation(x[:, span].to(state_dtype), pull, turn, before))
        for t in reversed(range(span.stop - span.start)):
            adjoint = grad_h[:, span.start + t].to(state_dtype) + mu
            product = slope[:, t].mul_(adjoint)  # the slope of a step is read once
            mu = torch.addcmul(torch.addcmul(adjoint, pull, product, value=-1), turn, _swap(product), value=-1)
            if resets is not None:
                cut = resets[:, span.start + t, None]
                at_start, mu = at_start + mu.masked_fill(~cut, 0), mu.masked_fill(cut, 0)
        grad_x[:, span] = slope
        grad_pull -= (slope * before).sum((0, 1))
        grad_turn += (slope * _swap(before)).sum((0, 1))
        grad_starts.append(mu + at_start if reset_to == "h0" else mu)
    return grad_x, grad_pull, grad_turn, torch.cat(grad_starts)


def _swap(row: Tensor) -> Tensor:
    return row.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)


def _pre_activation(x: Tensor, pull: Tensor, turn: Tensor, state: Tensor) -> Tensor:
    return torch.addcmul(torch.addcmul(x, pull, state, value=-1), turn, _swap(state))

"""Gated linear recurrence in plain PyTorch: gates are formed for all rows at once.

    h[t] = decay[t] v[t] + gain[t] x[t],   v[t] = h[t-1], of pairs cos h[t-1] + sin swap(h[t-1])

Without turns the rest is the linear scan in blocks of time; pairs that turn go row by row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cofm_triton.cpu.blocked import linear_scan
from cofm_triton.cpu.blocked.linear_scan import start_states
from cofm_triton.cpu.packed import spans, starts_of
from cofm_triton.step.gates import Gates, coefficients, gradients


def forward(
    x: Tensor, p: Tensor, q: Tensor | None, rate: Tensor, turn: Tensor | None, h0: Tensor | None,
    seq_starts: Tensor | None, *, gates: Gates, state_dtype: torch.dtype, resets: Tensor | None = None,
    reset_to: str = "h0", num_sms: int = 1, lanes: int = 1,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`(h, h_last)` with T >= 1: h (B, T, D) in x's dtype, h_last (S, D) in the state's."""
    decay, gain = coefficients(gates, rate, p.to(state_dtype), None if q is None else q.to(state_dtype))
    drive = gain * x.to(state_dtype)
    if turn is None:
        h, last = linear_scan.forward(
            drive, decay, h0, seq_starts, reverse=False, state_dtype=state_dtype, resets=resets, reset_to=reset_to
        )
        return h.to(x.dtype), last
    h, lasts = torch.empty_like(x, memory_format=torch.contiguous_format), []
    for rows, span in spans(starts_of(seq_starts), x.shape[1]):
        state = start_states(x, h0, rows, seq_starts, state_dtype)
        anew = state if reset_to == "h0" else torch.zeros_like(state)
        for t in range(span.start, span.stop):
            state = state if resets is None else torch.where(resets[:, t, None], anew, state)
            state = torch.addcmul(drive[:, t], decay[:, t], _turned(turn, state))
            h[:, t] = state
        lasts.append(state)
    return h, torch.cat(lasts)


def backward(
    grad_h: Tensor, grad_last: Tensor | None, x: Tensor, p: Tensor, q: Tensor | None, rate: Tensor,
    turn: Tensor | None, h: Tensor, h0: Tensor | None, seq_starts: Tensor | None, *,
    gates: Gates, state_dtype: torch.dtype, resets: Tensor | None = None, reset_to: str = "h0", num_sms: int = 1,
    lanes: int = 1,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor | None, Tensor]:  # fmt: skip
    """`(grad_x, grad_p, grad_q, grad_rate, grad_angle, grad_h0)` with T >= 1, see `ops/gated_rnn.py`.

    `lambda[t] = g[t] + mu[t]`, `mu[t-1] = R^T (decay[t] lambda[t])`.
    """
    wide_p, wide_q = p.to(state_dtype), None if q is None else q.to(state_dtype)
    decay, gain = coefficients(gates, rate, wide_p, wide_q)
    by_angle = None
    if turn is None:
        adjoint, by_decay, grad_h0 = linear_scan.backward(
            grad_h.to(state_dtype), grad_last, decay, h.to(state_dtype), h0, seq_starts,
            reverse=False, state_dtype=state_dtype, resets=resets, reset_to=reset_to,
        )  # fmt: skip
    else:
        adjoint, before, grad_h0 = _turned_adjoint(
            grad_h, grad_last, decay, turn, h, h0, seq_starts, resets, reset_to, state_dtype
        )
        turned = _turned(turn, before)
        by_decay = adjoint * turned
        even, odd = (decay * adjoint).unflatten(-1, (-1, 2)).unbind(-1)
        real, imaginary = turned.unflatten(-1, (-1, 2)).unbind(-1)
        by_angle = torch.stack((-even * imaginary, odd * real), -1).flatten(-2).sum((0, 1))
    by_gates = gradients(gates, rate, wide_p, wide_q, by_decay, adjoint * x.to(state_dtype))
    grad_q = None if q is None or by_gates.input_logit is None else by_gates.input_logit.to(q.dtype)
    grad_x, grad_rate = (gain * adjoint).to(x.dtype), by_gates.rate.sum((0, 1))
    return grad_x, by_gates.rate_logit.to(p.dtype), grad_q, grad_rate, by_angle, grad_h0


def _turned_adjoint(
    grad_h: Tensor, grad_last: Tensor | None, decay: Tensor, turn: Tensor, h: Tensor, h0: Tensor | None,
    seq_starts: Tensor | None, resets: Tensor | None, reset_to: str, state_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """lambda and h[t-1] (B, T, D), and mu before the first steps (S, D)."""
    adjoint, before, starts = torch.empty_like(decay), torch.empty_like(decay), []
    cos, sin = turn
    for rows, span in spans(starts_of(seq_starts), h.shape[1]):
        mu = start_states(h, grad_last, rows, seq_starts, state_dtype)
        start = start_states(h, h0, rows, seq_starts, state_dtype)
        of_pieces, anew = torch.zeros_like(mu), start if reset_to == "h0" else torch.zeros_like(start)
        if span.start < span.stop:
            before[:, span] = h[:, span].to(state_dtype).roll(1, 1)
            before[:, span.start] = start
        for t in reversed(range(span.start, span.stop)):
            adjoint[:, t] = grad_h[:, t].to(state_dtype) + mu
            decayed = decay[:, t] * adjoint[:, t]
            mu = cos * decayed + _swap(sin * decayed)
            if resets is not None:
                cut = resets[:, t, None]
                before[:, t] = torch.where(cut, anew, before[:, t])
                of_pieces = torch.where(cut, of_pieces + mu, of_pieces)
                mu = mu.masked_fill(cut, 0)
        starts.append(mu + of_pieces if reset_to == "h0" else mu)
    return adjoint, before, torch.cat(starts)


def _turned(turn: Tensor, h: Tensor) -> Tensor:
    return turn[0] * h + turn[1] * _swap(h)


def _swap(row: Tensor) -> Tensor:
    return row.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)

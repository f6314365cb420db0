"""Linear scan compiled for the CPU: all channels of a row at a time, so that memory is read as one stream.

Sequences are shared out to threads. Those that do not divide evenly are split in time: each thread first runs the
recurrence up to its part without storing it, a pass that only reads, and then does its part. Every state is computed by
the same operations in the same order as without the split.

The adjoint is written with mu, what arrives from later steps: `lambda[t] = g[t] + mu[t]`,
`mu[t-1] = conj(decay[t]) lambda[t]`, `dx = lambda`, `ddecay[t] = lambda[t] conj(h[t-1])`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from cofm_triton.cpu.jit.rows import OPTIONS, Rows, held_width, hold, load, numbers, release, row, store, with_rows
from cofm_triton.cpu.jit.schedule import Part, sequences, share
from cofm_triton.cpu.memory import empty

# Time of a step that is not stored over that of one that is: time-invariant, gated.
READ_COST = (0.4, 0.6)


def forward(
    x: Tensor, decay: Tensor, h0: Tensor | None, seq_starts: Tensor | None, *,
    reverse: bool, state_dtype: torch.dtype, num_sms: int = 1,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`(h, h_last)` with T >= 1: h (B, T, D) in x's dtype, h_last (S, D) in the state's."""
    dtype, x = x.dtype, with_rows(x)
    gated = decay.dim() == 3
    decay = with_rows(decay) if gated else decay.resolve_conj().contiguous()
    fixed = numbers(decay) if not gated else None
    h = empty(x.shape, x.dtype)
    width = held_width(h.shape[2])
    spans = sequences(seq_starts, x.shape[0], x.shape[1])
    starts = initial_states(h0, len(spans), x.shape[2], state_dtype)
    last = np.empty_like(starts)
    xs, hs, gates = Rows(x), Rows(h), Rows(decay) if gated else None

    def work(part: Part) -> None:
        span, state = spans[part.sequence], starts[part.sequence].copy()
        steps = part.end - part.begin
        if gates is None:
            _advance(width, *span.address(xs, 0, reverse), xs.sample, fixed, state, part.begin)
            _forward(
                width, *span.address(xs, part.begin, reverse), xs.sample,
                *span.address(hs, part.begin, reverse), hs.sample,
                fixed, state, steps,
            )  # fmt: skip
        else:
            _advance_gated(
                width, *span.address(xs, 0, reverse), xs.sample, *span.address(gates, 0, reverse), gates.sample,
                state, part.begin,
            )  # fmt: skip
            _forward_gated(
                width, *span.address(xs, part.begin, reverse), xs.sample,
                *span.address(gates, part.begin, reverse), gates.sample,
                *span.address(hs, part.begin, reverse), hs.sample, state, steps,
            )  # fmt: skip
        if part.end == span.length:
            last[part.sequence] = state

    share(work, [span.length for span in spans], x.shape[2], READ_COST[gated])
    return h.to(dtype), torch.from_numpy(last)


def backward(
    grad_h: Tensor, grad_last: Tensor | None, decay: Tensor, h: Tensor, h0: Tensor | None, seq_starts: Tensor | None, *,
    reverse: bool, state_dtype: torch.dtype, num_sms: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`(grad_x, grad_decay, grad_h0)` with T >= 1; a (D,) grad_decay and grad_h0 (S, D) in the state's dtype."""
    dtype, h, grad_h = h.dtype, with_rows(h), with_rows(grad_h)
    gated = decay.dim() == 3
    gate_dtype, conjugate = decay.dtype, decay.conj().resolve_conj()
    conjugate = with_rows(conjugate) if gated else conjugate.contiguous()
    fixed = numbers(conjugate) if not gated else None
    grad_x = empty(h.shape, h.dtype)
    grad_gates = empty(h.shape, conjugate.dtype) if gated else conjugate.new_empty(0)
    width = held_width(h.shape[2])
    spans = sequences(seq_starts, h.shape[0], h.shape[1])
    starts = initial_states(h0, len(spans), h.shape[2], state_dtype)
    ends = initial_states(grad_last, len(spans), h.shape[2], state_dtype)
    grad_h0 = np.empty_like(ends)
    gs, hs, dxs = Rows(grad_h), Rows(h), Rows(grad_x)
    gates, das = (Rows(conjugate), Rows(grad_gates)) if gated else (None, None)
    sums: dict[tuple[int, int], Any] = {}

    def work(part: Part) -> None:
        """Steps of the adjoint count from the end of the sequence."""
        span, mu = spans[part.sequence], ends[part.sequence].copy()
        begin, steps = part.begin, part.end - part.begin
        first = starts[part.sequence]
        # The earlier state of the adjoint's step k is the state at its step k + 1; the very last one is h0.
        inner = max(min(part.end, span.length - 1) - begin, 0)
        total = np.zeros_like(mu)
        before = span.address(hs, min(begin + 1, span.length - 1), not reverse)
        if gates is None or das is None:
            _adjoint_advance(width, *span.address(gs, 0, not reverse), gs.sample, fixed, mu, begin)
            _adjoint(
                width, *span.address(gs, begin, not reverse), gs.sample, *before, hs.sample,
                *span.address(dxs, begin, not reverse), dxs.sample,
                fixed, mu, first, total, inner, steps,
            )  # fmt: skip
            sums[part.sequence, begin] = total
        else:
            _adjoint_advance_gated(
                width, *span.address(gs, 0, not reverse), gs.sample, *span.address(gates, 0, not reverse), gates.sample,
                mu, begin,
            )  # fmt: skip
            _adjoint_gated(
                width, *span.address(gs, begin, not reverse), gs.sample, *before, hs.sample,
                *span.address(gates, begin, not reverse), gates.sample,
                *span.address(dxs, begin, not reverse), dxs.sample, *span.address(das, begin, not reverse), das.sample,
                mu, first, inner, steps,
            )  # fmt: skip
        if part.end == span.length:
            grad_h0[part.sequence] = mu

    share(work, [span.length for span in spans], h.shape[2], READ_COST[gated])
    grad_decay = grad_gates if gated else torch.from_numpy(np.stack([sums[key] for key in sorted(sums)]).sum(0))
    return grad_x.to(dtype), grad_decay.to(gate_dtype), torch.from_numpy(grad_h0)


def initial_states(states: Tensor | None, count: int, channels: int, state_dtype: torch.dtype) -> Any:
    """`(count, channels)` states as an array in the state's dtype, zeros when not given."""
    if states is None:
        states = torch.zeros((count, channels), dtype=state_dtype)
    return numbers(states.to(state_dtype).resolve_conj().contiguous())


@njit(**OPTIONS)
def _advance(width: Any, x: int, x_step: int, xk: Any, decay: Any, state: Any, steps: int) -> None:
    held, gates = hold(width, state), hold(width, decay)
    for t in range(steps):
        _advance_row(row(x + t * x_step, xk, held.size), gates, held)
    release(width, held, state)


@njit(forceinline=True, **OPTIONS)
def _advance_row(x: Any, decay: Any, state: Any) -> None:
    for d in range(state.size):
        state[d] = decay[d] * state[d] + load(x[d])


@njit(**OPTIONS)
def _advance_gated(
    width: Any, x: int, x_step: int, xk: Any, gate: int, gate_step: int, gk: Any, state: Any, steps: int
) -> None:
    held = hold(width, state)
    for t in range(steps):
        _advance_gated_row(row(x + t * x_step, xk, held.size), row(gate + t * gate_step, gk, held.size), held)
    release(width, held, state)


@njit(forceinline=True, **OPTIONS)
def _advance_gated_row(x: Any, gate: Any, state: Any) -> None:
    for d in range(state.size):
        state[d] = load(gate[d]) * state[d] + load(x[d])


@njit(**OPTIONS)
def _forward(
    width: Any, x: int, x_step: int, xk: Any, h: int, h_step: int, hk: Any, decay: Any, state: Any, steps: int
) -> None:
    held, gates = hold(width, state), hold(width, decay)
    for t in range(steps):
        _forward_row(row(x + t * x_step, xk, held.size), row(h + t * h_step, hk, held.size), gates, held)
    release(width, held, state)


@njit(forceinline=True, **OPTIONS)
def _forward_row(x: Any, h: Any, decay: Any, state: Any) -> None:
    for d in range(state.size):
        value = decay[d] * state[d] + load(x[d])
        state[d] = value
        h[d] = store(value, h)


@njit(**OPTIONS)
def _forward_gated(
    width: Any, x: int, x_step: int, xk: Any, gate: int, gate_step: int, gk: Any, h: int, h_step: int, hk: Any,
    state: Any, steps: int,
) -> None:  # fmt: skip
    held = hold(width, state)
    size = held.size
    for t in range(steps):
        _forward_gated_row(
            row(x + t * x_step, xk, size), row(gate + t * gate_step, gk, size), row(h + t * h_step, hk, size), held
        )
    release(width, held, state)


@njit(forceinline=True, **OPTIONS)
def _forward_gated_row(x: Any, gate: Any, h: Any, state: Any) -> None:
    for d in range(state.size):
        value = load(gate[d]) * state[d] + load(x[d])
        state[d] = value
        h[d] = store(value, h)


@njit(**OPTIONS)
def _adjoint_advance(width: Any, g: int, g_step: int, gk: Any, decay: Any, mu: Any, steps: int) -> None:
    held, gates = hold(width, mu), hold(width, decay)
    for t in range(steps):
        _adjoint_advance_row(row(g + t * g_step, gk, held.size), gates, held)
    release(width, held, mu)


@njit(forceinline=True, **OPTIONS)
def _adjoint_advance_row(g: Any, decay: Any, mu: Any) -> None:
    for d in range(mu.size):
        mu[d] = decay[d] * (load(g[d]) + mu[d])


@njit(**OPTIONS)
def _adjoint_advance_gated(
    width: Any, g: int, g_step: int, gk: Any, gate: int, gate_step: int, ak: Any, mu: Any, steps: int
) -> None:
    held = hold(width, mu)
    for t in range(steps):
        _adjoint_advance_gated_row(row(g + t * g_step, gk, held.size), row(gate + t * gate_step, ak, held.size), held)
    release(width, held, mu)


@njit(forceinline=True, **OPTIONS)
def _adjoint_advance_gated_row(g: Any, gate: Any, mu: Any) -> None:
    for d in range(mu.size):
        mu[d] = load(gate[d]) * (load(g[d]) + mu[d])


@njit(**OPTIONS)
def _adjoint(
    width: Any, g: int, g_step: int, gk: Any, before: int, before_step: int, hk: Any, dx: int, dx_step: int, dxk: Any,
    decay: Any, mu: Any, first: Any, total: Any, inner: int, steps: int,
) -> None:  # fmt: skip
    """The steps from `inner` on (one at most) have h[t-1] = first, the others find it `before_step` further."""
    held, gates, sums = hold(width, mu), hold(width, decay), hold(width, total)
    size = held.size
    for t in range(inner):
        _adjoint_row(
            row(g + t * g_step, gk, size), row(before + t * before_step, hk, size), row(dx + t * dx_step, dxk, size),
            gates, held, sums,
        )  # fmt: skip
    for t in range(inner, steps):
        _adjoint_row(row(g + t * g_step, gk, size), first, row(dx + t * dx_step, dxk, size), gates, held, sums)
    release(width, held, mu)
    release(width, sums, total)


@njit(forceinline=True, **OPTIONS)
def _adjoint_row(g: Any, before: Any, dx: Any, decay: Any, mu: Any, total: Any) -> None:
    for d in range(mu.size):
        adjoint = load(g[d]) + mu[d]
        mu[d] = decay[d] * adjoint
        total[d] += adjoint * np.conj(load(before[d]))
        dx[d] = store(adjoint, dx)


@njit(**OPTIONS)
def _adjoint_gated(
    width: Any, g: int, g_step: int, gk: Any, before: int, before_step: int, hk: Any, gate: int, gate_step: int,
    ak: Any, dx: int, dx_step: int, dxk: Any, da: int, da_step: int, dak: Any, mu: Any, first: Any, inner: int,
    steps: int,
) -> None:  # fmt: skip
    """As `_adjoint`, with a decay per step and its gradient written out."""
    held = hold(width, mu)
    size = held.size
    for t in range(inner):
        _adjoint_gated_row(
            row(g + t * g_step, gk, size), row(before + t * before_step, hk, size), row(gate + t * gate_step, ak, size),
            row(dx + t * dx_step, dxk, size), row(da + t * da_step, dak, size), held,
        )  # fmt: skip
    for t in range(inner, steps):
        _adjoint_gated_row(
            row(g + t * g_step, gk, size), first, row(gate + t * gate_step, ak, size),
            row(dx + t * dx_step, dxk, size), row(da + t * da_step, dak, size), held,
        )  # fmt: skip
    release(width, held, mu)


@njit(forceinline=True, **OPTIONS)
def _adjoint_gated_row(g: Any, before: Any, gate: Any, dx: Any, da: Any, mu: Any) -> None:
    for d in range(mu.size):
        adjoint = load(g[d]) + mu[d]
        mu[d] = load(gate[d]) * adjoint
        da[d] = store(adjoint * np.conj(load(before[d])), da)
        dx[d] = store(adjoint, dx)

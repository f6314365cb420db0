"""Linear scan compiled for the CPU: all channels of a row at a time, so that memory is read as one stream.

Sequences are shared out to threads. Those that do not divide evenly are split in time: each thread first runs the
recurrence up to its part without storing it, a pass that only reads, and then does its part. Every state is computed by
the same operations in the same order as without the split.

A decay that does not change over time is to these loops a gate whose rows all lie at one address. Rows of at most
`rows.MAX_HELD` channels are compiled for their width, with their state in registers; wider ones are done in blocks,
which leave past the cache where results are large.

The adjoint is written with mu, what arrives from later steps: `lambda[t] = g[t] + mu[t]`,
`mu[t-1] = conj(decay[t]) lambda[t]`, `dx = lambda`, `ddecay[t] = lambda[t] conj(h[t-1])`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from cofm_triton.cpu.jit.rows import (
    BLOCK,
    OPTIONS,
    Rows,
    block,
    block_at,
    held_width,
    hold,
    load,
    numbers,
    release,
    row,
    store,
    store_row,
    with_rows,
)
from cofm_triton.cpu.jit.schedule import Part, sequences, share
from cofm_triton.cpu.jit.streams import fence, stream, streams
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
    decay = with_rows(decay.resolve_conj().expand(x.shape))
    h = empty(x.shape, x.dtype)
    width = held_width(x.shape[2])
    spans = sequences(seq_starts, x.shape[0], x.shape[1])
    starts = initial_states(h0, len(spans), x.shape[2], state_dtype)
    last = np.empty_like(starts)
    xs, hs, gates = Rows(x), Rows(h), Rows(decay)
    streamed = streams(hs)

    def work(part: Part) -> None:
        span, state = spans[part.sequence], starts[part.sequence].copy()
        before = (*span.address(xs, 0, reverse), xs.sample, *span.address(gates, 0, reverse), gates.sample)
        given = (
            *span.address(xs, part.begin, reverse), xs.sample,
            *span.address(gates, part.begin, reverse), gates.sample,
        )  # fmt: skip
        result = (*span.address(hs, part.begin, reverse), hs.sample)
        steps = part.end - part.begin
        if part.begin and width:
            _advance_narrow(width, *before, state, part.begin)
        elif part.begin:
            _advance(*before, state, part.begin)
        if width:
            _forward_narrow(width, *given, *result, state, steps)
        else:
            _forward(*given, *result, streamed, state, steps)
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
    gated, gate_dtype = decay.dim() == 3, decay.dtype
    decay = with_rows(decay.conj().resolve_conj().expand(h.shape))
    grad_x = empty(h.shape, h.dtype)
    grad_gates = empty(h.shape, decay.dtype) if gated else decay.new_empty(0)
    width = held_width(h.shape[2])
    spans = sequences(seq_starts, h.shape[0], h.shape[1])
    starts = initial_states(h0, len(spans), h.shape[2], state_dtype)
    ends = initial_states(grad_last, len(spans), h.shape[2], state_dtype)
    grad_h0 = np.empty_like(ends)
    gs, hs, dxs, gates = Rows(grad_h), Rows(h), Rows(grad_x), Rows(decay)
    das = Rows(grad_gates) if gated else None
    streamed = streams(dxs) and (das is None or streams(das))
    sums: dict[tuple[int, int], Any] = {}

    def work(part: Part) -> None:
        """Steps of the adjoint count from the end of the sequence."""
        span, mu, first = spans[part.sequence], ends[part.sequence].copy(), starts[part.sequence]
        begin, steps, back = part.begin, part.end - part.begin, not reverse
        # The earlier state of the adjoint's step k is the state at its step k + 1; the very last one is h0.
        inner = max(min(part.end, span.length - 1) - begin, 0)
        later = (*span.address(gs, 0, back), gs.sample, *span.address(gates, 0, back), gates.sample)
        given = (
            *span.address(gs, begin, back), gs.sample,
            *span.address(hs, min(begin + 1, span.length - 1), back), hs.sample,
            *span.address(gates, begin, back), gates.sample,
            *span.address(dxs, begin, back), dxs.sample,
        )  # fmt: skip
        if begin and width:
            _adjoint_advance_narrow(width, *later, mu, begin)
        elif begin:
            _adjoint_advance(*later, mu, begin)
        if das is None:
            total = np.zeros_like(mu)
            if width:
                _adjoint_narrow(width, *given, mu, first, total, inner, steps)
            else:
                _adjoint(*given, streamed, mu, first, total, inner, steps)
            sums[part.sequence, begin] = total
        else:
            result = (*span.address(das, begin, back), das.sample)
            if width:
                _adjoint_gated_narrow(width, *given, *result, mu, first, inner, steps)
            else:
                _adjoint_gated(*given, *result, streamed, mu, first, inner, steps)
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


@njit(forceinline=True, **OPTIONS)
def _advance_row(x: Any, gate: Any, state: Any) -> None:
    for d in range(x.size):
        state[d] = load(gate[d]) * state[d] + load(x[d])


@njit(**OPTIONS)
def _advance_narrow(
    width: Any, x: int, x_step: int, xk: Any, gate: int, gate_step: int, gk: Any, state: Any, steps: int
) -> None:
    held = hold(width, state)
    for t in range(steps):
        _advance_row(row(x + t * x_step, xk, held.size), row(gate + t * gate_step, gk, held.size), held)
    release(width, held, state)


@njit(**OPTIONS)
def _advance(x: int, x_step: int, xk: Any, gate: int, gate_step: int, gk: Any, state: Any, steps: int) -> None:
    blocks = state.size // BLOCK
    whole = blocks * BLOCK
    rest = state.size - whole
    for t in range(steps):
        xt, at = x + t * x_step, gate + t * gate_step
        for k in range(blocks):
            c = block_at(k, blocks, x_step)
            _advance_row(block(xt, xk, c), block(at, gk, c), state[c : c + BLOCK])
        if rest:
            _advance_row(row(xt, xk, whole + rest)[whole:], row(at, gk, whole + rest)[whole:], state[whole:])


@njit(forceinline=True, **OPTIONS)
def _forward_row(x: Any, gate: Any, h: Any, state: Any) -> None:
    for d in range(x.size):
        value = load(gate[d]) * state[d] + load(x[d])
        state[d] = value
        h[d] = store(value, h)


@njit(**OPTIONS)
def _forward_narrow(
    width: Any, x: int, x_step: int, xk: Any, gate: int, gate_step: int, gk: Any, h: int, h_step: int, hk: Any,
    state: Any, steps: int,
) -> None:  # fmt: skip
    held = hold(width, state)
    size = held.size
    for t in range(steps):
        _advance_row(row(x + t * x_step, xk, size), row(gate + t * gate_step, gk, size), held)
        store_row(held, row(h + t * h_step, hk, size))
    release(width, held, state)


@njit(**OPTIONS)
def _forward(
    x: int, x_step: int, xk: Any, gate: int, gate_step: int, gk: Any, h: int, h_step: int, hk: Any, streamed: bool,
    state: Any, steps: int,
) -> None:  # fmt: skip
    blocks = state.size // BLOCK
    whole = blocks * BLOCK
    rest = state.size - whole
    gathered = np.empty(BLOCK, hk.dtype)
    for t in range(steps):
        xt, at, ht = x + t * x_step, gate + t * gate_step, h + t * h_step
        for k in range(blocks):
            c = block_at(k, blocks, x_step)
            if streamed:
                _forward_row(block(xt, xk, c), block(at, gk, c), gathered, state[c : c + BLOCK])
                stream(gathered, ht + c * hk.itemsize)
            else:
                _forward_row(block(xt, xk, c), block(at, gk, c), block(ht, hk, c), state[c : c + BLOCK])
        if rest:
            _forward_row(
                row(xt, xk, whole + rest)[whole:], row(at, gk, whole + rest)[whole:],
                row(ht, hk, whole + rest)[whole:], state[whole:],
            )  # fmt: skip
    fence()


@njit(forceinline=True, **OPTIONS)
def _adjoint_advance_row(g: Any, gate: Any, mu: Any) -> None:
    for d in range(g.size):
        mu[d] = load(gate[d]) * (load(g[d]) + mu[d])


@njit(**OPTIONS)
def _adjoint_advance_narrow(
    width: Any, g: int, g_step: int, gk: Any, gate: int, gate_step: int, ak: Any, mu: Any, steps: int
) -> None:
    held = hold(width, mu)
    for t in range(steps):
        _adjoint_advance_row(row(g + t * g_step, gk, held.size), row(gate + t * gate_step, ak, held.size), held)
    release(width, held, mu)


@njit(**OPTIONS)
def _adjoint_advance(g: int, g_step: int, gk: Any, gate: int, gate_step: int, ak: Any, mu: Any, steps: int) -> None:
    blocks = mu.size // BLOCK
    whole = blocks * BLOCK
    rest = mu.size - whole
    for t in range(steps):
        gt, at = g + t * g_step, gate + t * gate_step
        for k in range(blocks):
            c = block_at(k, blocks, g_step)
            _adjoint_advance_row(block(gt, gk, c), block(at, ak, c), mu[c : c + BLOCK])
        if rest:
            _adjoint_advance_row(row(gt, gk, whole + rest)[whole:], row(at, ak, whole + rest)[whole:], mu[whole:])


@njit(forceinline=True, **OPTIONS)
def _adjoint_row(g: Any, before: Any, gate: Any, dx: Any, mu: Any, total: Any) -> None:
    for d in range(g.size):
        adjoint = load(g[d]) + mu[d]
        mu[d] = load(gate[d]) * adjoint
        total[d] += adjoint * np.conj(load(before[d]))
        dx[d] = store(adjoint, dx)


@njit(**OPTIONS)
def _adjoint_narrow(
    width: Any, g: int, g_step: int, gk: Any, before: int, before_step: int, hk: Any, gate: int, gate_step: int,
    ak: Any, dx: int, dx_step: int, dxk: Any, mu: Any, first: Any, total: Any, inner: int, steps: int,
) -> None:  # fmt: skip
    """The steps from `inner` on (one at most) have h[t-1] = first, the others find it `before_step` further."""
    held, sums = hold(width, mu), hold(width, total)
    size = held.size
    for t in range(inner):
        _adjoint_row(
            row(g + t * g_step, gk, size), row(before + t * before_step, hk, size), row(gate + t * gate_step, ak, size),
            row(dx + t * dx_step, dxk, size), held, sums,
        )  # fmt: skip
    for t in range(inner, steps):
        _adjoint_row(
            row(g + t * g_step, gk, size), first, row(gate + t * gate_step, ak, size),
            row(dx + t * dx_step, dxk, size), held, sums,
        )  # fmt: skip
    release(width, held, mu)
    release(width, sums, total)


@njit(**OPTIONS)
def _adjoint(
    g: int, g_step: int, gk: Any, before: int, before_step: int, hk: Any, gate: int, gate_step: int, ak: Any,
    dx: int, dx_step: int, dxk: Any, streamed: bool, mu: Any, first: Any, total: Any, inner: int, steps: int,
) -> None:  # fmt: skip
    """As `_adjoint_narrow`."""
    size = mu.size
    blocks = size // BLOCK
    whole = blocks * BLOCK
    gathered = np.empty(BLOCK, dxk.dtype)
    for t in range(inner):
        gt, bt, at, dt = g + t * g_step, before + t * before_step, gate + t * gate_step, dx + t * dx_step
        for k in range(blocks):
            c = block_at(k, blocks, g_step)
            end = c + BLOCK
            if streamed:
                _adjoint_row(
                    block(gt, gk, c), block(bt, hk, c), block(at, ak, c), gathered, mu[c:end], total[c:end]
                )
                stream(gathered, dt + c * dxk.itemsize)
            else:
                _adjoint_row(
                    block(gt, gk, c), block(bt, hk, c), block(at, ak, c), block(dt, dxk, c), mu[c:end], total[c:end]
                )
        if size > whole:
            _adjoint_row(
                row(gt, gk, size)[whole:], row(bt, hk, size)[whole:], row(at, ak, size)[whole:],
                row(dt, dxk, size)[whole:], mu[whole:], total[whole:],
            )  # fmt: skip
    fence()
    for t in range(inner, steps):
        _adjoint_row(
            row(g + t * g_step, gk, size), first, row(gate + t * gate_step, ak, size),
            row(dx + t * dx_step, dxk, size), mu, total,
        )  # fmt: skip


@njit(forceinline=True, **OPTIONS)
def _adjoint_gated_row(g: Any, before: Any, gate: Any, dx: Any, da: Any, mu: Any) -> None:
    for d in range(g.size):
        adjoint = load(g[d]) + mu[d]
        mu[d] = load(gate[d]) * adjoint
        da[d] = store(adjoint * np.conj(load(before[d])), da)
        dx[d] = store(adjoint, dx)


@njit(**OPTIONS)
def _adjoint_gated_narrow(
    width: Any, g: int, g_step: int, gk: Any, before: int, before_step: int, hk: Any, gate: int, gate_step: int,
    ak: Any, dx: int, dx_step: int, dxk: Any, da: int, da_step: int, dak: Any, mu: Any, first: Any, inner: int,
    steps: int,
) -> None:  # fmt: skip
    """As `_adjoint_narrow`, with the gradient of each gate written out."""
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


@njit(**OPTIONS)
def _adjoint_gated(
    g: int, g_step: int, gk: Any, before: int, before_step: int, hk: Any, gate: int, gate_step: int, ak: Any,
    dx: int, dx_step: int, dxk: Any, da: int, da_step: int, dak: Any, streamed: bool, mu: Any, first: Any, inner: int,
    steps: int,
) -> None:  # fmt: skip
    """As `_adjoint_gated_narrow`."""
    size = mu.size
    blocks = size // BLOCK
    whole = blocks * BLOCK
    dxs, das = np.empty(BLOCK, dxk.dtype), np.empty(BLOCK, dak.dtype)
    for t in range(inner):
        gt, bt, at, dt = g + t * g_step, before + t * before_step, gate + t * gate_step, dx + t * dx_step
        ut = da + t * da_step
        for k in range(blocks):
            c = block_at(k, blocks, g_step)
            end = c + BLOCK
            if streamed:
                _adjoint_gated_row(block(gt, gk, c), block(bt, hk, c), block(at, ak, c), dxs, das, mu[c:end])
                stream(dxs, dt + c * dxk.itemsize)
                stream(das, ut + c * dak.itemsize)
            else:
                _adjoint_gated_row(
                    block(gt, gk, c), block(bt, hk, c), block(at, ak, c), block(dt, dxk, c), block(ut, dak, c),
                    mu[c:end],
                )  # fmt: skip
        if size > whole:
            _adjoint_gated_row(
                row(gt, gk, size)[whole:], row(bt, hk, size)[whole:], row(at, ak, size)[whole:],
                row(dt, dxk, size)[whole:], row(ut, dak, size)[whole:], mu[whole:],
            )  # fmt: skip
    fence()
    for t in range(inner, steps):
        _adjoint_gated_row(
            row(g + t * g_step, gk, size), first, row(gate + t * gate_step, ak, size),
            row(dx + t * dx_step, dxk, size), row(da + t * da_step, dak, size), mu,
        )  # fmt: skip

"""Gated linear recurrence compiled for the CPU: gates, products and recurrence of a row in one pass over memory.

    h[t] = decay[t] v[t] + gain[t] x[t],   v[t] = h[t-1], of pairs cos h[t-1] + sin swap(h[t-1])

Threads share the sequences, each of which is done whole: forming gates costs more than reading them, so that no thread
runs ahead through another one's part. Rows are done in blocks, with the state in memory; gates take so long that its
way through the cache does not show. A row is a function of its own, compiled once for whole blocks and once for what
they leave.

The adjoint: `lambda[t] = g[t] + mu[t]`, `mu[t-1] = R^T (decay[t] lambda[t])`. It reads h, forms the gates again, and
sums the gradients of rate and angle for each sequence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cofm_triton.cpu.allocator import empty
from cofm_triton.cpu.jit.compiled import entry, inner
from cofm_triton.cpu.jit.forward import initial_states
from cofm_triton.cpu.jit.gates import constant, formed, pulled
from cofm_triton.cpu.jit.region import each
from cofm_triton.cpu.jit.rows import BLOCK, Rows, aligned, block_at, numbers, with_rows
from cofm_triton.cpu.jit.schedule import plan
from cofm_triton.cpu.jit.streams import fence, streams
from cofm_triton.cpu.jit.threads import launch, workers
from cofm_triton.cpu.jit.vectors import load, store, swap
from cofm_triton.cpu.packed import Pieces, cuts_of, pieces
from cofm_triton.step.gates import Gates


def forward(
    x: Tensor, p: Tensor, q: Tensor | None, rate: Tensor, turn: Tensor | None, h0: Tensor | None,
    seq_starts: Tensor | Pieces | None, *, gates: Gates, state_dtype: torch.dtype, resets: Tensor | None = None,
    reset_to: str = "h0", num_sms: int = 1, lanes: int = 1,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`(h, h_last)` with T >= 1: h (B, T, D) in x's dtype, h_last (S, D) in the state's."""
    if resets is not None and not isinstance(seq_starts, Pieces):
        cut = pieces(resets, seq_starts, reverse=False, reset_to=reset_to)
        h, last = forward(x, p, q, rate, turn, cut.starts(h0), cut, gates=gates, state_dtype=state_dtype)
        return h, last[cut.last]
    dtype, read = x.dtype, _rows(x, p, q)
    batch, length, channels = x.shape
    h = empty(x.shape, read[0].tensor.dtype)
    parts = plan(batch, length, cuts_of(seq_starts), channels, None, workers())
    states = initial_states(h0, parts.sequence, channels, state_dtype)
    tensors = [*read, Rows(h)]
    launch(
        _forward, parts.threads, len(states), constant(gates.name), flag(turn is not None), left_over(channels),
        *parts.walk(tensors, False), streams(tensors[-1]), states, _coefficients(rate, turn),
    )  # fmt: skip
    return h.to(dtype), torch.from_numpy(states[parts.last])


def backward(
    grad_h: Tensor, grad_last: Tensor | None, x: Tensor, p: Tensor, q: Tensor | None, rate: Tensor,
    turn: Tensor | None, h: Tensor, h0: Tensor | None, seq_starts: Tensor | Pieces | None, *,
    gates: Gates, state_dtype: torch.dtype, resets: Tensor | None = None, reset_to: str = "h0", num_sms: int = 1,
    lanes: int = 1,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor | None, Tensor]:  # fmt: skip
    """`(grad_x, grad_p, grad_q, grad_rate, grad_angle, grad_h0)` with T >= 1, see `ops/gated_rnn.py`."""
    if resets is not None and not isinstance(seq_starts, Pieces):
        cut = pieces(resets, seq_starts, reverse=False, reset_to=reset_to)
        given, start = cut.ends(grad_last), cut.starts(h0)
        found = backward(grad_h, given, x, p, q, rate, turn, h, start, cut, gates=gates, state_dtype=state_dtype)
        return *found[:5], cut.sum_at_start(found[5])
    dtype, read = x.dtype, [*_rows(x, p, q), Rows(with_rows(grad_h)), Rows(with_rows(h))]
    batch, length, channels = x.shape
    grads = [empty(x.shape, read[0].tensor.dtype) for _ in range(2 if q is None else 3)]
    tensors = [*read, *(Rows(grads[i]) for i in (0, 1, -1))]  # without q, nothing is written to the last one
    parts = plan(batch, length, cuts_of(seq_starts), channels, None, workers())
    mus = initial_states(grad_last, parts.sequence, channels, state_dtype)
    # The earlier state of the adjoint's step k is the state at its step k + 1; the very last one is h0.
    firsts = initial_states(h0, parts.sequence, channels, state_dtype)
    rates, angles = (initial_states(None, parts.sequence, channels, state_dtype) for _ in range(2))
    launch(
        _backward, parts.threads, len(mus), constant(gates.name), flag(turn is not None), flag(q is not None),
        left_over(channels), *parts.walk(tensors, True), all(map(streams, tensors[5:])), mus, firsts, parts.inner,
        _coefficients(rate, turn), rates, angles,
    )  # fmt: skip
    grad_x, grad_p, *grad_q = (grad.to(dtype) for grad in grads)
    grad_rate, grad_angle = torch.from_numpy(parts.total(rates)), None
    if turn is not None:
        grad_angle = torch.from_numpy(parts.total(angles))
        grad_angle[0::2].neg_()
    return grad_x, grad_p, grad_q[0] if grad_q else None, grad_rate, grad_angle, torch.from_numpy(mus[parts.last])


def _rows(x: Tensor, p: Tensor, q: Tensor | None) -> list[Rows]:
    """Of x and both logits; p stands in for a q that does not count."""
    return [Rows(with_rows(tensor)) for tensor in (x, p, p if q is None else q)]


def _coefficients(rate: Tensor, turn: Tensor | None) -> Any:
    """Rows rate, cos and sin, (3, D); the latter are not read where nothing turns."""
    rows = aligned((3, len(rate)), numbers(rate).dtype)
    rows[0] = numbers(rate)
    rows[1:] = 0 if turn is None else numbers(turn)
    return rows


def flag(is_set: bool) -> tuple[int, ...]:
    """A tuple whose length compiled code knows."""
    return (0,) * is_set


def left_over(channels: int) -> tuple[int, ...]:
    """A tuple as long as what whole blocks leave of a row, and not used where that is nothing."""
    return (0,) * (channels % len(BLOCK) or 1)


@inner
def _forward_row(
    kind: Any, turning: Any, lanes: Any, begin: int, end: int, x: int, xk: Any, p: int, pk: Any, q: int, qk: Any,
    h: int, hk: Any, streamed: bool, state: int, sk: Any, coefficients: int, row: int,
) -> None:  # fmt: skip
    for k in range((end - begin) // len(lanes)):
        c = begin + k * len(lanes)
        at = c * sk.itemsize
        before, rate = load(lanes, state + at, sk), load(lanes, coefficients + at, sk)
        if len(turning) == 1:
            cos, sin = load(lanes, coefficients + row + at, sk), load(lanes, coefficients + 2 * row + at, sk)
            before = cos * before + sin * swap(before)
        decay, gain = formed(kind, rate, load(lanes, p + c * pk.itemsize, pk), load(lanes, q + c * qk.itemsize, qk))
        value = decay * before + gain * load(lanes, x + c * xk.itemsize, xk)
        store(value, state + at, sk, False)
        store(value, h + c * hk.itemsize, hk, streamed)


@inner
def _forward_part(
    i: int, kind: Any, turning: Any, lanes: Any, places: Any, begins: Any, counts: Any, x_step: int, xk: Any,
    p_step: int, pk: Any, q_step: int, qk: Any, h_step: int, hk: Any, streamed: bool, states: Any, coefficients: Any,
) -> None:  # fmt: skip
    (x, p, q, h), state = (places[i, 0], places[i, 1], places[i, 2], places[i, 3]), states[i]
    size = state.size
    wide, row = size - size % len(BLOCK), size * state.itemsize
    for t in range(counts[i]):
        rows = (
            x + t * x_step, xk, p + t * p_step, pk, q + t * q_step, qk, h + t * h_step, hk, streamed,
            state.ctypes.data, state, coefficients.ctypes.data, row,
        )  # fmt: skip
        _forward_row(kind, turning, BLOCK, 0, wide, *rows)
        _forward_row(kind, turning, lanes, wide, size, *rows)
    fence()


@inner
def _backward_row(
    kind: Any, turning: Any, second: Any, lanes: Any, begin: int, end: int, step: int, x: int, xk: Any, p: int,
    pk: Any, q: int, qk: Any, g: int, gk: Any, before: int, hk: Any, dx: int, dp: int, dq: int, dk: Any,
    streamed: bool, mu: int, sk: Any, coefficients: int, row: int, rates: int, angles: int,
) -> None:  # fmt: skip
    for k in range((end - begin) // len(lanes)):
        c = block_at(k, lanes, begin, end, step)
        at, to = c * sk.itemsize, c * dk.itemsize
        adjoint = load(lanes, g + c * gk.itemsize, gk) + load(lanes, mu + at, sk)
        rate, earlier = load(lanes, coefficients + at, sk), load(lanes, before + c * hk.itemsize, hk)
        cos, sin = rate, rate
        if len(turning) == 1:
            cos, sin = load(lanes, coefficients + row + at, sk), load(lanes, coefficients + 2 * row + at, sk)
            earlier = cos * earlier + sin * swap(earlier)
        logits = load(lanes, p + c * pk.itemsize, pk), load(lanes, q + c * qk.itemsize, qk)
        given = load(lanes, x + c * xk.itemsize, xk)
        decay, gain, by_p, by_q, by_rate = pulled(
            kind, rate, logits[0], logits[1], adjoint * earlier, adjoint * given
        )  # fmt: skip
        store(adjoint * gain, dx + to, dk, streamed)
        store(by_p, dp + to, dk, streamed)
        if len(second) == 1:
            store(by_q, dq + to, dk, streamed)
        store(load(lanes, rates + at, sk) + by_rate, rates + at, sk, False)
        decayed = decay * adjoint
        if len(turning) == 1:
            store(load(lanes, angles + at, sk) + decayed * swap(earlier), angles + at, sk, False)
            decayed = cos * decayed + swap(sin * decayed)
        store(decayed, mu + at, sk, False)


@inner
def _backward_part(
    i: int, kind: Any, turning: Any, second: Any, lanes: Any, places: Any, begins: Any, counts: Any, x_step: int,
    xk: Any, p_step: int, pk: Any, q_step: int, qk: Any, g_step: int, gk: Any, h_step: int, hk: Any, d_step: int,
    dk: Any, _p_step: int, _pk: Any, _q_step: int, _qk: Any, streamed: bool, mus: Any, firsts: Any, inner: Any,
    coefficients: Any, rates: Any, angles: Any,
) -> None:  # fmt: skip
    """h[t-1] of step t is the next row of h, that of steps from `inner` on (one at most) is in `firsts`."""
    x, p, q, g, h = places[i, 0], places[i, 1], places[i, 2], places[i, 3], places[i, 4]
    dx, dp, dq = places[i, 5], places[i, 6], places[i, 7]
    mu, first = mus[i], firsts[i]
    size = mu.size
    wide, row = size - size % len(BLOCK), size * mu.itemsize
    sums = (
        mu.ctypes.data, mu, coefficients.ctypes.data, row, rates[i].ctypes.data, angles[i].ctypes.data,
    )  # fmt: skip
    for t in range(counts[i]):
        read = (x_step, x + t * x_step, xk, p + t * p_step, pk, q + t * q_step, qk, g + t * g_step, gk)
        to = (dx + t * d_step, dp + t * d_step, dq + t * d_step, dk)
        if t < inner[i]:
            rows = (*read, h + (t + 1) * h_step, hk, *to, streamed, *sums)
            _backward_row(kind, turning, second, BLOCK, 0, wide, *rows)
            _backward_row(kind, turning, second, lanes, wide, size, *rows)
        else:
            last = (*read, first.ctypes.data, first, *to, streamed, *sums)
            _backward_row(kind, turning, second, BLOCK, 0, wide, *last)
            _backward_row(kind, turning, second, lanes, wide, size, *last)
    fence()


@entry
def _forward(entry: int, first: int, threads: int, count: int, rest: Any) -> None:
    each(entry, first, threads, count, _forward_part, rest)


@entry
def _backward(entry: int, first: int, threads: int, count: int, rest: Any) -> None:
    each(entry, first, threads, count, _backward_part, rest)

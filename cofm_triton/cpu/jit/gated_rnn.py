"""Gated linear recurrence compiled for the CPU: gates, products and recurrence in one pass over memory.

    h[t] = decay[t] v[t] + gain[t] x[t],   v[t] = h[t-1], of pairs cos h[t-1] + sin swap(h[t-1])

Gates take more time than the recurrence, and do not wait for it. So they are formed for whole vectors: of several
narrow rows at a time, which the recurrence then walks within the registers (`walk.py`), or of blocks of a wide row,
with the state in memory. Threads share the sequences, each of which is done whole: forming gates costs more than
reading them, so that no thread runs ahead through another one's part.

The adjoint: `lambda[t] = g[t] + mu[t]`, `mu[t-1] = R^T (decay[t] lambda[t])`. It reads h and forms the gates again.
Gradients are lambda times factors that do not depend on it. Those of rate and angle are summed for each sequence.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numba.extending import overload
from torch import Tensor

from cofm_triton.cpu.allocator import empty
from cofm_triton.cpu.jit.compiled import INLINED, entry, inlined, inner
from cofm_triton.cpu.jit.forward import initial_states
from cofm_triton.cpu.jit.gates import constant, formed, pulled
from cofm_triton.cpu.jit.region import each
from cofm_triton.cpu.jit.rows import Rows, aligned, block_at, numbers, with_rows
from cofm_triton.cpu.jit.schedule import plan
from cofm_triton.cpu.jit.streams import fence, streams
from cofm_triton.cpu.jit.threads import launch, workers
from cofm_triton.cpu.jit.vectors import load, size_of, store, swap
from cofm_triton.cpu.jit.walk import walk, walk_back
from cofm_triton.cpu.packed import Pieces, cuts_of, pieces
from cofm_triton.step.gates import Gates

# Bytes of numbers that are done together: four wide registers, so that operations on one fill the waits of others.
BLOCK_BYTES = 256


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
    group, lanes_left = _lanes(tensors, state_dtype)
    launch(
        _forward_wide if len(group) < channels else _forward, parts.threads, len(states), constant(gates.name),
        flag(turn is not None), group, lanes_left, *parts.walk(tensors, False), streams(tensors[-1]), states,
        _coefficients(rate, turn, len(group)),
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
    dtype, read = x.dtype, [*_rows(x, p, q), Rows(with_rows(h)), Rows(with_rows(grad_h))]
    batch, length, channels = x.shape
    grads = [empty(x.shape, read[0].tensor.dtype) for _ in range(2 if q is None else 3)]
    tensors = [*read, *(Rows(grads[i]) for i in (0, 1, -1))]  # without q, nothing is written to the last one
    parts = plan(batch, length, cuts_of(seq_starts), channels, None, workers())
    mus = initial_states(grad_last, parts.sequence, channels, state_dtype)
    # The earlier state of the adjoint's step k is the state at its step k + 1; the very last one is h0.
    firsts = initial_states(h0, parts.sequence, channels, state_dtype)
    group, lanes_left = _lanes(tensors, state_dtype)
    width = max(channels, len(group))
    rates, angles = (initial_states(None, parts.sequence, width, state_dtype) for _ in range(2))
    launch(
        _backward_wide if len(group) < channels else _backward, parts.threads, len(mus), constant(gates.name),
        flag(turn is not None), flag(q is not None), group, lanes_left, *parts.walk(tensors, True),
        all(map(streams, tensors[5:])), mus, firsts, parts.inner, _coefficients(rate, turn, len(group)), rates, angles,
    )  # fmt: skip
    grad_x, grad_p, *grad_q = (grad.to(dtype) for grad in grads)
    grad_rate, grad_angle = (torch.from_numpy(parts.total(sums)).view(-1, channels).sum(0) for sums in (rates, angles))
    if turn is not None:
        grad_angle[0::2].neg_()
    grad_h0 = torch.from_numpy(mus[parts.last])
    return grad_x, grad_p, grad_q[0] if grad_q else None, grad_rate, None if turn is None else grad_angle, grad_h0


def _rows(x: Tensor, p: Tensor, q: Tensor | None) -> list[Rows]:
    """Of x and both logits; p stands in for a q that does not count."""
    return [Rows(with_rows(tensor)) for tensor in (x, p, p if q is None else q)]


def _lanes(tensors: list[Rows], state_dtype: torch.dtype) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tuples as long as what is done together, and as what is left over: of narrow rows, several and one; of wide ones,
    a block and what blocks leave (not used where that is nothing).
    """
    channels, most = tensors[0].tensor.shape[2], BLOCK_BYTES // state_dtype.itemsize
    if channels > most:
        return (0,) * most, (0,) * (channels % most or 1)
    follows = all(rows.step == channels * rows.tensor.itemsize for rows in tensors)
    return (0,) * (channels * (most // channels if follows else 1)), (0,) * channels


def _coefficients(rate: Tensor, turn: Tensor | None, together: int) -> Any:
    """Rates, cos and sin of numbers that are done together; the latter are not read where nothing turns."""
    rows = max(together // len(rate), 1)
    found = aligned((3, rows, len(rate)), numbers(rate).dtype)
    found[0] = numbers(rate) * (1 / math.log(2))
    found[1:] = 0 if turn is None else numbers(turn)[:, None]
    return found.reshape(3, -1)


def flag(is_set: bool) -> tuple[int, ...]:
    """A tuple whose length compiled code knows."""
    return (0,) * is_set


@inlined
def _turn(turning: Any, lanes: Any, turns: int, step: int, sk: Any, like: Any) -> Any:
    """cos and sin at an address and `step` bytes after it, or anything where nothing turns."""
    if len(turning) == 1:
        return load(lanes, turns, sk), load(lanes, turns + step, sk)
    return like, like


@inlined
def _forward_step(
    kind: Any, turning: Any, lanes: Any, held: Any, cos: Any, sin: Any, x: int, xk: Any, p: int, pk: Any, q: int,
    qk: Any, rates: int, sk: Any, h: int, hk: Any, streamed: bool,
) -> Any:  # fmt: skip
    """The state after the rows in the vectors at these addresses."""
    decay, gain = formed(kind, load(lanes, rates, sk), load(lanes, p, pk), load(lanes, q, qk))
    states, held = walk(decay, gain * load(lanes, x, xk), held, cos, sin, turning)
    store(states, h, hk, streamed)
    return held


@inner
def _forward_part(
    i: int, kind: Any, turning: Any, group: Any, lanes: Any, places: Any, begins: Any, counts: Any, x_step: int,
    xk: Any, p_step: int, pk: Any, q_step: int, qk: Any, h_step: int, hk: Any, streamed: bool, states: Any,
    coefficients: Any,
) -> None:  # fmt: skip
    """Narrow rows, several at a time, then one by one."""
    (x, p, q, h), state = (places[i, 0], places[i, 1], places[i, 2], places[i, 3]), states[i]
    rates, row, rows = coefficients.ctypes.data, coefficients.shape[1] * size_of(state), len(group) // len(lanes)
    held = load(lanes, state.ctypes.data, state)
    cos, sin = _turn(turning, lanes, rates + row, row, state, held)
    grouped = counts[i] - counts[i] % rows
    for t in range(0, grouped, rows):
        held = _forward_step(
            kind, turning, group, held, cos, sin, x + t * x_step, xk, p + t * p_step, pk, q + t * q_step, qk, rates,
            state, h + t * h_step, hk, streamed,
        )  # fmt: skip
    for t in range(grouped, counts[i]):
        held = _forward_step(
            kind, turning, lanes, held, cos, sin, x + t * x_step, xk, p + t * p_step, pk, q + t * q_step, qk, rates,
            state, h + t * h_step, hk, streamed,
        )  # fmt: skip
    store(held, state.ctypes.data, state, False)
    fence()


@inlined
def _forward_blocks(
    kind: Any, turning: Any, lanes: Any, begin: int, end: int, x: int, xk: Any, p: int, pk: Any, q: int, qk: Any,
    h: int, hk: Any, streamed: bool, state: int, sk: Any, rates: int, row: int,
) -> None:  # fmt: skip
    for c in range(begin, end, len(lanes)):
        at = c * size_of(sk)
        held = load(lanes, state + at, sk)
        cos, sin = _turn(turning, lanes, rates + row + at, row, sk, held)
        held = _forward_step(
            kind, turning, lanes, held, cos, sin, x + c * size_of(xk), xk, p + c * size_of(pk), pk, q + c * size_of(qk),
            qk, rates + at, sk, h + c * size_of(hk), hk, streamed,
        )  # fmt: skip
        store(held, state + at, sk, False)


@inner
def _forward_wide_part(
    i: int, kind: Any, turning: Any, block: Any, lanes: Any, places: Any, begins: Any, counts: Any, x_step: int,
    xk: Any, p_step: int, pk: Any, q_step: int, qk: Any, h_step: int, hk: Any, streamed: bool, states: Any,
    coefficients: Any,
) -> None:  # fmt: skip
    """Wide rows, block by block."""
    (x, p, q, h), state = (places[i, 0], places[i, 1], places[i, 2], places[i, 3]), states[i]
    rates, size, at = coefficients.ctypes.data, state.size, state.ctypes.data
    row, wide = size * size_of(state), size - size % len(block)
    for t in range(counts[i]):
        rows = x + t * x_step, xk, p + t * p_step, pk, q + t * q_step, qk, h + t * h_step, hk, streamed
        _forward_blocks(kind, turning, block, 0, wide, *rows, at, state, rates, row)
        _forward_blocks(kind, turning, lanes, wide, size, *rows, at, state, rates, row)
    fence()


@inlined
def _backward_step(
    kind: Any, turning: Any, second: Any, lanes: Any, held: Any, sums: Any, turned: Any, cos: Any, sin: Any, x: int,
    xk: Any, p: int, pk: Any, q: int, qk: Any, earlier: Any, g: int, gk: Any, dx: int, dp: int, dq: int, dk: Any,
    streamed: bool, rates: int, row: int, sk: Any,
) -> Any:  # fmt: skip
    """mu before the rows in the vectors at these addresses, and both sums with them; cos and sin turn back."""
    if len(turning) == 1:
        cosines, sines = _turn(turning, lanes, rates + row, row, sk, earlier)
        earlier = cosines * earlier + sines * swap(earlier)
    decay, gain, by_p, by_q, by_rate = pulled(
        kind, load(lanes, rates, sk), load(lanes, p, pk), load(lanes, q, qk), earlier, load(lanes, x, xk)
    )
    given = load(lanes, g, gk)
    mus, held = walk_back(decay, decay * given, held, cos, sin, turning)
    adjoint = given + mus
    store(adjoint * gain, dx, dk, streamed)
    store(adjoint * by_p, dp, dk, streamed)
    if len(second) == 1:
        store(adjoint * by_q, dq, dk, streamed)
    if len(turning) == 1:
        turned = turned + adjoint * decay * swap(earlier)
    return held, sums + adjoint * by_rate, turned


def _earlier(lanes: Any, has_row: bool, h: int, hk: Any, first: int, sk: Any) -> Any:
    """h[t-1], from its row or, before the first step, from where a sequence starts."""
    raise TypeError("compiled code only")


@overload(_earlier, jit_options=INLINED)
def _earlier_overload(lanes: Any, has_row: Any, h: Any, hk: Any, first: Any, sk: Any) -> Any:
    def by_address(lanes: Any, has_row: Any, h: Any, hk: Any, first: Any, sk: Any) -> Any:
        return load(lanes, h if has_row else np.int64(first), hk)

    def by_branch(lanes: Any, has_row: Any, h: Any, hk: Any, first: Any, sk: Any) -> Any:
        return load(lanes, h, hk) if has_row else load(lanes, first, sk)

    return by_address if hk.dtype == sk.dtype else by_branch  # a branch in the loop may cost more than its arithmetic


@inner
def _backward_part(
    i: int, kind: Any, turning: Any, second: Any, group: Any, lanes: Any, places: Any, begins: Any, counts: Any,
    x_step: int, xk: Any, p_step: int, pk: Any, q_step: int, qk: Any, h_step: int, hk: Any, g_step: int, gk: Any,
    d_step: int, dk: Any, _p_step: int, _pk: Any, _q_step: int, _qk: Any, streamed: bool, mus: Any, firsts: Any,
    inner: Any, coefficients: Any, rates: Any, angles: Any,
) -> None:  # fmt: skip
    """h[t-1] of step t is the next row of h, that of steps from `inner` on (one at most) is in `firsts`."""
    x, p, q, h, g = places[i, 0], places[i, 1], places[i, 2], places[i, 3], places[i, 4]
    dx, dp, dq = places[i, 5], places[i, 6], places[i, 7]
    mu, first, rate, angle = mus[i], firsts[i].ctypes.data, rates[i].ctypes.data, angles[i].ctypes.data
    given, row, rows = coefficients.ctypes.data, coefficients.shape[1] * size_of(mu), len(group) // len(lanes)
    held = load(lanes, mu.ctypes.data, mu)
    cos, sin = _turn(turning, lanes, given + row, row, mu, held)
    sin = swap(sin)
    grouped = inner[i] - inner[i] % rows
    sums, turned = load(group, rate, mu), load(group, angle, mu)
    for t in range(0, grouped, rows):
        end = t + rows - 1  # where the lowest addresses are
        held, sums, turned = _backward_step(
            kind, turning, second, group, held, sums, turned, cos, sin, x + end * x_step, xk, p + end * p_step, pk,
            q + end * q_step, qk, load(group, h + (end + 1) * h_step, hk), g + end * g_step, gk, dx + end * d_step,
            dp + end * d_step, dq + end * d_step, dk, streamed, given, row, mu,
        )  # fmt: skip
    store(sums, rate, mu, False)
    store(turned, angle, mu, False)
    few, turn = load(lanes, rate, mu), load(lanes, angle, mu)
    for t in range(grouped, counts[i]):
        earlier = _earlier(lanes, t < inner[i], h + (t + 1) * h_step, hk, first, mu)
        held, few, turn = _backward_step(
            kind, turning, second, lanes, held, few, turn, cos, sin, x + t * x_step, xk, p + t * p_step, pk,
            q + t * q_step, qk, earlier, g + t * g_step, gk, dx + t * d_step, dp + t * d_step, dq + t * d_step, dk,
            streamed, given, row, mu,
        )  # fmt: skip
    store(few, rate, mu, False)
    store(turn, angle, mu, False)
    store(held, mu.ctypes.data, mu, False)
    fence()


@inlined
def _backward_blocks(
    kind: Any, turning: Any, second: Any, lanes: Any, begin: int, end: int, step: int, x: int, xk: Any, p: int,
    pk: Any, q: int, qk: Any, before: int, hk: Any, g: int, gk: Any, dx: int, dp: int, dq: int,
    dk: Any, streamed: bool, mu: int, rate: int, angle: int, given: int, row: int, sk: Any,
) -> None:  # fmt: skip
    for k in range((end - begin) // len(lanes)):
        c = block_at(k, lanes, begin, end, step)
        at, to = c * size_of(sk), c * size_of(dk)
        held, sums, turned = load(lanes, mu + at, sk), load(lanes, rate + at, sk), load(lanes, angle + at, sk)
        cos, sin = _turn(turning, lanes, given + row + at, row, sk, held)
        held, sums, turned = _backward_step(
            kind, turning, second, lanes, held, sums, turned, cos, swap(sin), x + c * size_of(xk), xk,
            p + c * size_of(pk), pk, q + c * size_of(qk), qk,
            load(lanes, before + c * size_of(hk), hk), g + c * size_of(gk), gk, dx + to,
            dp + to, dq + to, dk, streamed, given + at, row, sk,
        )  # fmt: skip
        store(held, mu + at, sk, False)
        store(sums, rate + at, sk, False)
        if len(turning) == 1:
            store(turned, angle + at, sk, False)


@inner
def _backward_wide_part(
    i: int, kind: Any, turning: Any, second: Any, block: Any, lanes: Any, places: Any, begins: Any, counts: Any,
    x_step: int, xk: Any, p_step: int, pk: Any, q_step: int, qk: Any, h_step: int, hk: Any, g_step: int, gk: Any,
    d_step: int, dk: Any, _p_step: int, _pk: Any, _q_step: int, _qk: Any, streamed: bool, mus: Any, firsts: Any,
    inner: Any, coefficients: Any, rates: Any, angles: Any,
) -> None:  # fmt: skip
    """As `_backward_part`, for wide rows, block by block."""
    x, p, q, h, g = places[i, 0], places[i, 1], places[i, 2], places[i, 3], places[i, 4]
    dx, dp, dq = places[i, 5], places[i, 6], places[i, 7]
    mu, first, rate, angle = mus[i], firsts[i], rates[i].ctypes.data, angles[i].ctypes.data
    given, size, at = coefficients.ctypes.data, mu.size, mu.ctypes.data
    row, wide = size * size_of(mu), size - size % len(block)
    for t in range(counts[i]):
        over = t * d_step
        read = (x_step, x + t * x_step, xk, p + t * p_step, pk, q + t * q_step, qk)
        to = (
            g + t * g_step, gk, dx + over, dp + over, dq + over, dk, streamed, at, rate, angle, given, row, mu,
        )  # fmt: skip
        before = h + (t + 1) * h_step
        if t < inner[i]:
            _backward_blocks(kind, turning, second, lanes, wide, size, *read, before, hk, *to)
            _backward_blocks(kind, turning, second, block, 0, wide, *read, before, hk, *to)
        else:
            _backward_blocks(kind, turning, second, lanes, wide, size, *read, first.ctypes.data, first, *to)
            _backward_blocks(kind, turning, second, block, 0, wide, *read, first.ctypes.data, first, *to)
    fence()


@entry
def _forward(entry: int, first: int, threads: int, count: int, rest: Any) -> None:
    each(entry, first, threads, count, _forward_part, rest)


@entry
def _forward_wide(entry: int, first: int, threads: int, count: int, rest: Any) -> None:
    each(entry, first, threads, count, _forward_wide_part, rest)


@entry
def _backward(entry: int, first: int, threads: int, count: int, rest: Any) -> None:
    each(entry, first, threads, count, _backward_part, rest)


@entry
def _backward_wide(entry: int, first: int, threads: int, count: int, rest: Any) -> None:
    each(entry, first, threads, count, _backward_wide_part, rest)

"""Gated linear recurrence compiled for the CPU: gates, products and recurrence of a few rows at a time.

    h[t] = decay[t] v[t] + gain[t] x[t],   v[t] = h[t-1], of pairs cos h[t-1] + sin swap(h[t-1])

Gates do not wait for states. So each chunk of rows is done twice: its gates are formed, number after number in whole
vectors however narrow a row is, into memory that stays in the nearest cache; then the recurrence takes row after row.
Threads share the sequences, each of which is done whole: forming gates costs more than reading them, so that no thread
runs ahead through another one's part.

The adjoint: `lambda[t] = g[t] + mu[t]`, `mu[t-1] = R^T (decay[t] lambda[t])`. Gradients of what a step reads are lambda
times factors that do not depend on it: these are formed first. Gradients of rate and angle are summed for each
sequence.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cofm_triton.cpu.allocator import empty
from cofm_triton.cpu.jit.compiled import entry, inlined, inner
from cofm_triton.cpu.jit.forward import initial_states
from cofm_triton.cpu.jit.gates import constant, formed, pulled
from cofm_triton.cpu.jit.region import each
from cofm_triton.cpu.jit.rows import BLOCK, Rows, aligned, block_at, numbers, with_rows
from cofm_triton.cpu.jit.schedule import plan
from cofm_triton.cpu.jit.streams import fence, streams
from cofm_triton.cpu.jit.threads import launch, workers
from cofm_triton.cpu.jit.vectors import distribute, load, size_of, store, swap
from cofm_triton.cpu.packed import Pieces, cuts_of, pieces
from cofm_triton.step.gates import Gates

# Numbers of a chunk: with them, at most six factors of each stay in 32 KB.
CHUNK = 512
SPAN = (0,) * 64


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
        _forward, parts.threads, len(states), constant(gates.name), _flag(turn is not None), _left_over(channels),
        *parts.walk(tensors, False), streams(tensors[-1]), states, _coefficients(rate, turn), _is_flat(read),
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
    rates, angles = (initial_states(None, parts.sequence, channels, state_dtype) for _ in range(2))
    launch(
        _backward, parts.threads, len(mus), constant(gates.name), _flag(turn is not None), _flag(q is not None),
        _left_over(channels), *parts.walk(tensors, True), all(map(streams, tensors[5:])), mus, firsts, parts.inner,
        _coefficients(rate, turn), rates, angles, _is_flat(read[:4]),
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


def chunk_rows(channels: int) -> int:
    """Rows of a chunk: as many as fit, at least one, and if they can be, whole blocks of numbers."""
    fit, unit = max(CHUNK // channels, 1), len(BLOCK) // gcd(len(BLOCK), channels)
    return fit - fit % unit or fit


def _coefficients(rate: Tensor, turn: Tensor | None) -> Any:
    """Rates, cos and sin of every number of a chunk, (3, rows * D); the latter are not read where nothing turns."""
    rows = chunk_rows(len(rate))
    found = aligned((3, rows, len(rate)), numbers(rate).dtype)
    found[0] = numbers(rate)
    found[1:] = 0 if turn is None else numbers(turn)[:, None]
    return found.reshape(3, -1)


def _is_flat(tensors: list[Rows]) -> bool:
    """Whether the numbers of a chunk follow each other in all of them, over the ends of rows."""
    channels = tensors[0].tensor.shape[2]
    return channels <= CHUNK and all(rows.step == channels * rows.tensor.itemsize for rows in tensors)


def _flag(is_set: bool) -> tuple[int, ...]:
    """A tuple whose length compiled code knows."""
    return (0,) * is_set


def _left_over(channels: int) -> tuple[int, ...]:
    """A tuple as long as what whole blocks leave of a row, and not used where that is nothing."""
    return (0,) * (channels % len(BLOCK) or 1)


@inlined
def _runs(is_flat: bool, rows: int, width: int) -> Any:
    """How many runs of numbers a chunk has, and how long each is: one, if it is whole blocks, or a row each."""
    return (1, rows * width) if is_flat and rows * width % len(BLOCK) == 0 else (rows, width)


@inlined
def _room(sample: Any, arrays: int) -> Any:
    """Memory for numbers of chunks, and the first address in it where a cache line begins."""
    room = np.empty(arrays * CHUNK + 64 // sample.itemsize, sample.dtype)
    return room, (room.ctypes.data + 63) // 64 * 64


@inlined
def _form_blocks(
    kind: Any, lanes: Any, begin: int, end: int, x: int, xk: Any, p: int, pk: Any, q: int, qk: Any, rates: int,
    decays: int, drives: int, sk: Any,
) -> None:  # fmt: skip
    for c in range(begin, end, len(lanes)):
        at = c * size_of(sk)
        logits = load(lanes, p + c * size_of(pk), pk), load(lanes, q + c * size_of(qk), qk)
        decay, gain = formed(kind, load(lanes, rates + at, sk), logits[0], logits[1])
        store(decay, decays + at, sk, False)
        store(gain * load(lanes, x + c * size_of(xk), xk), drives + at, sk, False)


@inner
def _form(
    kind: Any, lanes: Any, begin: int, end: int, runs: int, size: int, x: int, x_step: int, xk: Any, p: int,
    p_step: int, pk: Any, q: int, q_step: int, qk: Any, rates: int, decays: int, drives: int, sk: Any,
) -> None:  # fmt: skip
    """Decays, and gains times inputs, of numbers [begin, end) of each run."""
    for r in range(runs):
        at = r * size * size_of(sk)
        _form_blocks(
            kind, lanes, begin, end, x + r * x_step, xk, p + r * p_step, pk, q + r * q_step, qk, rates + at,
            decays + at, drives + at, sk,
        )  # fmt: skip


@inlined
def _recur_blocks(
    turning: Any, lanes: Any, begin: int, end: int, rows: int, size: int, decays: int, drives: int, rk: Any, h: int,
    h_step: int, hk: Any, streamed: bool, state: int, sk: Any, turns: int, turn_step: int,
) -> None:  # fmt: skip
    for c in range(begin, end, len(lanes)):
        place = c * size_of(sk)
        held = load(lanes, state + place, sk)
        cos, sin = held, held
        if len(turning) == 1:
            cos, sin = load(lanes, turns + place, sk), load(lanes, turns + turn_step + place, sk)
        for t in range(rows):
            at = t * size * size_of(rk) + place
            before = held
            if len(turning) == 1:
                before = cos * held + sin * swap(held)
            held = load(lanes, decays + at, rk) * before + load(lanes, drives + at, rk)
            store(held, h + t * h_step + c * size_of(hk), hk, streamed)
        store(held, state + place, sk, False)


@inner
def _recur(turning: Any, lanes: Any, rows: int, size: int, *chunk: Any) -> None:
    """The recurrence over a chunk."""
    wide = size - size % len(BLOCK)
    _recur_blocks(turning, BLOCK, 0, wide, rows, size, *chunk)
    _recur_blocks(turning, lanes, wide, size, rows, size, *chunk)


@inner
def _forward_part(
    i: int, kind: Any, turning: Any, lanes: Any, places: Any, begins: Any, counts: Any, x_step: int, xk: Any,
    p_step: int, pk: Any, q_step: int, qk: Any, h_step: int, hk: Any, streamed: bool, states: Any, coefficients: Any,
    is_flat: bool,
) -> None:  # fmt: skip
    (x, p, q, h), state = (places[i, 0], places[i, 1], places[i, 2], places[i, 3]), states[i]
    rates, row = coefficients.ctypes.data, coefficients.shape[1] * size_of(state)
    fit = coefficients.shape[1] // state.size
    room, decays = _room(state, 2)
    drives = decays + CHUNK * size_of(state)
    for t in range(0, counts[i], fit):
        rows = min(fit, counts[i] - t)
        for c in range(0, state.size, CHUNK):
            width, at = min(CHUNK, state.size - c), c * size_of(state)
            runs, size = _runs(is_flat, rows, width)
            wide = size - size % len(BLOCK)
            read = (
                runs, size, x + t * x_step + c * size_of(xk), x_step, xk, p + t * p_step + c * size_of(pk), p_step, pk,
                q + t * q_step + c * size_of(qk), q_step, qk, rates + at, decays, drives, room,
            )  # fmt: skip
            _form(kind, SPAN, 0, wide, *read)
            if wide < size:
                _form(kind, lanes, wide, size, *read)
            _recur(
                turning, lanes, rows, width, decays, drives, room, h + t * h_step + c * size_of(hk), h_step, hk,
                streamed, state.ctypes.data + at, state, rates + row + at, row,
            )  # fmt: skip
    fence()


@inlined
def _pull_blocks(
    kind: Any, turning: Any, second: Any, lanes: Any, begin: int, end: int, step: int, x: int, xk: Any, p: int,
    pk: Any, q: int, qk: Any, before: int, hk: Any, rates: int, row: int, factors: int, size: int, sk: Any,
) -> None:  # fmt: skip
    for k in range((end - begin) // len(lanes)):
        c = block_at(k, lanes, begin, end, step)
        at = c * size_of(sk)
        earlier, to = load(lanes, before + c * size_of(hk), hk), factors + at
        if len(turning) == 1:
            cos, sin = load(lanes, rates + row + at, sk), load(lanes, rates + 2 * row + at, sk)
            earlier = cos * earlier + sin * swap(earlier)
        logits = load(lanes, p + c * size_of(pk), pk), load(lanes, q + c * size_of(qk), qk)
        decay, gain, by_p, by_q, by_rate = pulled(
            kind, load(lanes, rates + at, sk), logits[0], logits[1], earlier, load(lanes, x + c * size_of(xk), xk)
        )  # fmt: skip
        store(decay, to, sk, False)
        store(gain, to + size, sk, False)
        store(by_p, to + 2 * size, sk, False)
        store(by_rate, to + 3 * size, sk, False)
        if len(second) == 1:
            store(by_q, to + 4 * size, sk, False)
        if len(turning) == 1:
            store(decay * swap(earlier), to + 5 * size, sk, False)


@inner
def _pull(
    kind: Any, turning: Any, second: Any, lanes: Any, runs: int, size: int, x: int, x_step: int, xk: Any, p: int,
    p_step: int, pk: Any, q: int, q_step: int, qk: Any, before: int, h_step: int, hk: Any, rates: int, row: int,
    factors: int, sk: Any,
) -> None:  # fmt: skip
    """Decays, and by what lambda is multiplied in gradients, of a chunk from its last row on; arrays of `CHUNK`."""
    wide = size - size % len(BLOCK)
    for r in range(runs):
        at = (runs - 1 - r) * size * size_of(sk)
        rows = (
            x_step, x + r * x_step, xk, p + r * p_step, pk, q + r * q_step, qk, before + r * h_step, hk, rates + at,
            row, factors + at, CHUNK * size_of(sk), sk,
        )  # fmt: skip
        _pull_blocks(kind, turning, second, lanes, wide, size, *rows)
        _pull_blocks(kind, turning, second, SPAN, 0, wide, *rows)


@inlined
def _adjoint_blocks(
    turning: Any, second: Any, lanes: Any, begin: int, end: int, rows: int, size: int, factors: int, rk: Any, g: int,
    g_step: int, gk: Any, dx: int, dp: int, dq: int, d_step: int, dk: Any, streamed: bool, mu: int, rates: int,
    angles: int, sk: Any, turns: int, turn_step: int,
) -> None:  # fmt: skip
    room = CHUNK * size_of(rk)
    for k in range((end - begin) // len(lanes)):
        c = block_at(k, lanes, begin, end, g_step)
        place = c * size_of(sk)
        held, sums, turned = load(lanes, mu + place, sk), load(lanes, rates + place, sk), load(lanes, angles + place, sk)
        cos, sin = held, held
        if len(turning) == 1:
            cos, sin = load(lanes, turns + place, sk), load(lanes, turns + turn_step + place, sk)
        for t in range(rows):
            at, to = factors + (rows - 1 - t) * size * size_of(rk) + place, t * d_step + c * size_of(dk)
            given, decay = load(lanes, g + t * g_step + c * size_of(gk), gk), load(lanes, at, rk)
            adjoint = given + held
            store(adjoint * load(lanes, at + room, rk), dx + to, dk, streamed)
            store(adjoint * load(lanes, at + 2 * room, rk), dp + to, dk, streamed)
            if len(second) == 1:
                store(adjoint * load(lanes, at + 4 * room, rk), dq + to, dk, streamed)
            sums = sums + adjoint * load(lanes, at + 3 * room, rk)
            held = distribute(decay, held, given)
            if len(turning) == 1:
                turned = turned + adjoint * load(lanes, at + 5 * room, rk)
                held = cos * held + swap(sin * held)
        store(held, mu + place, sk, False)
        store(sums, rates + place, sk, False)
        if len(turning) == 1:
            store(turned, angles + place, sk, False)


@inner
def _adjoint(turning: Any, second: Any, lanes: Any, rows: int, size: int, *chunk: Any) -> None:
    """The adjoint recurrence over a chunk, and all gradients."""
    wide = size - size % len(BLOCK)
    _adjoint_blocks(turning, second, lanes, wide, size, rows, size, *chunk)
    _adjoint_blocks(turning, second, BLOCK, 0, wide, rows, size, *chunk)


@inner
def _backward_part(
    i: int, kind: Any, turning: Any, second: Any, lanes: Any, places: Any, begins: Any, counts: Any, x_step: int,
    xk: Any, p_step: int, pk: Any, q_step: int, qk: Any, h_step: int, hk: Any, g_step: int, gk: Any, d_step: int,
    dk: Any, _p_step: int, _pk: Any, _q_step: int, _qk: Any, streamed: bool, mus: Any, firsts: Any, inner: Any,
    coefficients: Any, rates: Any, angles: Any, is_flat: bool,
) -> None:  # fmt: skip
    """h[t-1] of step t is the next row of h, that of steps from `inner` on (one at most) is in `firsts`."""
    x, p, q, h, g = places[i, 0], places[i, 1], places[i, 2], places[i, 3], places[i, 4]
    dx, dp, dq = places[i, 5], places[i, 6], places[i, 7]
    mu, first = mus[i], firsts[i]
    given, row = coefficients.ctypes.data, coefficients.shape[1] * size_of(mu)
    fit = coefficients.shape[1] // mu.size
    room, factors = _room(mu, 6)
    t = 0
    while t < counts[i]:
        rows = min(fit, inner[i] - t) if t < inner[i] else counts[i] - t
        for panel in range((mu.size - 1) // CHUNK, -1, -1):
            c = panel * CHUNK
            width, at = min(CHUNK, mu.size - c), c * size_of(mu)
            runs, size = _runs(is_flat, rows, width)
            # A run begins at its lowest address, which is in its last row.
            end = t + rows // runs - 1
            read = (
                runs, size, x + end * x_step + c * size_of(xk), x_step, xk, p + end * p_step + c * size_of(pk), p_step,
                pk, q + end * q_step + c * size_of(qk), q_step, qk,
            )  # fmt: skip
            to = given + at, row, factors, room
            if t < inner[i]:
                before = h + (end + 1) * h_step + c * size_of(hk)
                _pull(kind, turning, second, lanes, *read, before, h_step, hk, *to)
            else:
                _pull(kind, turning, second, lanes, *read, first.ctypes.data + at, 0, first, *to)
            over = t * d_step + c * size_of(dk)
            _adjoint(
                turning, second, lanes, rows, width, factors, room, g + t * g_step + c * size_of(gk), g_step, gk,
                dx + over, dp + over, dq + over, d_step, dk, streamed, mu.ctypes.data + at, rates[i].ctypes.data + at,
                angles[i].ctypes.data + at, mu, given + row + at, row,
            )  # fmt: skip
        t += rows
    fence()


@entry
def _forward(entry: int, first: int, threads: int, count: int, rest: Any) -> None:
    each(entry, first, threads, count, _forward_part, rest)


@entry
def _backward(entry: int, first: int, threads: int, count: int, rest: Any) -> None:
    each(entry, first, threads, count, _backward_part, rest)

"""The forward recurrences compiled for the CPU: a row of channels at a time, so that memory is read as one stream.

    linear      h[t] = a[t] h[t-1] + x[t]
    nonlinear   h[t] = h[t-1] + dt act(x[t] - a h[t-1])
    paired      h[t] = h[t-1] + dt act(x[t] - a h[t-1] + turn swap(h[t-1])),   swap exchanges channels 2k and 2k + 1

A `rule` says which one: `()`, `(act, dt)`, or `(act, dt, distance)`. act stands for the nonlinearity and is a constant
in compiled code; turn lies `distance` bytes behind a. Coefficients that do not change over time are rows that all lie
at one address.

How the work is done:

- Threads share the sequences. If these do not divide evenly, the rest is split in time: each thread runs the recurrence
  up to its part, reading without storing, and then does its part (`schedule.py`).
- Rows of at most `rows.MAX_HELD` channels are compiled for their width, with the state in registers. Few long sequences
  of such rows may run in chains (`chains.py`). Wider rows are done in blocks.
- Large results are written past the cache (`streams.py`).

Every state is computed by the same operations in the same order, however a sequence is split.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba.extending import overload
from torch import Tensor

from cofm_triton.cpu.allocator import empty_like
from cofm_triton.cpu.jit.activation import activate
from cofm_triton.cpu.jit.alone import alone
from cofm_triton.cpu.jit.chains import CHAINS, MAX_TOGETHER, chain_plan, piece_plan, worth_a_guess
from cofm_triton.cpu.jit.compiled import OPTIONS, entry, inlined, inner
from cofm_triton.cpu.jit.region import each
from cofm_triton.cpu.jit.rows import (
    BLOCK,
    MAX_HELD,
    SAMPLES,
    Rows,
    across,
    aligned,
    block_at,
    gate_rows,
    in_dtype,
    numbers,
    row_lanes,
    with_rows,
)
from cofm_triton.cpu.jit.schedule import plan
from cofm_triton.cpu.jit.streams import fence, streams
from cofm_triton.cpu.jit.threads import launch, workers
from cofm_triton.cpu.jit.vectors import load, same, store, swap
from cofm_triton.cpu.packed import Pieces, cuts_of


def scan(
    rule: tuple[Any, ...], x: Tensor, a: Tensor, h0: Tensor | None, seq_starts: Tensor | Pieces | None, *,
    guess: Callable[[], int | None] | None, reverse: bool, state_dtype: torch.dtype, read_cost: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`(h, h_last)` with T >= 1: h (B, T, D) in x's dtype, h_last (S, D) in the state's.

    Args:
        rule: see above; paired, D is even.
        x: (B, T, D).
        a: (D,), or gates that broadcast to (B, T, D).
        h0: (S, D), zeros when None.
        seq_starts: (S,) where packed sequences start, or pieces of sequences, or None.
        guess: gives the steps of a guess, see `guess.guess_steps`; None if states cannot be guessed.
        reverse: from the last step to the first.
        state_dtype: of the state.
        read_cost: time of a step that is not stored over that of one that is.
    """
    dtype, x = x.dtype, with_rows(x)
    h = empty_like(x)
    (batch, length, channels), starts, threads = x.shape, cuts_of(seq_starts), workers()
    held, lanes = channels <= MAX_HELD, row_lanes(channels)
    tensors = (Rows(x), gate_rows(a, x.shape), Rows(h))
    streamed = streams(tensors[2])
    chains, guessed = None, None
    count = batch if starts is None else len(starts.spans) if isinstance(starts, Pieces) else len(starts)
    if held and guess is not None:
        if not isinstance(starts, Pieces) and worth_a_guess(count, length, threads):
            guessed = guess()
            chains = chain_plan(batch, length, starts, guessed, threads)
        if not chains and starts is not None and count >= CHAINS * threads and channels <= MAX_TOGETHER:
            guessed, chains = None, piece_plan(batch, length, starts, threads)
    parts = chains or plan(batch, length, starts, channels, read_cost, threads)
    states = initial_states(h0, parts.sequence, channels, state_dtype)
    rows = parts.walk(tensors, reverse)
    if chains:
        states[parts.begins > 0] = 0
        guesses, groups = states.copy(), -(-len(states) // CHAINS)
        launch(_chains, parts.threads, groups, rule, lanes, *rows, streamed, states, guesses, guessed or 0)
        if guessed is not None:
            _settle(rule, lanes, *rows, streamed, states, guesses)
    else:
        kernel = _forward_held if held else _forward
        launch(kernel, parts.threads, len(states), rule, lanes, *rows, streamed, states)
    return in_dtype(h, dtype), torch.from_numpy(parts.at_end(states))


def small_scan(
    rule: tuple[Any, ...], reverse: bool, x: Tensor, a: Tensor, h0: Tensor | None
) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """What `scan` does with x, a and h0 like these, if the call is a small one."""
    kept = alone(reverse, (h0,), x, a, x)
    if kept is None:
        return None

    def call(x: Tensor, a: Tensor, h0: Tensor | None) -> tuple[Tensor, Tensor]:
        h, states = torch.empty_like(x), kept.states(h0)
        _forward_held(
            0, 0, 1, len(states), (rule, kept.lanes, kept.places(x, a, h), *kept.rest, False, states)
        )  # fmt: skip
        return h, torch.from_numpy(states)

    return call


def initial_states(states: Tensor | None, sequence: Any, channels: int, state_dtype: torch.dtype) -> Any:
    """States (P, D) of the sequences with these indices (P,), as an array in the state's dtype, zeros when None."""
    if states is None:
        if channels <= MAX_HELD:  # in registers during the loop, so that it does not matter where they lie
            return np.zeros((len(sequence), channels), SAMPLES[state_dtype].dtype)
        return torch.zeros((len(sequence), channels), dtype=state_dtype, device="cpu").numpy()
    result = aligned((len(sequence), channels), SAMPLES[state_dtype].dtype)
    result[:] = numbers(states.to(state_dtype))[sequence]
    return result


def _coefficients(rule: Any, lanes: Any, a: int, ak: Any) -> Any:
    """The coefficients at an address: a vector, or two in a tuple where the rule has two."""
    raise TypeError("compiled code only")


@overload(_coefficients, jit_options=OPTIONS)
def _coefficients_overload(rule: Any, lanes: Any, a: Any, ak: Any) -> Any:
    def one(rule: Any, lanes: Any, a: Any, ak: Any) -> Any:
        return load(lanes, a, ak)

    def two(rule: Any, lanes: Any, a: Any, ak: Any) -> Any:
        return load(lanes, a, ak), load(lanes, a + rule[2], ak)

    return two if len(rule) == 3 else one


def _next(rule: Any, a: Any, x: Any, state: Any) -> Any:
    """The state after a step; `state` and `x` are vectors, `a` is what `_coefficients` gives."""
    raise TypeError("compiled code only")


@overload(_next, jit_options=OPTIONS)
def _next_overload(rule: Any, a: Any, x: Any, state: Any) -> Any:
    def linear(rule: Any, a: Any, x: Any, state: Any) -> Any:
        return a * state + x

    def nonlinear(rule: Any, a: Any, x: Any, state: Any) -> Any:
        return state + rule[1] * activate(rule[0], x - a * state)

    def paired(rule: Any, a: Any, x: Any, state: Any) -> Any:
        return state + rule[1] * activate(rule[0], x - a[0] * state + a[1] * swap(state))

    return (linear, linear, nonlinear, paired)[len(rule)]


@inlined
def _skip(
    rule: Any, lanes: Any, x: int, x_step: int, xk: Any, a: int, a_step: int, ak: Any, held: Any, steps: int
) -> Any:
    """The state after the `steps` steps that come before the rows at x and a; nothing is stored."""
    for t in range(-steps, 0):
        held = _next(rule, _coefficients(rule, lanes, a + t * a_step, ak), load(lanes, x + t * x_step, xk), held)
    return held


@inner
def _forward_held_part(
    i: int, rule: Any, lanes: Any, places: Any, begins: Any, counts: Any, x_step: int, xk: Any, a_step: int, ak: Any,
    h_step: int, hk: Any, streamed: bool, states: Any,
) -> None:  # fmt: skip
    (x, a, h), state = (places[i, 0], places[i, 1], places[i, 2]), states[i]
    held = load(lanes, state.ctypes.data, state)
    held = _skip(rule, lanes, x, x_step, xk, a, a_step, ak, held, begins[i])
    for t in range(counts[i]):
        held = _next(rule, _coefficients(rule, lanes, a + t * a_step, ak), load(lanes, x + t * x_step, xk), held)
        store(held, h + t * h_step, hk, streamed)
    store(held, state.ctypes.data, state, False)
    fence()


@inlined
def _row(
    rule: Any, lanes: Any, begin: int, end: int, step: int, x: int, xk: Any, a: int, ak: Any, h: int, hk: Any,
    stored: bool, streamed: bool, state: int, sk: Any,
) -> None:  # fmt: skip
    for k in range((end - begin) // len(lanes)):
        c = block_at(k, lanes, begin, end, step)
        at = state + c * sk.itemsize
        coefficients, given = _coefficients(rule, lanes, a + across(c, ak), ak), load(lanes, x + c * xk.itemsize, xk)
        value = _next(rule, coefficients, given, load(lanes, at, sk))
        store(value, at, sk, False)
        if stored:
            store(value, h + c * hk.itemsize, hk, streamed)


@inner
def _forward_part(
    i: int, rule: Any, lanes: Any, places: Any, begins: Any, counts: Any, x_step: int, xk: Any, a_step: int, ak: Any,
    h_step: int, hk: Any, streamed: bool, states: Any,
) -> None:  # fmt: skip
    (x, a, h), state = (places[i, 0], places[i, 1], places[i, 2]), states[i]
    size = state.size
    wide = size - size % len(BLOCK)
    for t in range(-begins[i], 0):
        skipped = (
            x_step, x + t * x_step, xk, a + t * a_step, ak, h, hk, False, False, state.ctypes.data, state,
        )  # fmt: skip
        _row(rule, BLOCK, 0, wide, *skipped)
        _row(rule, lanes, wide, size, *skipped)
    for t in range(counts[i]):
        rows = (
            x_step, x + t * x_step, xk, a + t * a_step, ak, h + t * h_step, hk, True, streamed, state.ctypes.data,
            state,
        )  # fmt: skip
        _row(rule, BLOCK, 0, wide, *rows)
        _row(rule, lanes, wide, size, *rows)
    fence()


@inner
def _chains_part(
    i: int, rule: Any, lanes: Any, places: Any, begins: Any, counts: Any, x_step: int, xk: Any, a_step: int, ak: Any,
    h_step: int, hk: Any, streamed: bool, states: Any, guesses: Any, guessed: int,
) -> None:  # fmt: skip
    """The i-th group of `chains.CHAINS` parts, with coefficients that do not change over time: together for as long as
    the shortest one takes, then each alone.
    """
    first, end, steps, size = CHAINS * i, min(CHAINS * (i + 1), counts.size), 0, len(lanes) * states.itemsize
    coefficients = _coefficients(rule, lanes, places[first, 1], ak)
    if end == first + CHAINS:
        steps = counts[first:end].min()
        held, wrong = states[first].ctypes.data, guesses[first].ctypes.data
        start, p = load(lanes, held, states), load(lanes, wrong, guesses)
        q, r = load(lanes, wrong + size, guesses), load(lanes, wrong + 2 * size, guesses)
        s = load(lanes, wrong + 3 * size, guesses)
        x0, x1, x2, x3 = places[first, 0], places[first + 1, 0], places[first + 2, 0], places[first + 3, 0]
        h0, h1, h2, h3 = places[first, 2], places[first + 1, 2], places[first + 2, 2], places[first + 3, 2]
        # The first part of a sequence has nothing before it to guess from: its chain idles on the rows of another one.
        earliest = x0 if begins[first] else x1
        for t in range(-guessed, 0):
            at = t * x_step
            p = _next(rule, coefficients, load(lanes, earliest + at, xk), p)
            q = _next(rule, coefficients, load(lanes, x1 + at, xk), q)
            r = _next(rule, coefficients, load(lanes, x2 + at, xk), r)
            s = _next(rule, coefficients, load(lanes, x3 + at, xk), s)
        if not begins[first]:
            p = start
        store(p, wrong, guesses, False)
        store(q, wrong + size, guesses, False)
        store(r, wrong + 2 * size, guesses, False)
        store(s, wrong + 3 * size, guesses, False)
        for t in range(steps):
            at, to = t * x_step, t * h_step
            p = _next(rule, coefficients, load(lanes, x0 + at, xk), p)
            q = _next(rule, coefficients, load(lanes, x1 + at, xk), q)
            r = _next(rule, coefficients, load(lanes, x2 + at, xk), r)
            s = _next(rule, coefficients, load(lanes, x3 + at, xk), s)
            store(p, h0 + to, hk, streamed)
            store(q, h1 + to, hk, streamed)
            store(r, h2 + to, hk, streamed)
            store(s, h3 + to, hk, streamed)
        store(p, held, states, False)
        store(q, held + size, states, False)
        store(r, held + 2 * size, states, False)
        store(s, held + 3 * size, states, False)
    for k in range(first, end):
        alone = load(lanes, states[k].ctypes.data, states)
        for t in range(steps, counts[k]):
            alone = _next(rule, coefficients, load(lanes, places[k, 0] + t * x_step, xk), alone)
            store(alone, places[k, 2] + t * h_step, hk, streamed)
        store(alone, states[k].ctypes.data, states, False)
    fence()


@entry
def _settle(
    rule: Any, lanes: Any, places: Any, begins: Any, counts: Any, x_step: int, xk: Any, a_step: int, ak: Any,
    h_step: int, hk: Any, streamed: bool, states: Any, guesses: Any,
) -> None:  # fmt: skip
    """Run the parts with wrong guesses again, in order, until their states are right."""
    size = len(lanes) * states.itemsize
    for i in range(1, counts.size):
        if not begins[i]:
            continue
        (x, a, h), t = (places[i, 0], places[i, 1], places[i, 2]), 0
        right = load(lanes, states.ctypes.data + (i - 1) * size, states)
        wrong = load(lanes, guesses.ctypes.data + i * size, states)
        while t < counts[i] and not same(right, wrong):
            coefficients, given = _coefficients(rule, lanes, a, ak), load(lanes, x + t * x_step, xk)
            right, wrong = _next(rule, coefficients, given, right), _next(rule, coefficients, given, wrong)
            store(right, h + t * h_step, hk, streamed)
            t += 1
        if not same(right, wrong):
            store(right, states.ctypes.data + i * size, states, False)
    fence()


@entry
def _forward_held(entry: int, first: int, threads: int, count: int, rest: Any) -> None:
    each(entry, first, threads, count, _forward_held_part, rest)


@entry
def _forward(entry: int, first: int, threads: int, count: int, rest: Any) -> None:
    each(entry, first, threads, count, _forward_part, rest)


@entry
def _chains(entry: int, first: int, threads: int, count: int, rest: Any) -> None:
    each(entry, first, threads, count, _chains_part, rest)

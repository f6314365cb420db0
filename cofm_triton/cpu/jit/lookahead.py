"""One long sequence of few channels: four steps at a time, so that a core need not wait for each.

A step of few channels is one vector, and the next one waits for it: a million of them take as long as a million
latencies, more than the memory that they read and write. With four steps written out, from the state H before them,

    l[0] = x[0],  l[k] = decay l[k-1] + x[k]            without H: of many blocks side by side
    h[k] = decay^(k+1) H + l[k]                         one multiplication away from H

only `decay^4 H + l[3]`, once in four steps, waits for the block before. That power is kept in two numbers of the
state's dtype, high + low: rounded to one, a decay of 1 - 1e-6 would be another one by up to 1.5e-8, and so would each
of a million steps.

States are those of the recurrence to rounding, with fewer roundings in a row than step by step, but not to the bit.
Blocks are counted from the beginning of the sequence, so that results depend on its shape and decays alone: on every
machine, with any number of threads, they come out the same. Where a state is not finite, sums of powers of zero and
infinity would make NaN that the recurrence does not have: then it is to be done step by step.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cofm_triton.cpu.allocator import empty
from cofm_triton.cpu.jit.compiled import entry, inlined, inner
from cofm_triton.cpu.jit.region import each
from cofm_triton.cpu.jit.rows import Rows, numbers, row_lanes, with_rows
from cofm_triton.cpu.jit.schedule import KEPT_PLANS, split
from cofm_triton.cpu.jit.streams import fence, streams
from cofm_triton.cpu.jit.threads import launch, workers
from cofm_triton.cpu.jit.vectors import load, same, store, store_numbers

STEPS = 4  # of a block, spelled out below
# Wider rows keep a core busy step by step, and shorter sequences are not worth another order of their sums.
MAX_CHANNELS = 8
MIN_LENGTH = 2**14
# Time of a step that is not stored over that of one that is; more than so many parts would hardly be shorter.
READ_COST, MAX_PARTS = 0.5, 4
# Decays whose fourth power has a low part, and that part all its digits.
SMALLEST, LARGEST = 2.0**-25, 2.0**31


def worth_looking_ahead(state_dtype: torch.dtype, batch: int, length: int, channels: int) -> bool:
    """Whether a time-invariant scan of this size is to be done four steps at a time."""
    return state_dtype == torch.float32 and batch == 1 and channels <= MAX_CHANNELS and length >= MIN_LENGTH


def look_ahead(x: Tensor, decay: Tensor, h0: Tensor | None, reverse: bool) -> tuple[Tensor, Tensor] | None:
    """`(h, h_last)` as from `forward.scan`, with a state in float32; None if some state may not be finite.

    Args:
        x: (1, T, D).
        decay: (D,) in float32.
        h0: (1, D) in float32, or None.
        reverse: from the last step to the first.
    """
    # Between passes over large tensors all of this finds cold caches: every line of it is felt.
    dtype, x = x.dtype, with_rows(x)
    h = empty(x.shape, x.dtype)
    _, length, channels = x.shape
    threads = min(workers(), MAX_PARTS)
    bounds = block_bounds(length, threads)
    rows, results = Rows(x), Rows(h)
    states = np.zeros((threads, channels), np.float32)
    if h0 is not None:
        states[:] = numbers(h0)
    factors, finite = np.empty((threads, STEPS + 1, channels), np.float32), np.empty(threads, np.bool_)
    room = (numbers(decay), factors, states, finite)
    walk = (*rows.walk(reverse), *results.walk(reverse))
    launch(_ahead, threads, threads, row_lanes(channels), bounds, *walk, streams(results), *room)
    return (h.to(dtype), torch.from_numpy(states[-1:])) if finite.all() else None


@lru_cache(KEPT_PLANS)
def block_bounds(length: int, parts: int) -> Any:
    """(P + 1,) steps between which the parts of a sequence lie, each where a block begins, and its end."""
    bounds = np.append(STEPS * split(0, length // STEPS, parts, READ_COST)[:, 1], length)
    bounds.flags.writeable = False
    return bounds


@inner
def powers(decay: Any, factors: Any) -> bool:
    """Rows of `factors` become decay, decay^2, decay^3, and decay^4 in two parts, high and low. False if a power, or
    what it is multiplied with, could leave the range of its dtype before the state does.
    """
    sound = True
    for d in range(decay.size):
        factor = np.float64(decay[d])
        power = 1.0
        for k in range(STEPS):
            power *= factor
            factors[k, d] = power
        factors[STEPS, d] = power - np.float64(factors[STEPS - 1, d])
        sound = sound and bool(factor == 0 or SMALLEST <= abs(factor) <= LARGEST)
    return sound


@inlined
def load_powers(lanes: Any, factors: Any) -> Any:
    """The rows of `powers` as vectors."""
    row, size = factors.ctypes.data, len(lanes) * factors.itemsize
    decay, square = load(lanes, row, factors), load(lanes, row + size, factors)
    cube, high = load(lanes, row + 2 * size, factors), load(lanes, row + 3 * size, factors)
    return decay, square, cube, high, load(lanes, row + 4 * size, factors)


@inlined
def from_zero(lanes: Any, decay: Any, x: int, x_step: int, xk: Any) -> Any:
    """The states after each step of a block whose first row is at x, from zero."""
    p = load(lanes, x, xk)
    q = decay * p + load(lanes, x + x_step, xk)
    r = decay * q + load(lanes, x + 2 * x_step, xk)
    return p, q, r, decay * r + load(lanes, x + 3 * x_step, xk)


@inner
def _ahead_part(
    i: int, lanes: Any, bounds: Any, x: int, x_step: int, xk: Any, h: int, h_step: int, hk: Any, streamed: bool,
    decays: Any, factors: Any, states: Any, finite: Any,
) -> None:  # fmt: skip
    """Part i of the sequence, `finite` whether all its states are; `factors` is room for the powers of its decay."""
    finite[i] = False
    if not powers(decays, factors[i]):
        return
    decay, square, cube, high, low = load_powers(lanes, factors[i])
    at = states[i].ctypes.data
    held = load(lanes, at, states)
    nothing = 0.0 * abs(decay)
    check = nothing  # as long as states are finite, then NaN
    for t in range(0, bounds[i], STEPS):
        p, q, r, s = from_zero(lanes, decay, x + t * x_step, x_step, xk)
        held = high * held + (low * held + s)
    begin, end = bounds[i], bounds[i + 1]
    whole = end - (end - begin) % STEPS
    for t in range(begin, whole, STEPS):
        p, q, r, s = from_zero(lanes, decay, x + t * x_step, x_step, xk)
        p, q, r = decay * held + p, square * held + q, cube * held + r
        held = high * held + (low * held + s)
        check = 0.0 * ((p + q) + (r + held)) + check
        to = h + t * h_step
        store_numbers(p, to, hk, streamed)
        store_numbers(q, to + h_step, hk, streamed)
        store_numbers(r, to + 2 * h_step, hk, streamed)
        store_numbers(held, to + 3 * h_step, hk, streamed)
    for t in range(whole, end):
        held = decay * held + load(lanes, x + t * x_step, xk)
        store(held, h + t * h_step, hk, streamed)
    store(held, at, states, False)
    finite[i] = same(0.0 * held + check, nothing)
    fence()


@entry
def _ahead(entry: int, first: int, threads: int, count: int, rest: Any) -> None:
    each(entry, first, threads, count, _ahead_part, rest)

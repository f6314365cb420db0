"""The adjoint of one long sequence of few channels, four steps at a time (`lookahead.py`).

In the order of its own steps, backwards in time, with M what arrives at a block and g the gradients given:

    l[0] = g[0],  l[k] = decay l[k-1] + g[k]                     without M
    lambda[k] = decay^k M + l[k],  M' = decay^4 M + decay l[3]   what arrives at the next block

    dx = lambda,  ddecay = sum over k of lambda[k] h[k+1]        h[k+1] is the state one step earlier in time

The part of each thread sums ddecay by itself. Where something is not finite it is to be done step by step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cofm_triton.cpu.allocator import empty
from cofm_triton.cpu.jit.compiled import entry, inlined, inner
from cofm_triton.cpu.jit.lookahead import MAX_PARTS, STEPS, block_bounds, from_zero, load_powers, powers
from cofm_triton.cpu.jit.region import each
from cofm_triton.cpu.jit.rows import Rows, numbers, row_lanes, with_rows
from cofm_triton.cpu.jit.streams import fence, streams
from cofm_triton.cpu.jit.threads import launch, workers
from cofm_triton.cpu.jit.vectors import load, same, store, store_numbers


def adjoint_ahead(
    grad_h: Tensor, grad_last: Tensor | None, decay: Tensor, h: Tensor, h0: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor, Tensor] | None:
    """`(grad_x, grad_decay, grad_h0)` as from `linear_scan.backward`, or None if something may not be finite.

    Args:
        grad_h: (1, T, D).
        grad_last: (1, D) in float32, or None.
        decay: (D,) in float32.
        h: (1, T, D).
        h0: (1, D) in float32, or None.
        reverse: of the scan: its adjoint runs the other way.
    """
    dtype, h, grad_h = h.dtype, with_rows(h), with_rows(grad_h)
    grad_x = empty(h.shape, h.dtype)
    _, length, channels = h.shape
    threads = min(workers(), MAX_PARTS)
    tensors = (Rows(grad_h), Rows(h), Rows(grad_x))
    walk = [item for rows in tensors for item in rows.walk(not reverse)]
    # For each part what arrives at it, the sum of ddecay, and h0.
    states = np.zeros((threads, 3, channels), np.float32)
    for k, given in ((0, grad_last), (2, h0)):
        if given is not None:
            states[:, k] = numbers(given)
    factors, finite = np.empty((threads, STEPS + 1, channels), np.float32), np.empty(threads, np.bool_)
    room = (numbers(decay), factors, states, finite)
    bounds = block_bounds(length, threads)
    launch(_adjoint_ahead, threads, threads, row_lanes(channels), bounds, *walk, streams(tensors[2]), *room)
    if not finite.all():
        return None
    return grad_x.to(dtype), torch.from_numpy(states[:, 1].sum(0)), torch.from_numpy(states[-1:, 0])


@inlined
def _step(lanes: Any, decay: Any, held: Any, g: int, gk: Any, before: int, bk: Any, dx: int, dxk: Any) -> Any:
    """What arrives at the next step, and this step's share of ddecay; the state before it is at `before`."""
    adjoint = load(lanes, g, gk) + held
    store(adjoint, dx, dxk, False)
    return decay * adjoint, adjoint * load(lanes, before, bk)


@inner
def _adjoint_ahead_part(
    i: int, lanes: Any, bounds: Any, g: int, g_step: int, gk: Any, h: int, h_step: int, hk: Any, dx: int, dx_step: int,
    dxk: Any, streamed: bool, decays: Any, factors: Any, states: Any, finite: Any,
) -> None:  # fmt: skip
    """Part i of the adjoint, `finite` whether all is; `factors` is room for the powers of its decay."""
    finite[i] = False
    if not powers(decays, factors[i]):
        return
    decay, square, cube, high, low = load_powers(lanes, factors[i])
    at, size = states[i].ctypes.data, len(lanes) * states.itemsize
    held, sums = load(lanes, at, states), load(lanes, at + size, states)
    nothing = 0.0 * abs(decay)
    for t in range(0, bounds[i], STEPS):
        p, q, r, s = from_zero(lanes, decay, g + t * g_step, g_step, gk)
        held = high * held + (low * held + decay * s)
    begin, end = bounds[i], bounds[i + 1]
    inside = max(begin, min(end, bounds[-1] - 1))  # up to here steps have the state before them in h
    whole = inside - (inside - begin) % STEPS
    for t in range(begin, whole, STEPS):
        p, q, r, s = from_zero(lanes, decay, g + t * g_step, g_step, gk)
        arrives = high * held + (low * held + decay * s)
        p, q, r, s = held + p, decay * held + q, square * held + r, cube * held + s
        held = arrives
        to, before = dx + t * dx_step, h + (t + 1) * h_step
        store_numbers(p, to, dxk, streamed)
        store_numbers(q, to + dx_step, dxk, streamed)
        store_numbers(r, to + 2 * dx_step, dxk, streamed)
        store_numbers(s, to + 3 * dx_step, dxk, streamed)
        early = p * load(lanes, before, hk) + q * load(lanes, before + h_step, hk)
        late = r * load(lanes, before + 2 * h_step, hk) + s * load(lanes, before + 3 * h_step, hk)
        sums = sums + (early + late)
    for t in range(whole, inside):
        held, term = _step(
            lanes, decay, held, g + t * g_step, gk, h + (t + 1) * h_step, hk, dx + t * dx_step, dxk
        )  # fmt: skip
        sums = sums + term
    for t in range(inside, end):
        held, term = _step(
            lanes, decay, held, g + t * g_step, gk, at + 2 * size, states, dx + t * dx_step, dxk
        )  # fmt: skip
        sums = sums + term
    store(held, at, states, False)
    store(sums, at + size, states, False)
    # A term of the sum for every adjoint: what is infinite or NaN stays in it.
    finite[i] = same(0.0 * (held + sums) + nothing, nothing)
    fence()


@entry
def _adjoint_ahead(entry: int, first: int, threads: int, count: int, rest: Any) -> None:
    each(entry, first, threads, count, _adjoint_ahead_part, rest)

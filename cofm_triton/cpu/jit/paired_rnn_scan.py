"""Nonlinear recurrence of pairs of units compiled for the CPU; the forward pass and how work is shared out are in
`forward.py`.

    h[t] = h[t-1] + dt * act(z[t]),   z[t] = x[t] - pull * h[t-1] + turn * swap(h[t-1])

swap exchanges channels 2k and 2k + 1, which lie in one vector; turn has opposite signs in the two. Adjoint, with mu
what arrives from later steps and f = dt act'(z): `lambda[t] = g[t] + mu[t]`, `dx[t] = f lambda[t]`,
`mu[t-1] = lambda[t] - pull dx[t] - turn swap(dx[t])`, `dpull -= dx[t] h[t-1]`, `dturn += dx[t] swap(h[t-1])`. mu is
`own lambda - other swap(lambda)` with `own = 1 - pull f`, `other = turn swap(f)`: two fused operations and an exchange
between one mu and the next.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cofm_triton.cpu.allocator import empty_like
from cofm_triton.cpu.guess import LINEAR_MARGIN, MARGIN, guess_steps
from cofm_triton.cpu.jit.activation import constant, slope
from cofm_triton.cpu.jit.bits import like
from cofm_triton.cpu.jit.compiled import entry, inlined, inner
from cofm_triton.cpu.jit.forward import initial_states, scan
from cofm_triton.cpu.jit.region import each
from cofm_triton.cpu.jit.rows import (
    BLOCK,
    MAX_HELD,
    SAMPLES,
    Rows,
    block_at,
    in_dtype,
    numbers,
    row_lanes,
    with_rows,
)
from cofm_triton.cpu.jit.schedule import plan
from cofm_triton.cpu.jit.streams import fence, streams
from cofm_triton.cpu.jit.threads import launch, workers
from cofm_triton.cpu.jit.vectors import load, store, swap
from cofm_triton.cpu.packed import Pieces, cuts_of, pieces
from cofm_triton.step.activations import properties

# Time of a step that is not stored, relative to one that is: only the store is saved.
READ_COST = 0.7


def forward(
    x: Tensor, pull: Tensor, turn: Tensor, h0: Tensor | None, seq_starts: Tensor | Pieces | None, *,
    dt: float, nonlinearity: str, state_dtype: torch.dtype, num_sms: int = 1, lanes: int = 1,
    sequential: bool = False, resets: Tensor | None = None, reset_to: str = "h0",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`(h, h_last)` with T >= 1: h (B, T, D) in x's dtype, h_last (S, D) in the state's."""
    options: Any = dict(dt=dt, nonlinearity=nonlinearity, state_dtype=state_dtype)
    if resets is not None and not isinstance(seq_starts, Pieces):
        cut = pieces(resets, seq_starts, reverse=False, reset_to=reset_to)
        h, last = forward(x, pull, turn, cut.starts(h0), cut, **options)
        return h, last[cut.last]
    both = torch.stack((pull, turn))
    step, act = SAMPLES[pull.dtype].dtype.type(dt), properties(nonlinearity)

    def guess() -> int | None:
        """Steps of a guess, from the factor by which a step turns and shortens a difference where act' is 1."""
        factors = np.hypot(1 - step * numbers(pull), step * numbers(turn))
        return guess_steps(factors, LINEAR_MARGIN if act.is_linear else MARGIN)

    # A relu unit whose state has outgrown its input hardly moves, and guesses would be wrong.
    return scan(
        (constant(nonlinearity), step, both.stride(0) * both.itemsize), x, both[0], h0, seq_starts,
        guess=guess if act.is_restoring else None, reverse=False, state_dtype=state_dtype, read_cost=READ_COST,
    )  # fmt: skip


def backward(
    grad_h: Tensor, grad_last: Tensor | None, x: Tensor, pull: Tensor, turn: Tensor, h: Tensor, h0: Tensor | None,
    seq_starts: Tensor | Pieces | None, *,
    dt: float, nonlinearity: str, state_dtype: torch.dtype, num_sms: int = 1, lanes: int = 1,
    resets: Tensor | None = None, reset_to: str = "h0",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """`(grad_x, grad_pull, grad_turn, grad_h0)` with T >= 1; (D,), (D,) and (S, D) in the state's dtype."""
    options: Any = dict(dt=dt, nonlinearity=nonlinearity, state_dtype=state_dtype)
    if resets is not None and not isinstance(seq_starts, Pieces):
        cut = pieces(resets, seq_starts, reverse=False, reset_to=reset_to)
        grad_x, grad_pull, grad_turn, mu = backward(
            grad_h, cut.ends(grad_last), x, pull, turn, h, cut.starts(h0), cut, **options
        )
        return grad_x, grad_pull, grad_turn, cut.sum_at_start(mu)
    dtype, x, h, grad_h = x.dtype, with_rows(x), with_rows(h), with_rows(grad_h)
    grad_x, both = empty_like(x), numbers(torch.stack((pull, turn)))
    batch, length, channels = x.shape
    held, step = channels <= MAX_HELD, both.dtype.type(dt)
    parts = plan(batch, length, cuts_of(seq_starts), channels, None, workers())
    mus = initial_states(grad_last, parts.sequence, channels, state_dtype)
    firsts = initial_states(h0, parts.sequence, channels, state_dtype)
    sums = initial_states(None, parts.sequence, 2 * channels, state_dtype)
    tensors = (Rows(grad_h), Rows(x), Rows(h), Rows(grad_x))
    rows, streamed = parts.walk(tensors, True), streams(tensors[3])
    launch(
        _adjoint_held if held else _adjoint, parts.threads, len(mus), constant(nonlinearity), row_lanes(channels),
        *rows, streamed, both, step, mus, firsts, sums,
    )  # fmt: skip
    grad_pull, grad_turn = torch.from_numpy(parts.total(sums)).view(2, channels)
    return in_dtype(grad_x, dtype), grad_pull, grad_turn, torch.from_numpy(parts.at_end(mus))


@inlined
def _adjoint_step(
    act: Any, x: Any, before: Any, turned: Any, given: Any, mu: Any, pull: Any, turn: Any, dt: Any
) -> Any:
    """`(dx, mu of the step before)`; `turned` is `swap(before)`."""
    factor = dt * slope(act, x - pull * before + turn * turned)
    own, other = like(pull, 1.0) - pull * factor, turn * swap(factor)
    return factor * (given + mu), own * mu + ((own * given - other * swap(given)) - other * swap(mu))


@inlined
def _adjoint_row(
    act: Any, lanes: Any, begin: int, end: int, step: int, g: int, gk: Any, x: int, xk: Any, before: int, hk: Any,
    dx: int, dxk: Any, streamed: bool, both: int, distance: int, dt: Any, mu: int, total: int, mk: Any,
) -> None:  # fmt: skip
    """`both` and `total` are two rows each, of which the second lies `distance` bytes behind the first."""
    for k in range((end - begin) // len(lanes)):
        c = block_at(k, lanes, begin, end, step)
        at = c * mk.itemsize
        previous = load(lanes, before + c * hk.itemsize, hk)
        turned = swap(previous)
        product, earlier = _adjoint_step(
            act, load(lanes, x + c * xk.itemsize, xk), previous, turned, load(lanes, g + c * gk.itemsize, gk),
            load(lanes, mu + at, mk), load(lanes, both + at, mk), load(lanes, both + distance + at, mk), dt,
        )  # fmt: skip
        store(product, dx + c * dxk.itemsize, dxk, streamed)
        store(earlier, mu + at, mk, False)
        store(load(lanes, total + at, mk) - product * previous, total + at, mk, False)
        store(load(lanes, total + distance + at, mk) + product * turned, total + distance + at, mk, False)


@inner
def _adjoint_held_part(
    i: int, act: Any, lanes: Any, places: Any, _begins: Any, counts: Any, g_step: int, gk: Any, x_step: int, xk: Any,
    h_step: int, hk: Any, dx_step: int, dxk: Any, streamed: bool, both: Any, dt: Any, mus: Any, firsts: Any,
    totals: Any,
) -> None:  # fmt: skip
    """h[t-1] of step t is the next row of h, that of the last one is in `firsts`."""
    if not counts[i]:
        return
    (g, x, h, dx), mu = (places[i, 0], places[i, 1], places[i, 2], places[i, 3]), mus[i]
    first, total, inner = firsts[i], totals[i].ctypes.data, counts[i] - 1
    distance = len(lanes) * mu.itemsize
    held = load(lanes, mu.ctypes.data, mu)
    pull, turn = load(lanes, both.ctypes.data, mu), load(lanes, both.ctypes.data + distance, mu)
    grad_pull = grad_turn = like(pull, 0.0)
    for t in range(inner):
        previous = load(lanes, h + (t + 1) * h_step, hk)
        turned = swap(previous)
        given = load(lanes, g + t * g_step, gk)
        product, held = _adjoint_step(
            act, load(lanes, x + t * x_step, xk), previous, turned, given, held, pull, turn, dt
        )
        store(product, dx + t * dx_step, dxk, streamed)
        grad_pull = grad_pull - product * previous
        grad_turn = grad_turn + product * turned
    store(held, mu.ctypes.data, mu, False)
    store(grad_pull, total, mu, False)
    store(grad_turn, total + distance, mu, False)
    _adjoint_row(
        act, lanes, 0, len(lanes), g_step, g + inner * g_step, gk, x + inner * x_step, xk, first.ctypes.data, first,
        dx + inner * dx_step, dxk, False, both.ctypes.data, distance, dt, mu.ctypes.data, total, mu,
    )  # fmt: skip
    fence()


@inner
def _adjoint_part(
    i: int, act: Any, lanes: Any, places: Any, _begins: Any, counts: Any, g_step: int, gk: Any, x_step: int, xk: Any,
    h_step: int, hk: Any, dx_step: int, dxk: Any, streamed: bool, both: Any, dt: Any, mus: Any, firsts: Any,
    totals: Any,
) -> None:  # fmt: skip
    """As `_adjoint_held_part`, for rows in blocks."""
    if not counts[i]:
        return
    (g, x, h, dx), mu = (places[i, 0], places[i, 1], places[i, 2], places[i, 3]), mus[i]
    first, inner, size = firsts[i], counts[i] - 1, mu.size
    states = (both.ctypes.data, size * mu.itemsize, dt, mu.ctypes.data, totals[i].ctypes.data, mu)
    wide = size - size % len(BLOCK)
    for t in range(inner):
        rows = (
            g_step, g + t * g_step, gk, x + t * x_step, xk, h + (t + 1) * h_step, hk, dx + t * dx_step, dxk, streamed,
            *states,
        )  # fmt: skip
        _adjoint_row(act, BLOCK, 0, wide, *rows)
        _adjoint_row(act, lanes, wide, size, *rows)
    last = (
        g_step, g + inner * g_step, gk, x + inner * x_step, xk, first.ctypes.data, first, dx + inner * dx_step, dxk,
        False, *states,
    )  # fmt: skip
    _adjoint_row(act, BLOCK, 0, wide, *last)
    _adjoint_row(act, lanes, wide, size, *last)
    fence()


@entry
def _adjoint_held(entry: int, first: int, threads: int, count: int, rest: Any) -> None:
    each(entry, first, threads, count, _adjoint_held_part, rest)


@entry
def _adjoint(entry: int, first: int, threads: int, count: int, rest: Any) -> None:
    each(entry, first, threads, count, _adjoint_part, rest)

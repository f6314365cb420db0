"""Diagonal nonlinear recurrence compiled for the CPU: all channels of a row at a time.

    h[t] = h[t-1] + dt * act(z[t]),   z[t] = x[t] - rate * h[t-1]

Adjoint, with mu what arrives from later steps and s = act'(z): `lambda[t] = g[t] + mu[t]`, `dx[t] = dt s[t] lambda[t]`,
`mu[t-1] = lambda[t] - rate dx[t]`, `drate -= dx[t] h[t-1]`. z is formed again from x and h[t-1]. Work is shared out as
in the linear scan.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from cofm_triton.cpu.jit.activation import activate, slope
from cofm_triton.cpu.jit.linear_scan import initial_states
from cofm_triton.cpu.jit.rows import OPTIONS, Rows, held_width, hold, load, numbers, release, row, store, with_rows
from cofm_triton.cpu.jit.schedule import Part, sequences, share
from cofm_triton.cpu.memory import empty
from cofm_triton.nonlinearity import NONLINEARITIES

# Time of a step that is not stored over that of one that is: the arithmetic is the same, only the store is saved.
READ_COST = 0.7


@njit(**OPTIONS)
def _advance(act: Any, width: Any, x: int, x_step: int, xk: Any, rate: Any, dt: Any, state: Any, steps: int) -> None:
    held, rates = hold(width, state), hold(width, rate)
    for t in range(steps):
        _advance_row(act, row(x + t * x_step, xk, held.size), rates, dt, held)
    release(width, held, state)


@njit(forceinline=True, **OPTIONS)
def _advance_row(act: Any, x: Any, rate: Any, dt: Any, state: Any) -> None:
    for d in range(state.size):
        state[d] += dt * activate(len(act), load(x[d]) - rate[d] * state[d])


@njit(**OPTIONS)
def _forward(
    act: Any, width: Any, x: int, x_step: int, xk: Any, h: int, h_step: int, hk: Any, rate: Any, dt: Any, state: Any,
    steps: int,
) -> None:  # fmt: skip
    held, rates = hold(width, state), hold(width, rate)
    for t in range(steps):
        _forward_row(act, row(x + t * x_step, xk, held.size), row(h + t * h_step, hk, held.size), rates, dt, held)
    release(width, held, state)


@njit(forceinline=True, **OPTIONS)
def _forward_row(act: Any, x: Any, h: Any, rate: Any, dt: Any, state: Any) -> None:
    for d in range(state.size):
        value = state[d] + dt * activate(len(act), load(x[d]) - rate[d] * state[d])
        state[d] = value
        h[d] = store(value, h)


@njit(**OPTIONS)
def _adjoint(
    act: Any, width: Any, g: int, g_step: int, gk: Any, x: int, x_step: int, xk: Any, before: int, before_step: int,
    hk: Any, dx: int, dx_step: int, dxk: Any, rate: Any, dt: Any, mu: Any, first: Any, total: Any, inner: int,
    steps: int,
) -> None:  # fmt: skip
    """The steps from `inner` on (one at most) have h[t-1] = first, the others find it `before_step` further."""
    held, rates, sums = hold(width, mu), hold(width, rate), hold(width, total)
    size = held.size
    for t in range(inner):
        _adjoint_row(
            act, row(g + t * g_step, gk, size), row(x + t * x_step, xk, size),
            row(before + t * before_step, hk, size), row(dx + t * dx_step, dxk, size), rates, dt, held, sums,
        )  # fmt: skip
    for t in range(inner, steps):
        _adjoint_row(
            act, row(g + t * g_step, gk, size), row(x + t * x_step, xk, size), first,
            row(dx + t * dx_step, dxk, size), rates, dt, held, sums,
        )  # fmt: skip
    release(width, held, mu)
    release(width, sums, total)


@njit(forceinline=True, **OPTIONS)
def _adjoint_row(act: Any, g: Any, x: Any, before: Any, dx: Any, rate: Any, dt: Any, mu: Any, total: Any) -> None:
    for d in range(mu.size):
        previous = load(before[d])
        adjoint = load(g[d]) + mu[d]
        product = dt * slope(len(act), load(x[d]) - rate[d] * previous) * adjoint
        mu[d] = adjoint - rate[d] * product
        total[d] -= product * previous
        dx[d] = store(product, dx)


def constant(nonlinearity: str) -> tuple[int, ...]:
    """A nonlinearity as a type, so that it is a constant in compiled rows: a tuple of as many entries as its index."""
    return (0,) * NONLINEARITIES.index(nonlinearity)


def forward(
    x: Tensor, rate: Tensor, h0: Tensor | None, seq_starts: Tensor | None, *,
    dt: float, nonlinearity: str, state_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`(h, h_last)` with T >= 1: h (B, T, D) in x's dtype, h_last (S, D) in the state's."""
    dtype, x = x.dtype, with_rows(x)
    h = empty(x.shape, x.dtype)
    spans = sequences(seq_starts, x.shape[0], x.shape[1])
    starts = initial_states(h0, len(spans), x.shape[2], state_dtype)
    last = np.empty_like(starts)
    xs, hs, rates = Rows(x), Rows(h), numbers(rate)
    act, width = constant(nonlinearity), held_width(x.shape[2])
    step = rates.dtype.type(dt)

    def work(part: Part) -> None:
        span, state = spans[part.sequence], starts[part.sequence].copy()
        _advance(act, width, *span.address(xs, 0, False), xs.sample, rates, step, state, part.begin)
        _forward(
            act, width, *span.address(xs, part.begin, False), xs.sample,
            *span.address(hs, part.begin, False), hs.sample,
            rates, step, state, part.end - part.begin,
        )  # fmt: skip
        if part.end == span.length:
            last[part.sequence] = state

    share(work, [span.length for span in spans], x.shape[2], READ_COST)
    return h.to(dtype), torch.from_numpy(last)


def backward(
    grad_h: Tensor, grad_last: Tensor | None, x: Tensor, rate: Tensor, h: Tensor, h0: Tensor | None,
    seq_starts: Tensor | None, *, dt: float, nonlinearity: str, state_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`(grad_x, grad_rate, grad_h0)` with T >= 1; grad_rate (D,) and grad_h0 (S, D) in the state's dtype.

    A sequence is never split in time: its adjoint needs every Jacobian on the way, so that bringing it to a later part
    would cost as much as the part itself.
    """
    dtype, x, h, grad_h = x.dtype, with_rows(x), with_rows(h), with_rows(grad_h)
    grad_x = empty(x.shape, x.dtype)
    spans = sequences(seq_starts, x.shape[0], x.shape[1])
    starts = initial_states(h0, len(spans), x.shape[2], state_dtype)
    grad_h0 = initial_states(grad_last, len(spans), x.shape[2], state_dtype).copy()
    totals = np.zeros_like(grad_h0)
    gs, xs, hs, dxs, rates = Rows(grad_h), Rows(x), Rows(h), Rows(grad_x), numbers(rate)
    act, width = constant(nonlinearity), held_width(x.shape[2])
    step = rates.dtype.type(dt)

    def work(part: Part) -> None:
        span = spans[part.sequence]
        before = span.address(hs, min(1, span.length - 1), True)
        _adjoint(
            act, width, *span.address(gs, 0, True), gs.sample, *span.address(xs, 0, True), xs.sample,
            *before, hs.sample,
            *span.address(dxs, 0, True), dxs.sample, rates, step, grad_h0[part.sequence],
            starts[part.sequence], totals[part.sequence], max(span.length - 1, 0), span.length,
        )  # fmt: skip

    share(work, [span.length for span in spans], x.shape[2], None)
    return grad_x.to(dtype), torch.from_numpy(totals.sum(0)), torch.from_numpy(grad_h0)

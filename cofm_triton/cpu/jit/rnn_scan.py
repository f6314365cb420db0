"""Diagonal nonlinear recurrence compiled for the CPU; the forward pass and how work is shared out are in `forward.py`.

    h[t] = h[t-1] + dt * act(z[t]),   z[t] = x[t] - rate * h[t-1]

Adjoint, with mu what arrives from later steps and s = act'(z): `lambda[t] = g[t] + mu[t]`, `dx[t] = dt s[t] lambda[t]`,
`mu[t-1] = lambda[t] - rate dx[t]`, `drate -= dx[t] h[t-1]`. z is formed again from x and h[t-1], and mu as
`(1 - rate dt s) mu + (1 - rate dt s) g`: one fused operation between one mu and the next.

`varies` is a tuple that tells compiled code whether rates vary in time, `(0,)`, or not, `()`. Those that do not lie at
one address, and their gradient is summed in a register.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numba.extending import overload
from torch import Tensor

from cofm_triton.cpu.allocator import empty, empty_like
from cofm_triton.cpu.guess import LINEAR_MARGIN, MARGIN, guess_steps
from cofm_triton.cpu.jit.activation import constant, slope
from cofm_triton.cpu.jit.alone import alone
from cofm_triton.cpu.jit.bits import like
from cofm_triton.cpu.jit.chains import chain_plan, worth_a_guess
from cofm_triton.cpu.jit.compiled import OPTIONS, entry, inlined, inner
from cofm_triton.cpu.jit.forward import initial_states, scan, small_scan
from cofm_triton.cpu.jit.region import each
from cofm_triton.cpu.jit.rows import (
    BLOCK,
    MAX_HELD,
    SAMPLES,
    Rows,
    across,
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
from cofm_triton.cpu.jit.vectors import distribute, load, store
from cofm_triton.cpu.packed import Pieces, cuts_of, pieces
from cofm_triton.step.activations import properties
from cofm_triton.step.step_rate import step_rate, step_rate_slope

# Time of a step that is not stored, relative to one that is: only the store is saved.
READ_COST = 0.7


def forward(
    x: Tensor, w: Tensor, h0: Tensor | None, seq_starts: Tensor | Pieces | None, *,
    dt: float, nonlinearity: str, parameterization: str, discretization: str, state_dtype: torch.dtype,
    num_sms: int = 1, sequential: bool = False, resets: Tensor | None = None, reset_to: str = "h0",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`(h, h_last)` with T >= 1: h (B, T, D) in x's dtype, h_last (S, D) in the state's."""
    if resets is not None and not isinstance(seq_starts, Pieces):
        cut = pieces(resets, seq_starts, reverse=False, reset_to=reset_to)
        h, last = forward(
            x, w, cut.starts(h0), cut, dt=dt, nonlinearity=nonlinearity, parameterization=parameterization,
            discretization=discretization, state_dtype=state_dtype,
        )  # fmt: skip
        return h, last[cut.last]
    rate = step_rate(w, dt, parameterization, discretization)
    step, known = SAMPLES[state_dtype].dtype.type(dt), rate.dim() == 1 and properties(nonlinearity).is_restoring
    return scan(
        (constant(nonlinearity), step), x, rate, h0, seq_starts,
        guess=partial(_guess, nonlinearity, rate, step) if known else None, reverse=False,
        state_dtype=state_dtype, read_cost=READ_COST,
    )  # fmt: skip


_Rule = tuple[float, str, str, str]  # dt, nonlinearity, parameterization, discretization


def small_forward(rule: _Rule, x: Tensor, w: Tensor, h0: Tensor | None) -> Callable[..., Any] | None:
    """What computes `forward` of tensors like these, if the call is a small one."""
    dt, nonlinearity, *kinds = rule
    act = constant(nonlinearity), SAMPLES.get(x.dtype, SAMPLES[torch.float32]).dtype.type(dt)
    whole = small_scan(act, False, x, step_rate(w, dt, *kinds), h0)

    def call(x: Tensor, w: Tensor, h0: Tensor | None) -> tuple[Tensor, Tensor]:
        assert whole is not None
        return whole(x, step_rate(w, dt, *kinds), h0)

    return None if whole is None else call


def small_backward(
    rule: _Rule, grad_h: Tensor, grad_last: Tensor | None, x: Tensor, w: Tensor, h: Tensor, h0: Tensor | None, *_: None
) -> Callable[..., Any] | None:  # fmt: skip
    """What computes `backward` of tensors like these, if the call is a small one; grad_h0 is None without h0."""
    dt, nonlinearity, *kinds = rule
    rate = step_rate(w, dt, *kinds)
    kept, varies = alone(True, (grad_last, h0), grad_h, x, h, x, rate, rate), (0,) if w.dim() == 3 else ()
    if kept is None:
        return None
    act, step, guesses = constant(nonlinearity), kept.nothing.dtype.type(dt), kept.states(None)

    def call(
        grad_h: Tensor, grad_last: Tensor | None, x: Tensor, w: Tensor, h: Tensor, h0: Tensor | None, *_: None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        rate, grad_x = step_rate(w, dt, *kinds), torch.empty_like(x)
        grad_rate = torch.empty_like(rate) if varies else rate
        mus, sums = kept.states(grad_last), kept.states(None)
        firsts = kept.nothing if h0 is None else h0.detach().numpy()
        rows = (kept.places(grad_h, x, h, grad_x, rate, grad_rate), *kept.rest)
        of_states = (False, step, mus, firsts, sums, kept.inner, guesses, 0)
        _adjoint_held(0, 0, 1, len(mus), (act, varies, kept.lanes, *rows, *of_states))
        grad_w = grad_rate if varies else torch.from_numpy(kept.total(sums))
        if rate is not w:
            grad_w = grad_w * step_rate_slope(w, dt, *kinds)
        return grad_x, grad_w, None if h0 is None else torch.from_numpy(mus)

    return call


def _guess(nonlinearity: str, rate: Tensor, step: Any) -> int | None:
    """Steps of a guess, from the factor by which a step multiplies a difference between two states, or two adjoints,
    where act' is 1. A unit of relu whose state has outgrown its input hardly moves, and guesses would be wrong.
    """
    return guess_steps(1 - step * numbers(rate), LINEAR_MARGIN if properties(nonlinearity).is_linear else MARGIN)


def backward(
    grad_h: Tensor, grad_last: Tensor | None, x: Tensor, w: Tensor, h: Tensor, h0: Tensor | None,
    seq_starts: Tensor | Pieces | None, *,
    dt: float, nonlinearity: str, parameterization: str, discretization: str, state_dtype: torch.dtype,
    num_sms: int = 1, resets: Tensor | None = None, reset_to: str = "h0",
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`(grad_x, grad_w, grad_h0)` with T >= 1; grad_w like w, grad_h0 (S, D) in the state's dtype.

    A sequence is split in time by guesses alone (`chains.py`): its adjoint needs every Jacobian on the way, so that
    bringing it to a later part would cost as much as the part itself.
    """
    if resets is not None and not isinstance(seq_starts, Pieces):
        cut = pieces(resets, seq_starts, reverse=False, reset_to=reset_to)
        grad_x, grad_w, mu = backward(
            grad_h, cut.ends(grad_last), x, w, h, cut.starts(h0), cut, dt=dt, nonlinearity=nonlinearity,
            parameterization=parameterization, discretization=discretization, state_dtype=state_dtype,
        )  # fmt: skip
        return grad_x, grad_w, cut.sum_at_start(mu)
    dtype, channels, rate = x.dtype, x.shape[2], step_rate(w, dt, parameterization, discretization)
    varies = (0,) if rate.dim() == 3 else ()
    step, held, guessed = SAMPLES[state_dtype].dtype.type(dt), channels <= MAX_HELD, 0
    x, h, grad_h = with_rows(x), with_rows(h), with_rows(grad_h)
    grad_x, rates, (batch, length, _) = empty_like(x), gate_rows(rate, x.shape), x.shape
    grad_rate = empty(x.shape, rates.tensor.dtype) if varies else rates.tensor
    starts, threads, lanes = cuts_of(seq_starts), workers(), row_lanes(channels)
    parts = plan(batch, length, starts, channels, None, threads)
    can_guess = held and not varies and not isinstance(starts, Pieces) and properties(nonlinearity).is_restoring
    if can_guess and worth_a_guess(len(parts.last), length, threads, 1):
        steps = _guess(nonlinearity, rate, step)
        chains = chain_plan(batch, length, starts, steps, threads, 1)
        if chains is not None and steps is not None:
            parts, guessed = chains, steps
    tensors = (Rows(grad_h), Rows(x), Rows(h), Rows(grad_x), rates, Rows(grad_rate))
    rows, streamed = parts.walk(tensors, True), streams(tensors[3]) and (not varies or streams(tensors[5]))
    mus = initial_states(grad_last, parts.sequence, channels, state_dtype)
    firsts = initial_states(h0, parts.sequence, channels, state_dtype)
    sums = initial_states(None, parts.sequence, channels, state_dtype)
    rule, states = (constant(nonlinearity), varies, lanes), (step, mus, firsts, sums)
    if held:
        guesses = np.zeros(mus.shape, mus.dtype)
        work = (*rule, *rows, streamed, *states, parts.inner, guesses)
        launch(_adjoint_held, parts.threads, len(mus), *work, guessed)
        if guessed:
            _settle(*work)
    else:
        launch(_adjoint, parts.threads, len(mus), *rule, *rows, streamed, *states)
    grad_w = in_dtype(grad_rate, w.dtype) if varies else torch.from_numpy(parts.total(sums))
    if rate is not w:  # otherwise the slope is 1
        grad_w = grad_w * step_rate_slope(w, dt, parameterization, discretization)
    return in_dtype(grad_x, dtype), grad_w, torch.from_numpy(parts.at_end(mus))


def _rates_at(varies: Any, rates: Any, lanes: Any, rate: int, rk: Any) -> Any:
    """The rates of a step, a vector; `rates` if they are those of every step."""
    raise TypeError("compiled code only")


@overload(_rates_at, jit_options=OPTIONS)
def _rates_at_overload(varies: Any, rates: Any, lanes: Any, rate: Any, rk: Any) -> Any:
    def the_same(varies: Any, rates: Any, lanes: Any, rate: Any, rk: Any) -> Any:
        return rates

    def its_own(varies: Any, rates: Any, lanes: Any, rate: Any, rk: Any) -> Any:
        return load(lanes, rate, rk)

    return its_own if len(varies) else the_same


def _sum_with(varies: Any, sums: Any, product: Any, previous: Any, drate: int, drk: Any, streamed: bool) -> Any:
    """The sum of the rates' gradients after a step, unless they vary: then that of the step is stored."""
    raise TypeError("compiled code only")


@overload(_sum_with, jit_options=OPTIONS)
def _sum_with_overload(varies: Any, sums: Any, product: Any, previous: Any, drate: Any, drk: Any, streamed: Any) -> Any:
    def summed(varies: Any, sums: Any, product: Any, previous: Any, drate: Any, drk: Any, streamed: Any) -> Any:
        return sums - product * previous

    def stored(varies: Any, sums: Any, product: Any, previous: Any, drate: Any, drk: Any, streamed: Any) -> Any:
        store(-(product * previous), drate, drk, streamed)
        return sums

    return stored if len(varies) else summed


@inlined
def _factor(act: Any, x: Any, before: Any, rate: Any, dt: Any) -> Any:
    """Derivative of the increment `dt act(z)` by z."""
    return dt * slope(act, x - rate * before)


@inlined
def _adjoint_row(
    act: Any, varies: Any, lanes: Any, begin: int, end: int, step: int, g: int, gk: Any, x: int, xk: Any, before: int,
    hk: Any, dx: int, dxk: Any, rate: int, rk: Any, drate: int, drk: Any, streamed: bool, dt: Any, mu: int, total: int,
    mk: Any,
) -> None:  # fmt: skip
    for k in range((end - begin) // len(lanes)):
        c = block_at(k, lanes, begin, end, step)
        at = c * mk.itemsize
        previous, rates = load(lanes, before + c * hk.itemsize, hk), load(lanes, rate + across(c, rk), rk)
        given, arrived = load(lanes, g + c * gk.itemsize, gk), load(lanes, mu + at, mk)
        factor = _factor(act, load(lanes, x + c * xk.itemsize, xk), previous, rates, dt)
        product = factor * (given + arrived)
        store(product, dx + c * dxk.itemsize, dxk, streamed)
        store(distribute(like(rates, 1.0) - rates * factor, arrived, given), mu + at, mk, False)
        sums = load(lanes, total + at, mk)
        sums = _sum_with(varies, sums, product, previous, drate + c * drk.itemsize, drk, streamed)
        store(sums, total + at, mk, False)


@inner
def _adjoint_held_part(
    i: int, act: Any, varies: Any, lanes: Any, places: Any, begins: Any, counts: Any, g_step: int, gk: Any, x_step: int,
    xk: Any, h_step: int, hk: Any, dx_step: int, dxk: Any, rate_step: int, rk: Any, drate_step: int, drk: Any,
    streamed: bool, dt: Any, mus: Any, firsts: Any, totals: Any, inners: Any, guesses: Any, guessed: int,
) -> None:  # fmt: skip
    """h[t-1] of step t is the next row of h, that of steps from `inners[i]` on (one at most) is in `firsts`.

    Parts that do not begin a sequence guess mu from the steps before them, and leave the guess in `guesses`.
    """
    if not counts[i]:
        return
    (g, x, h, dx), mu = (places[i, 0], places[i, 1], places[i, 2], places[i, 3]), mus[i]
    rate, drate = places[i, 4], places[i, 5]
    first, total, inner = firsts[i], totals[i], inners[i]
    held, sums = load(lanes, mu.ctypes.data, mu), load(lanes, total.ctypes.data, total)
    rates = load(lanes, rate, rk)
    one = like(rates, 1.0)
    if begins[i]:
        held = like(rates, 0.0)
        for t in range(-guessed, 0):
            previous = load(lanes, h + (t + 1) * h_step, hk)
            factor = _factor(act, load(lanes, x + t * x_step, xk), previous, rates, dt)
            held = distribute(one - rates * factor, held, load(lanes, g + t * g_step, gk))
        store(held, guesses[i].ctypes.data, mu, False)
    for t in range(inner):
        rates = _rates_at(varies, rates, lanes, rate + t * rate_step, rk)
        previous = load(lanes, h + (t + 1) * h_step, hk)
        factor = _factor(act, load(lanes, x + t * x_step, xk), previous, rates, dt)
        given = load(lanes, g + t * g_step, gk)
        product = factor * (given + held)
        store(product, dx + t * dx_step, dxk, streamed)
        held = distribute(one - rates * factor, held, given)
        sums = _sum_with(varies, sums, product, previous, drate + t * drate_step, drk, streamed)
    store(held, mu.ctypes.data, mu, False)
    store(sums, total.ctypes.data, total, False)
    if inner < counts[i]:
        _adjoint_row(
            act, varies, lanes, 0, len(lanes), g_step, g + inner * g_step, gk, x + inner * x_step, xk,
            first.ctypes.data, first, dx + inner * dx_step, dxk, rate + inner * rate_step, rk,
            drate + inner * drate_step, drk, False, dt, mu.ctypes.data, total.ctypes.data, mu,
        )  # fmt: skip
    fence()


def _settle(*work: Any) -> None:
    """Run the parts with wrong guesses again, in order; arguments of `_adjoint_held_part`
    from `act` to `guesses`.
    """
    act, varies, lanes, places, begins, counts, *steps, mus, firsts, sums, inners, guesses = work
    for i in np.flatnonzero(begins):
        if guesses[i].tobytes() == mus[i - 1].tobytes():
            continue
        one = slice(i, i + 1)
        mus[i], sums[i] = mus[i - 1], 0
        of_part = (mus[one], firsts[one], sums[one], inners[one], guesses[one])
        begin = np.zeros(1, np.int64)
        launch(_adjoint_held, 1, 1, act, varies, lanes, places[one], begin, counts[one], *steps, *of_part, 0)


@inner
def _adjoint_part(
    i: int, act: Any, varies: Any, lanes: Any, places: Any, _begins: Any, counts: Any, g_step: int, gk: Any,
    x_step: int, xk: Any, h_step: int, hk: Any, dx_step: int, dxk: Any, rate_step: int, rk: Any, drate_step: int,
    drk: Any, streamed: bool, dt: Any, mus: Any, firsts: Any, totals: Any,
) -> None:  # fmt: skip
    """As `_adjoint_held_part`, for rows in blocks."""
    if not counts[i]:
        return
    (g, x, h, dx), mu = (places[i, 0], places[i, 1], places[i, 2], places[i, 3]), mus[i]
    rate, drate = places[i, 4], places[i, 5]
    first, inner, size = firsts[i], counts[i] - 1, mu.size
    states = (dt, mu.ctypes.data, totals[i].ctypes.data, mu)
    wide = size - size % len(BLOCK)
    for t in range(inner):
        rows = (
            g_step, g + t * g_step, gk, x + t * x_step, xk, h + (t + 1) * h_step, hk, dx + t * dx_step, dxk,
            rate + t * rate_step, rk, drate + t * drate_step, drk, streamed, *states,
        )  # fmt: skip
        _adjoint_row(act, varies, BLOCK, 0, wide, *rows)
        _adjoint_row(act, varies, lanes, wide, size, *rows)
    last = (
        g_step, g + inner * g_step, gk, x + inner * x_step, xk, first.ctypes.data, first, dx + inner * dx_step, dxk,
        rate + inner * rate_step, rk, drate + inner * drate_step, drk, False, *states,
    )  # fmt: skip
    _adjoint_row(act, varies, BLOCK, 0, wide, *last)
    _adjoint_row(act, varies, lanes, wide, size, *last)
    fence()


@entry
def _adjoint_held(entry: int, first: int, threads: int, count: int, rest: Any) -> None:
    each(entry, first, threads, count, _adjoint_held_part, rest)


@entry
def _adjoint(entry: int, first: int, threads: int, count: int, rest: Any) -> None:
    each(entry, first, threads, count, _adjoint_part, rest)

"""Linear scan compiled for the CPU; the forward recurrence and how work is shared out are in `forward.py`.

The adjoint is written with mu, what arrives from later steps: `lambda[t] = g[t] + mu[t]`,
`mu[t-1] = conj(decay[t]) lambda[t]`, `dx = lambda`, `ddecay[t] = lambda[t] conj(h[t-1])`. mu is computed as
`conj(decay) mu + conj(decay) g`: one fused operation between one mu and the next. The gradient of a gate that all
channels share is summed over the channels step by step, in an order that depends on their number alone.

Pairs of real channels with a complex decay are read as complex numbers, without a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cofm_triton.cpu.allocator import empty, empty_like
from cofm_triton.cpu.guess import LINEAR_MARGIN, guess_steps
from cofm_triton.cpu.jit.alone import DTYPES, alone
from cofm_triton.cpu.jit.compiled import entry, inlined, inner
from cofm_triton.cpu.jit.forward import initial_states, scan, small_scan
from cofm_triton.cpu.jit.region import each
from cofm_triton.cpu.jit.rows import (
    BLOCK,
    MAX_HELD,
    Rows,
    across,
    as_numbers,
    as_pairs,
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
from cofm_triton.cpu.jit.vectors import conjugate, distribute, load, store, total, zeros
from cofm_triton.cpu.packed import Pieces, cuts_of, pieces
from cofm_triton.step.pairs import in_pairs

# Time of a step that is not stored, relative to one that is: constant decay, gates.
READ_COST = (0.4, 0.6)


def forward(
    x: Tensor, decay: Tensor, h0: Tensor | None, seq_starts: Tensor | Pieces | None, *, reverse: bool,
    state_dtype: torch.dtype, resets: Tensor | None = None, reset_to: str = "h0", num_sms: int = 1, lanes: int = 1,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`(h, h_last)` with T >= 1: h (B, T, D) in x's dtype, h_last (S, D) in the state's."""
    if resets is not None and not isinstance(seq_starts, Pieces):
        cut = pieces(resets, seq_starts, reverse=reverse, reset_to=reset_to)
        h, last = forward(x, decay, cut.starts(h0), cut, reverse=reverse, state_dtype=state_dtype)
        return h, last[cut.last]
    if in_pairs(x, decay):
        start = None if h0 is None else as_pairs(h0)
        z, last = forward(as_pairs(x), decay, start, seq_starts, reverse=reverse, state_dtype=decay.dtype)
        return as_numbers(z, x.dtype), as_numbers(last, state_dtype)
    gated = decay.dim() == 3
    if not gated and (decay.is_conj() or decay.is_neg()):
        decay = decay.resolve_conj().resolve_neg()
    return scan(
        (), x, decay, h0, seq_starts, guess=None if gated else partial(_guess, decay), reverse=reverse,
        state_dtype=state_dtype, read_cost=READ_COST[gated],
    )  # fmt: skip


def small_forward(x: Tensor, decay: Tensor, h0: Tensor | None, reverse: bool) -> Callable[..., Any] | None:
    """What computes `forward` of tensors like these, x, decay and h0, if the call is a small one."""
    if not in_pairs(x, decay):
        return small_scan((), reverse, x, decay, h0)
    # As complex numbers: 16 bit would have to be rounded after the call.
    whole = small_scan((), reverse, as_pairs(x), decay, _pairs(h0)) if x.dtype in DTYPES else None

    def call(x: Tensor, decay: Tensor, h0: Tensor | None) -> tuple[Tensor, Tensor]:
        assert whole is not None
        z, last = whole(as_pairs(x), decay, _pairs(h0))
        return as_numbers(z, x.dtype), as_numbers(last, x.dtype)

    return None if whole is None else call


def small_backward(
    reverse: bool, grad_h: Tensor, grad_last: Tensor | None, decay: Tensor, h: Tensor, h0: Tensor | None, *_: None
) -> Callable[..., Any] | None:  # fmt: skip
    """What computes `backward` of tensors like these, if the call is a small one; grad_h0 is None without h0."""
    if in_pairs(h, decay):
        if h.dtype not in DTYPES:
            return None
        whole = small_backward(reverse, as_pairs(grad_h), _pairs(grad_last), decay, as_pairs(h), _pairs(h0))

        def of_pairs(
            grad_h: Tensor, grad_last: Tensor | None, decay: Tensor, h: Tensor, h0: Tensor | None, *_: None
        ) -> tuple[Tensor | None, ...]:  # fmt: skip
            assert whole is not None
            found = whole(as_pairs(grad_h), _pairs(grad_last), decay, as_pairs(h), _pairs(h0))
            grad_h0 = None if h0 is None else as_numbers(found[2], h.dtype)
            return as_numbers(found[0], h.dtype), found[1], grad_h0

        return None if whole is None else of_pairs
    kept = None if decay.dim() > 1 else alone(not reverse, (grad_last, h0), grad_h, h, decay, h)
    if kept is None:
        return None

    def call(
        grad_h: Tensor, grad_last: Tensor | None, decay: Tensor, h: Tensor, h0: Tensor | None, *_: None
    ) -> tuple[Tensor | None, ...]:
        gates, grad_x = decay.conj().resolve_conj() if decay.is_complex() else decay, torch.empty_like(h)
        mus, sums = kept.states(grad_last), kept.states(None)
        firsts = kept.nothing if h0 is None else h0.detach().numpy()
        rows = (kept.places(grad_h, h, gates, grad_x), *kept.rest)
        _adjoint_held(0, 0, 1, len(mus), (kept.lanes, *rows, False, mus, firsts, kept.inner, sums))
        grad_h0 = None if h0 is None else torch.from_numpy(mus)
        return grad_x, torch.from_numpy(kept.total(sums)), grad_h0

    return call


def _pairs(states: Tensor | None) -> Tensor | None:
    return None if states is None else as_pairs(states)


def _guess(decay: Tensor) -> int | None:
    return guess_steps(numbers(decay), LINEAR_MARGIN)


def backward(
    grad_h: Tensor, grad_last: Tensor | None, decay: Tensor, h: Tensor, h0: Tensor | None,
    seq_starts: Tensor | Pieces | None, *, reverse: bool, state_dtype: torch.dtype, resets: Tensor | None = None,
    reset_to: str = "h0", num_sms: int = 1, lanes: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`(grad_x, grad_decay, grad_h0)` with T >= 1; a (D,) grad_decay and grad_h0 (S, D) in the state's dtype.

    The gradient of gates is (B, T, D), or (B, T, 1) for those that are (..., 1).
    """
    if resets is not None and not isinstance(seq_starts, Pieces):
        cut = pieces(resets, seq_starts, reverse=reverse, reset_to=reset_to)
        grad_x, grad_decay, mu = backward(
            grad_h, cut.ends(grad_last), decay, h, cut.starts(h0), cut, reverse=reverse, state_dtype=state_dtype
        )
        return grad_x, grad_decay, cut.sum_at_start(mu)
    if in_pairs(h, decay):
        last, start = (None if states is None else as_pairs(states) for states in (grad_last, h0))
        grads = backward(
            as_pairs(grad_h), last, decay, as_pairs(h), start, seq_starts, reverse=reverse, state_dtype=decay.dtype
        )  # fmt: skip
        return as_numbers(grads[0], h.dtype), grads[1], as_numbers(grads[2], state_dtype)
    pull = _constant_backward if decay.dim() == 1 else _gated_backward
    return pull(grad_h, grad_last, decay, h, h0, seq_starts, reverse, state_dtype)


def _constant_backward(
    grad_h: Tensor, grad_last: Tensor | None, decay: Tensor, h: Tensor, h0: Tensor | None,
    seq_starts: Tensor | Pieces | None, reverse: bool, state_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dtype, channels, gates = h.dtype, h.shape[2], decay.conj()
    h, grad_h = with_rows(h), with_rows(grad_h)
    grad_x, vector = empty_like(h), row_lanes(channels)
    # Steps of the adjoint count from the end of the sequence.
    parts = plan(h.shape[0], h.shape[1], cuts_of(seq_starts), channels, READ_COST[False], workers())
    tensors = (Rows(grad_h), Rows(h), gate_rows(gates, h.shape), Rows(grad_x))
    rows, streamed = parts.walk(tensors, not reverse), streams(tensors[3])
    mus = initial_states(grad_last, parts.sequence, channels, state_dtype)
    # The earlier state of the adjoint's step k is the state at its step k + 1; the very last one is h0.
    firsts = initial_states(h0, parts.sequence, channels, state_dtype)
    sums = initial_states(None, parts.sequence, channels, state_dtype)
    kernel = _adjoint_held if channels <= MAX_HELD else _adjoint
    launch(kernel, parts.threads, len(mus), vector, *rows, streamed, mus, firsts, parts.inner, sums)
    grad_decay = in_dtype(torch.from_numpy(parts.total(sums)), decay.dtype)
    return in_dtype(grad_x, dtype), grad_decay, torch.from_numpy(parts.at_end(mus))


def _gated_backward(
    grad_h: Tensor, grad_last: Tensor | None, decay: Tensor, h: Tensor, h0: Tensor | None,
    seq_starts: Tensor | Pieces | None, reverse: bool, state_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dtype, h, grad_h, channels = h.dtype, with_rows(h), with_rows(grad_h), h.shape[2]
    gates, grad_x = gate_rows(decay.conj(), h.shape), empty_like(h)
    parts = plan(h.shape[0], h.shape[1], cuts_of(seq_starts), channels, READ_COST[True], workers())
    mus = initial_states(grad_last, parts.sequence, channels, state_dtype)
    firsts = initial_states(h0, parts.sequence, channels, state_dtype)
    summed = decay.shape[2] < channels
    grad_decay = empty((*h.shape[:2], decay.shape[2]), state_dtype if summed else gates.tensor.dtype)
    tensors = (Rows(grad_h), Rows(h), gates, Rows(grad_x), Rows(grad_decay, shared=summed))
    streamed = streams(tensors[3]) and (summed or streams(tensors[4]))
    kernel = _adjoint_gated_held if channels <= MAX_HELD else _adjoint_gated
    rows = parts.walk(tensors, not reverse)
    launch(kernel, parts.threads, len(mus), row_lanes(channels), *rows, streamed, mus, firsts, parts.inner)
    return in_dtype(grad_x, dtype), in_dtype(grad_decay, decay.dtype), torch.from_numpy(parts.at_end(mus))


@inlined
def _skip(lanes: Any, g: int, g_step: int, gk: Any, gate: int, gate_step: int, ak: Any, held: Any, steps: int) -> Any:
    """mu after the `steps` steps that come before the rows at g and gate."""
    for t in range(-steps, 0):
        held = distribute(load(lanes, gate + t * gate_step, ak), held, load(lanes, g + t * g_step, gk))
    return held


@inlined
def _skip_row(
    lanes: Any, begin: int, end: int, step: int, g: int, gk: Any, gate: int, ak: Any, mu: int, mk: Any
) -> None:
    for k in range((end - begin) // len(lanes)):
        c = block_at(k, lanes, begin, end, step)
        at = mu + c * mk.itemsize
        decay, given = load(lanes, gate + across(c, ak), ak), load(lanes, g + c * gk.itemsize, gk)
        store(distribute(decay, load(lanes, at, mk), given), at, mk, False)


@inner
def _skip_wide(
    lanes: Any, g: int, g_step: int, gk: Any, gate: int, gate_step: int, ak: Any, mu: Any, steps: int
) -> None:
    """As `_skip`, for rows in blocks."""
    size = mu.size
    wide = size - size % len(BLOCK)
    for t in range(-steps, 0):
        rows = (g_step, g + t * g_step, gk, gate + t * gate_step, ak, mu.ctypes.data, mu)
        _skip_row(BLOCK, 0, wide, *rows)
        _skip_row(lanes, wide, size, *rows)


@inlined
def _adjoint_row(
    lanes: Any, begin: int, end: int, step: int, g: int, gk: Any, before: int, hk: Any, gate: int, ak: Any, dx: int,
    dxk: Any, streamed: bool, mu: int, total: int, mk: Any,
) -> None:  # fmt: skip
    for k in range((end - begin) // len(lanes)):
        c = block_at(k, lanes, begin, end, step)
        at = c * mk.itemsize
        given, later = load(lanes, g + c * gk.itemsize, gk), load(lanes, mu + at, mk)
        adjoint = given + later
        store(adjoint, dx + c * dxk.itemsize, dxk, streamed)
        store(distribute(load(lanes, gate + across(c, ak), ak), later, given), mu + at, mk, False)
        product = adjoint * conjugate(load(lanes, before + c * hk.itemsize, hk))
        store(load(lanes, total + at, mk) + product, total + at, mk, False)


@inner
def _adjoint_held_part(
    i: int, lanes: Any, places: Any, begins: Any, counts: Any, g_step: int, gk: Any, h_step: int, hk: Any,
    gate_step: int, ak: Any, dx_step: int, dxk: Any, streamed: bool, mus: Any, firsts: Any, inner: Any, totals: Any,
) -> None:  # fmt: skip
    """h[t-1] of step t is the next row of h, that of steps from `inner` on (one at most) is in `firsts`."""
    (g, h, gate, dx), mu = (places[i, 0], places[i, 1], places[i, 2], places[i, 3]), mus[i]
    first, total = firsts[i], totals[i]
    held, sums = load(lanes, mu.ctypes.data, mu), load(lanes, total.ctypes.data, total)
    held = _skip(lanes, g, g_step, gk, gate, gate_step, ak, held, begins[i])
    for t in range(inner[i]):
        given = load(lanes, g + t * g_step, gk)
        adjoint = given + held
        store(adjoint, dx + t * dx_step, dxk, streamed)
        held = distribute(load(lanes, gate + t * gate_step, ak), held, given)
        sums = sums + adjoint * conjugate(load(lanes, h + (t + 1) * h_step, hk))
    store(held, mu.ctypes.data, mu, False)
    store(sums, total.ctypes.data, total, False)
    for t in range(inner[i], counts[i]):
        _adjoint_row(
            lanes, 0, len(lanes), g_step, g + t * g_step, gk, first.ctypes.data, first, gate + t * gate_step, ak,
            dx + t * dx_step, dxk, False, mu.ctypes.data, total.ctypes.data, mu,
        )  # fmt: skip
    fence()


@inner
def _adjoint_part(
    i: int, lanes: Any, places: Any, begins: Any, counts: Any, g_step: int, gk: Any, h_step: int, hk: Any,
    gate_step: int, ak: Any, dx_step: int, dxk: Any, streamed: bool, mus: Any, firsts: Any, inner: Any, totals: Any,
) -> None:  # fmt: skip
    """As `_adjoint_held_part`, for rows in blocks."""
    (g, h, gate, dx), mu = (places[i, 0], places[i, 1], places[i, 2], places[i, 3]), mus[i]
    first, sums = firsts[i], (mu.ctypes.data, totals[i].ctypes.data, mu)
    size = mu.size
    wide = size - size % len(BLOCK)
    _skip_wide(lanes, g, g_step, gk, gate, gate_step, ak, mu, begins[i])
    for t in range(inner[i]):
        rows = (
            g_step, g + t * g_step, gk, h + (t + 1) * h_step, hk, gate + t * gate_step, ak, dx + t * dx_step, dxk,
            streamed, *sums,
        )  # fmt: skip
        _adjoint_row(BLOCK, 0, wide, *rows)
        _adjoint_row(lanes, wide, size, *rows)
    for t in range(inner[i], counts[i]):
        last = (
            g_step, g + t * g_step, gk, first.ctypes.data, first, gate + t * gate_step, ak, dx + t * dx_step, dxk,
            False, *sums,
        )  # fmt: skip
        _adjoint_row(BLOCK, 0, wide, *last)
        _adjoint_row(lanes, wide, size, *last)
    fence()


@inlined
def _adjoint_gated_row(
    lanes: Any, begin: int, end: int, step: int, g: int, gk: Any, before: int, hk: Any, gate: int, ak: Any, dx: int,
    dxk: Any, da: int, dak: Any, streamed: bool, mu: int, mk: Any,
) -> Any:  # fmt: skip
    """Store the gradients of gates; of a gate that channels share, return the sum over channels [begin, end)."""
    sums = zeros(lanes, mk)
    for k in range((end - begin) // len(lanes)):
        c = block_at(k, lanes, begin, end, step)
        at = mu + c * mk.itemsize
        given, later = load(lanes, g + c * gk.itemsize, gk), load(lanes, at, mk)
        adjoint = given + later
        store(adjoint, dx + c * dxk.itemsize, dxk, streamed)
        store(distribute(load(lanes, gate + across(c, ak), ak), later, given), at, mk, False)
        product = adjoint * conjugate(load(lanes, before + c * hk.itemsize, hk))
        if dak.ndim == 1:
            store(product, da + c * dak.itemsize, dak, streamed)
        else:
            sums = sums + product
    return total(sums)


@inner
def _adjoint_gated_held_part(
    i: int, lanes: Any, places: Any, begins: Any, counts: Any, g_step: int, gk: Any, h_step: int, hk: Any,
    gate_step: int, ak: Any, dx_step: int, dxk: Any, da_step: int, dak: Any, streamed: bool, mus: Any, firsts: Any,
    inner: Any,
) -> None:  # fmt: skip
    """As `_adjoint_held_part`, with the gradient of each gate written out."""
    (g, h, gate), (dx, da) = (places[i, 0], places[i, 1], places[i, 2]), (places[i, 3], places[i, 4])
    mu, first = mus[i], firsts[i]
    held = _skip(lanes, g, g_step, gk, gate, gate_step, ak, load(lanes, mu.ctypes.data, mu), begins[i])
    for t in range(inner[i]):
        given = load(lanes, g + t * g_step, gk)
        adjoint = given + held
        store(adjoint, dx + t * dx_step, dxk, streamed)
        held = distribute(load(lanes, gate + t * gate_step, ak), held, given)
        product = adjoint * conjugate(load(lanes, h + (t + 1) * h_step, hk))
        if dak.ndim == 1:
            store(product, da + t * da_step, dak, streamed)
        else:
            store(total(product), da + t * da_step, dak, False)
    store(held, mu.ctypes.data, mu, False)
    for t in range(inner[i], counts[i]):
        shared = _adjoint_gated_row(
            lanes, 0, len(lanes), g_step, g + t * g_step, gk, first.ctypes.data, first, gate + t * gate_step, ak,
            dx + t * dx_step, dxk, da + t * da_step, dak, False, mu.ctypes.data, mu,
        )  # fmt: skip
        if dak.ndim == 0:
            store(shared, da + t * da_step, dak, False)
    fence()


@inner
def _adjoint_gated_part(
    i: int, lanes: Any, places: Any, begins: Any, counts: Any, g_step: int, gk: Any, h_step: int, hk: Any,
    gate_step: int, ak: Any, dx_step: int, dxk: Any, da_step: int, dak: Any, streamed: bool, mus: Any, firsts: Any,
    inner: Any,
) -> None:  # fmt: skip
    """As `_adjoint_gated_held_part`, for rows in blocks."""
    (g, h, gate), (dx, da) = (places[i, 0], places[i, 1], places[i, 2]), (places[i, 3], places[i, 4])
    mu, first = mus[i], firsts[i]
    size = mu.size
    wide = size - size % len(BLOCK)
    _skip_wide(lanes, g, g_step, gk, gate, gate_step, ak, mu, begins[i])
    for t in range(inner[i]):
        rows = (
            g_step, g + t * g_step, gk, h + (t + 1) * h_step, hk, gate + t * gate_step, ak, dx + t * dx_step, dxk,
            da + t * da_step, dak, streamed, mu.ctypes.data, mu,
        )  # fmt: skip
        shared = _adjoint_gated_row(BLOCK, 0, wide, *rows) + _adjoint_gated_row(lanes, wide, size, *rows)
        if dak.ndim == 0:
            store(shared, da + t * da_step, dak, False)
    for t in range(inner[i], counts[i]):
        last = (
            g_step, g + t * g_step, gk, first.ctypes.data, first, gate + t * gate_step, ak, dx + t * dx_step, dxk,
            da + t * da_step, dak, False, mu.ctypes.data, mu,
        )  # fmt: skip
        shared = _adjoint_gated_row(BLOCK, 0, wide, *last) + _adjoint_gated_row(lanes, wide, size, *last)
        if dak.ndim == 0:
            store(shared, da + t * da_step, dak, False)
    fence()


@entry
def _adjoint_held(entry: int, first: int, threads: int, count: int, rest: Any) -> None:
    each(entry, first, threads, count, _adjoint_held_part, rest)


@entry
def _adjoint(entry: int, first: int, threads: int, count: int, rest: Any) -> None:
    each(entry, first, threads, count, _adjoint_part, rest)


@entry
def _adjoint_gated_held(entry: int, first: int, threads: int, count: int, rest: Any) -> None:
    each(entry, first, threads, count, _adjoint_gated_held_part, rest)


@entry
def _adjoint_gated(entry: int, first: int, threads: int, count: int, rest: Any) -> None:
    each(entry, first, threads, count, _adjoint_gated_part, rest)

"""Dense nonlinear recurrence compiled for the CPU: a thread carries some sequences through all of time.

    z[t] = x[t] - weight @ h[t-1],   h[t] = h[t-1] + dt * act(z[t])

Adjoint, with s = act'(z): `lambda[t] = g[t] + mu[t]`, `dx[t] = dt s[t] lambda[t]`,
`mu[t-1] = lambda[t] - weight^T dx[t]`. Sequences are independent, so threads wait for each other only at the end. The
states of a thread's sequences, and the weight in panels, stay in its cache.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cofm_triton.cpu.allocator import empty
from cofm_triton.cpu.jit.activation import activate, constant, slope
from cofm_triton.cpu.jit.bfloat16 import load, store
from cofm_triton.cpu.jit.compiled import entry, inlined
from cofm_triton.cpu.jit.forward import initial_states
from cofm_triton.cpu.jit.product import TILE_ROWS, multiply, panels
from cofm_triton.cpu.jit.rows import Rows, aligned, numbers, row, with_rows
from cofm_triton.cpu.jit.threads import run, workers
from cofm_triton.cpu.sizes import MIN_NUMBERS

# Sequences that go through time together. They share each reading of the weight; the states of more of them would not
# fit into the first-level cache.
MAX_TOGETHER = 16
_NO_RESETS = np.empty((0, 0), np.uint8)


@entry
def _forward(
    act: Any, keep: Any, x: int, x_batch: int, x_step: int, xk: Any, h: int, h_batch: int, h_step: int, hk: Any,
    s: int, s_batch: int, s_step: int, matrix: Any, dt: Any, state: Any, product: Any, resets: Any, start: Any,
    sequences: int, steps: int,
) -> None:  # fmt: skip
    size = state.shape[1]
    for t in range(steps):
        for b in range(len(resets)):
            if resets[b, t]:
                state[b] = start[b]
        multiply(state, matrix, product)
        for b in range(sequences):
            xr, hr = row(x + b * x_batch + t * x_step, xk, size), row(h + b * h_batch + t * h_step, hk, size)
            if len(keep):
                _slope_row(act, xr, product[b], row(s + b * s_batch + t * s_step, state, size))
            _forward_row(act, xr, product[b], dt, state[b], hr)


@inlined
def _forward_row(act: Any, x: Any, product: Any, dt: Any, state: Any, h: Any) -> None:
    for d in range(state.size):
        value = state[d] + dt * activate(act, load(x[d]) - product[d])
        state[d] = value
        h[d] = store(value, h)


@inlined
def _slope_row(act: Any, x: Any, product: Any, s: Any) -> None:
    for d in range(s.size):
        s[d] = slope(act, load(x[d]) - product[d])


@entry
def _adjoint(
    g: int, g_batch: int, g_step: int, gk: Any, s: int, dx: int, batch: int, step: int, matrix: Any, dt: Any,
    mu: Any, row_product: Any, drive: Any, resets: Any, start: Any, sequences: int, steps: int,
) -> None:  # fmt: skip
    """Slopes and dx lie alike. Leaves mu[-1] in mu, and adds up in `start` what arrives at resets."""
    size = mu.shape[1]
    for t in range(steps - 1, -1, -1):
        for b in range(sequences):
            place = b * batch + t * step
            _adjoint_row(
                row(g + b * g_batch + t * g_step, gk, size), row(s + place, mu, size), dt, mu[b], drive[b],
                row(dx + place, mu, size),
            )  # fmt: skip
        multiply(drive, matrix, row_product)
        for b in range(sequences):
            _subtract(mu[b], row_product[b])
        for b in range(len(resets)):
            if resets[b, t]:
                start[b] += mu[b]
                mu[b] = 0


@inlined
def _adjoint_row(g: Any, s: Any, dt: Any, mu: Any, drive: Any, dx: Any) -> None:
    for d in range(mu.size):
        adjoint = load(g[d]) + mu[d]
        value = dt * s[d] * adjoint
        mu[d] = adjoint
        drive[d] = value
        dx[d] = value


@inlined
def _subtract(total: Any, product: Any) -> None:
    for d in range(total.size):
        total[d] -= product[d]


def forward(
    x: Tensor, weight: Tensor, h0: Tensor | None, resets: Tensor | None, *, reset_to: str,
    dt: float, nonlinearity: str, precision: str, keep: bool, state_dtype: torch.dtype, lanes: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`(h, h_last, slope)` with T >= 1: h (B, T, D) in x's dtype, h_last and slope in the state's.

    The slopes are (B, 0, D) unless kept; `precision` is that of the state here.
    """
    dtype, x = x.dtype, with_rows(x)
    batch, length, size = x.shape
    h, slopes = empty(x.shape, x.dtype), empty((batch, length if keep else 0, size), state_dtype)
    last = initial_states(h0, np.arange(batch), size, state_dtype)
    xs, hs, ss, matrix = Rows(x), Rows(h), Rows(slopes), panels(weight.T)
    act, kept, step = constant(nonlinearity), (0,) * keep, last.dtype.type(dt)
    cuts, starts = _bytes(resets), last
    if resets is not None:
        starts = np.zeros_like(last) if reset_to == "zero" else last.copy()

    def work(first: int, count: int) -> None:
        state, product = _work_space(last[first : first + count], matrix)
        _forward(
            act, kept, xs.at(first, 0), xs.stride_b, xs.step, xs.sample, hs.at(first, 0), hs.stride_b, hs.step,
            hs.sample, ss.at(first, 0), ss.stride_b, ss.step, numbers(matrix), step, state, product,
            cuts[first : first + count], starts[first : first + count], count, length,
        )  # fmt: skip
        last[first : first + count] = state[:count]

    _share(work, batch, length * size)
    return h.to(dtype), torch.from_numpy(last), slopes


def adjoint(
    grad_h: Tensor, grad_last: Tensor | None, slope: Tensor, weight: Tensor, resets: Tensor | None, *, reset_to: str,
    dt: float, precision: str, lanes: int = 1,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`(grad_x, grad_h0)` with T >= 1, (B, T, D) and (B, D) in the dtype of the slopes; `precision` as in `forward`."""
    grad_h = with_rows(grad_h)
    batch, length, size = slope.shape
    grad_x = empty(slope.shape, slope.dtype)
    grad_h0 = initial_states(grad_last, np.arange(batch), size, slope.dtype)
    gs, ss, dxs, matrix = Rows(grad_h), Rows(slope), Rows(grad_x), panels(weight)
    step, cuts = grad_h0.dtype.type(dt), _bytes(resets)
    starts = grad_h0 if resets is None else np.zeros_like(grad_h0)

    def work(first: int, count: int) -> None:
        mu, product = _work_space(grad_h0[first : first + count], matrix)
        drive = aligned(mu.shape, mu.dtype)
        drive[count:] = 0
        _adjoint(
            gs.at(first, 0), gs.stride_b, gs.step, gs.sample, ss.at(first, 0), dxs.at(first, 0), ss.stride_b, ss.step,
            numbers(matrix), step, mu, product, drive, cuts[first : first + count], starts[first : first + count],
            count, length,
        )  # fmt: skip
        grad_h0[first : first + count] = mu[:count]

    _share(work, batch, length * size)
    if resets is not None and reset_to == "h0":
        grad_h0 += starts
    return grad_x, torch.from_numpy(grad_h0)


def _bytes(resets: Tensor | None) -> Any:
    """A byte a step, (B, T); without resets an array of no rows."""
    return _NO_RESETS if resets is None else numbers(resets.view(torch.uint8))


def _work_space(states: Any, matrix: Tensor) -> tuple[Any, Any]:
    """States of some sequences, filled up with zeros to whole tiles, and room for their product with a matrix."""
    rows = -(-len(states) // TILE_ROWS) * TILE_ROWS
    padded = aligned((rows, states.shape[1]), states.dtype)
    padded[: len(states)], padded[len(states) :] = states, 0
    return padded, aligned((rows, matrix.shape[0] * matrix.shape[2]), states.dtype)


def _share(work: Callable[[int, int], None], batch: int, numbers_each: int) -> None:
    """Run `work(first, count)` on groups of sequences, side by side on all threads."""
    threads = min(workers(), batch) if batch * numbers_each >= MIN_NUMBERS else 1
    bounds = [batch * thread // threads for thread in range(threads + 1)]

    def task(begin: int, end: int) -> Callable[[], None]:
        def perform() -> None:
            for first in range(begin, end, MAX_TOGETHER):
                work(first, min(MAX_TOGETHER, end - first))

        return perform

    run([task(begin, end) for begin, end in pairwise(bounds)])

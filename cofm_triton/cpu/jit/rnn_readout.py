"""Read-out of a diagonal recurrence compiled for the CPU: neighbouring sequences in vector lanes, states never stored.

    h[t] = h[t-1] + dt * act_in(z[t]),   z[t] = U x[t] + b - a h[t-1],   y[t] = c^T act_out(h[t])

Sequences are the innermost axis of blocks (d, T, S), so that a step of one unit is vector arithmetic without a sum
across lanes. Time is cut into chunks. Within a chunk, one unit after the other takes all steps, in a scratch of (steps,
S) numbers, while x and y stay in the cache. The forward pass keeps only the state of each unit at the start of a chunk.

Backward, from the last chunk to the first, unit by unit: the steps of the chunk are run again from its first state, and
the adjoint goes back over them. With g[t] = dy[t] and mu what arrives from later steps:

    lambda[t] = mu[t] + act_out'(h[t]) c g[t],   dz[t] = dt act_in'(z[t]) lambda[t],   mu[t-1] = lambda[t] - a dz[t]
    da -= dz[t] h[t-1],   db += dz[t],   dU += dz[t] x[t],   dc += g[t] act_out(h[t]),   dx[t] = U^T dz[t]

Sums run over a chunk in the state's dtype and over chunks and blocks in float64, in an order that does not depend on
the number of threads.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cofm_triton.cpu.jit.activation import activate, constant, slope
from cofm_triton.cpu.jit.compiled import entry, inlined, summing
from cofm_triton.cpu.jit.schedule import MIN_NUMBERS
from cofm_triton.cpu.jit.threads import run, workers

# Sequences side by side: a multiple of every vector, and few enough for a chunk to stay in the second-level cache.
MIN_LANES, MAX_LANES = 16, 128
# Tasks that a batch is cut into at least, if it has the units: enough for the threads to end at about the same time.
MIN_TASKS = 8


@inlined
def _part(table: Any, k: int, begin: int, size: int) -> Any:
    """table[k, begin : begin + size]; two steps, so that the compiler sees neighbouring numbers."""
    whole = table[k]
    return whole[begin : begin + size]


@inlined
def _combine(target: Any, constant: Any, factors: Any, sources: Any, begin: int) -> None:
    """target = constant + sum over k of factors[k] sources[k, begin:], elementwise: target (n,), sources (k, N)."""
    first, factor = _part(sources, 0, begin, target.size), factors[0]
    for i in range(target.size):
        target[i] = constant + factor * first[i]
    for k in range(1, len(sources)):
        _add_scaled(target, factors[k], _part(sources, k, begin, target.size))


@inlined
def _add_scaled(target: Any, factor: Any, source: Any) -> None:
    for i in range(target.size):
        target[i] += factor * source[i]


@summing
def _dot(a: Any, b: Any) -> Any:
    total = a.dtype.type(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@summing
def _sum(a: Any) -> Any:
    total = a.dtype.type(0)
    for i in range(a.size):
        total += a[i]
    return total


@inlined
def _activate_all(act: Any, values: Any) -> None:
    for i in range(values.size):
        values[i] = activate(act, values[i])


@inlined
def _step(act: Any, e: Any, h: Any, rate: Any, dt: Any) -> None:
    """One step of S sequences; e holds U x + b on entry and h on return."""
    for s in range(h.size):
        h[s] += dt * activate(act, e[s] - rate * h[s])
        e[s] = h[s]


@inlined
def _step_with_slope(act: Any, before: Any, e: Any, slopes: Any, rate: Any, dt: Any) -> None:
    """As `_step`, and slopes = dt act'(z)."""
    for s in range(e.size):
        z = e[s] - rate * before[s]
        slopes[s] = dt * slope(act, z)
        e[s] = before[s] + dt * activate(act, z)


@inlined
def _adjoint_step(act: Any, pull: Any, h: Any, slopes: Any, mu: Any, rate: Any) -> None:
    """One step of the adjoint; slopes becomes dz."""
    for s in range(mu.size):
        adjoint = mu[s] + slope(act, h[s]) * pull[s]
        dz = slopes[s] * adjoint
        slopes[s] = dz
        mu[s] = adjoint - rate * dz


@entry
def _forward(
    act_in: Any, act_out: Any, x: Any, y: Any, states: Any, first: int, first_unit: int, units: Any, dt: Any,
    chunk: int,
) -> None:  # fmt: skip
    """x (d, T, S), y (p, T, S), states (B, chunks, D) or without chunks, units (m, 2 + d + p).

    S sequences from `first` and m units from `first_unit` on are this task's part of the states. A slice of them would
    be contiguous for some shapes and not for others: two types, and everything compiled twice.
    """
    inputs, length, lanes = x.shape
    y[:] = 0
    xs, ys = x.reshape(inputs, -1), y.reshape(y.shape[0], -1)
    h = np.zeros((units.shape[0], lanes), x.dtype)
    filled = min(lanes, states.shape[0] - first)
    scratch = np.empty(min(chunk, length) * lanes, x.dtype)
    for c in range((length + chunk - 1) // chunk):
        begin, end = c * chunk * lanes, min((c + 1) * chunk, length) * lanes
        e = scratch[: end - begin]
        rows = e.reshape(-1, lanes)
        for u in range(units.shape[0]):
            unit = units[u]
            if c < states.shape[1]:
                for s in range(filled):
                    states[first + s, c, first_unit + u] = h[u, s]
            _combine(e, unit[1], unit[2:], xs, begin)
            for t in range(rows.shape[0]):
                _step(act_in, rows[t], h[u], unit[0], dt)
            _activate_all(act_out, e)
            for q in range(ys.shape[0]):
                _add_scaled(_part(ys, q, begin, e.size), unit[2 + inputs + q], e)


@entry
def _backward(
    act_in: Any, act_out: Any, x: Any, g: Any, dx: Any, states: Any, first: int, first_unit: int, units: Any,
    grad_units: Any, dt: Any, chunk: int,
) -> None:  # fmt: skip
    """Shapes as in `_forward`, g like y, dx like x or empty if not wanted, grad_units (m, 2 + d + p) float64."""
    inputs, length, lanes = x.shape
    count, filled = units.shape[0], min(lanes, states.shape[0] - first)
    dx[:] = 0
    grad_units[:] = 0
    xs, gs = x.reshape(inputs, -1), g.reshape(g.shape[0], -1)
    mu = np.zeros((count, lanes), x.dtype)
    room = np.zeros((min(chunk, length) + 1) * lanes, x.dtype)
    slope_room, pull_room = np.empty_like(room), np.empty_like(room)
    zero = x.dtype.type(0)
    for c in range(states.shape[1] - 1, -1, -1):
        begin, end = c * chunk * lanes, min((c + 1) * chunk, length) * lanes
        size = end - begin
        before, h, dz, pull = room[:size], room[lanes : size + lanes], slope_room[:size], pull_room[:size]
        h_rows, dz_rows, pull_rows = room.reshape(-1, lanes), dz.reshape(-1, lanes), pull.reshape(-1, lanes)
        for u in range(count):
            unit, grad = units[u], grad_units[u]
            for s in range(filled):
                room[s] = states[first + s, c, first_unit + u]
            _combine(h, unit[1], unit[2:], xs, begin)
            for t in range(dz_rows.shape[0]):
                _step_with_slope(act_in, h_rows[t], h_rows[t + 1], dz_rows[t], unit[0], dt)
            _combine(pull, zero, unit[2 + inputs :], gs, begin)
            for t in range(dz_rows.shape[0] - 1, -1, -1):
                _adjoint_step(act_out, pull_rows[t], h_rows[t + 1], dz_rows[t], mu[u], unit[0])
            grad[0] -= _dot(dz, before)
            grad[1] += _sum(dz)
            for j in range(inputs):
                grad[2 + j] += _dot(dz, _part(xs, j, begin, size))
            _activate_all(act_out, h)
            for q in range(gs.shape[0]):
                grad[2 + inputs + q] += _dot(_part(gs, q, begin, size), h)
            if dx.size:
                for j in range(inputs):
                    _add_scaled(_part(dx.reshape(inputs, -1), j, begin, size), unit[2 + j], dz)


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor, *,
    dt: float, act_in: str, act_out: str, chunk: int, keep: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`(y, states)` with B, T >= 1, all in the state's dtype: y (B, T, p), states (B, chunks or 0, D)."""
    batch, length, _ = x.shape
    width = readout.shape[1]
    units, blocks = _units(weight, bias, rate, readout), _blocks(batch)
    groups = _groups(width, len(blocks))
    states = x.new_empty(batch, -(-length // chunk) if keep else 0, width)
    xs, kept = _lanes(x), states.numpy()
    ys = np.empty((len(groups), len(blocks), readout.shape[0], *xs.shape[2:]), xs.dtype)
    kinds, step = (constant(act_in), constant(act_out)), xs.dtype.type(dt)

    def task(group: int, block: int) -> None:
        some = groups[group]
        place = kept, blocks[block].start, some.start
        _forward(*kinds, xs[block], ys[group, block], *place, units[some], step, chunk)

    _share(task, len(groups), len(blocks), batch * length * width)
    return _sequences(torch.from_numpy(ys).sum(0), batch), states


def backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor, states: Tensor, *,
    dt: float, act_in: str, act_out: str, chunk: int, with_grad_x: bool,
) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients by x (None unless asked for), weight, bias, rate and readout, like them in the state's dtype."""
    batch, length, inputs = x.shape
    units, blocks = _units(weight, bias, rate, readout), _blocks(batch)
    groups = _groups(len(units), len(blocks))
    xs, gs, kept = _lanes(x), _lanes(grad_y), states.numpy()
    dxs = np.empty((len(groups), len(blocks), inputs if with_grad_x else 0, *xs.shape[2:]), xs.dtype)
    grad_units = np.empty((len(blocks), *units.shape))
    kinds, step = (constant(act_in), constant(act_out)), xs.dtype.type(dt)

    def task(group: int, block: int) -> None:
        some = groups[group]
        _backward(
            *kinds, xs[block], gs[block], dxs[group, block], kept, blocks[block].start, some.start, units[some],
            grad_units[block, some], step, chunk,
        )  # fmt: skip

    _share(task, len(groups), len(blocks), batch * length * len(units))
    grads = torch.from_numpy(grad_units).sum(0).to(x.dtype)
    grad_x = _sequences(torch.from_numpy(dxs).sum(0), batch) if with_grad_x else None
    encoder, decoder = grads[:, 2 : 2 + inputs], grads[:, 2 + inputs :].T
    return grad_x, encoder.contiguous(), grads[:, 1].contiguous(), grads[:, 0].contiguous(), decoder.contiguous()


def _units(weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor) -> np.ndarray[Any, Any]:
    """(D, 2 + d + p): a, b, U, c of each unit."""
    return torch.cat((rate[:, None], bias[:, None], weight, readout.T), 1).contiguous().numpy()


def _lane_count(batch: int) -> int:
    """S, sequences of a block: blocks have equal sizes."""
    blocks = -(-batch // MAX_LANES)
    return -(-batch // (blocks * MIN_LANES)) * MIN_LANES


def _blocks(batch: int) -> list[slice]:
    """Sequences that go together."""
    lanes = _lane_count(batch)
    return [slice(first, min(first + lanes, batch)) for first in range(0, batch, lanes)]


def _groups(width: int, blocks: int) -> list[slice]:
    """Units that go together, in as many groups as it takes to have `MIN_TASKS` tasks."""
    size = -(-width // min(width, max(1, MIN_TASKS // blocks)))
    return [slice(first, min(first + size, width)) for first in range(0, width, size)]


def _share(task: Any, groups: int, blocks: int, states: int) -> None:
    """Run every task, which compute so many states; the first one alone, since it may have to be compiled."""
    tasks = list(product(range(groups), range(blocks)))
    task(*tasks[0])
    threads = workers() if states >= MIN_NUMBERS else 1

    def perform(thread: int) -> None:
        for pair in tasks[1 + thread :: threads]:
            task(*pair)

    run([partial(perform, thread) for thread in range(threads)])


def _lanes(sequences: Tensor) -> np.ndarray[Any, Any]:
    """(B, T, d) to (blocks, d, T, S); the last block is padded with zeros."""
    batch, steps, channels = sequences.shape
    lanes = _lane_count(batch)
    filled = sequences.new_zeros(len(_blocks(batch)) * lanes, steps, channels)
    filled[:batch] = sequences
    return filled.view(-1, lanes, steps, channels).permute(0, 3, 2, 1).contiguous().numpy()


def _sequences(lanes: Tensor, batch: int) -> Tensor:
    """Undo `_lanes`."""
    return lanes.permute(0, 3, 2, 1).flatten(0, 1)[:batch].contiguous()

"""Read-out of a diagonal recurrence compiled for the CPU: neighbouring sequences in vector lanes, states never stored.

    h[t] = h[t-1] + dt * act_in(z[t]),   z[t] = U x[t] + b - a h[t-1],   y[t] = c^T act_out(h[t])

Sequences are the innermost axis of blocks (d, T, S), so that a step of one unit is vector arithmetic without a sum
across lanes. Time is cut into chunks. Within a chunk, one unit after the other takes all steps, in a scratch of (steps,
S) numbers, while x and y stay in the cache. The forward pass keeps only the state of each unit at the start of a chunk.

Backward, from the last chunk to the first, unit by unit: the steps of the chunk are run again from its first state, and
the adjoint goes back over them. With g[t] = dy[t] and mu what arrives from later steps:

    lambda[t] = mu[t] + act_out'(h[t]) c g[t],   dz[t] = dt act_in'(z[t]) lambda[t],   mu[t-1] = lambda[t] - a dz[t]
    da -= dz[t] h[t-1],   db += dz[t],   dU += dz[t] x[t],   dc += g[t] act_out(h[t]),   dx[t] = U^T dz[t]

Units (2k, 2k + 1) of a pair, which also turn, go through a chunk together, each from its own state and the other's:

    z[t] = U x[t] + b - rate h[t-1] + turn swap(h[t-1]),   mu[t-1] = lambda[t] - rate dz[t] - turn swap(dz[t])
    dturn += dz[t] swap(h[t-1])

where turn is of opposite signs in the two. Sums run over a chunk in the state's dtype and over chunks and blocks in
float64, in an order that does not depend on the number of threads.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cofm_triton.cpu.jit.activation import activate, constant, slope
from cofm_triton.cpu.jit.blocks import blocked
from cofm_triton.cpu.jit.compiled import entry, inlined, summing
from cofm_triton.cpu.jit.threads import spread, workers
from cofm_triton.cpu.jit.vectors import load, store
from cofm_triton.cpu.sizes import MIN_NUMBERS

# Sequences side by side: a multiple of every vector, and few enough for a chunk to stay in the second-level cache.
MIN_LANES, MAX_LANES = 16, 128
# A step has too many arrays for the compiler to find out that none overlap: it is written in vectors.
VECTOR = (0,) * MIN_LANES
# Tasks that a batch is cut into at least, if it has the units: enough for the threads to end at about the same time.
MIN_TASKS = 8


@inlined
def _part(table: Any, k: int, begin: int, size: int) -> Any:
    """table[k, begin : begin + size]; two steps, so that the compiler sees neighbouring numbers."""
    whole = table[k]
    return whole[begin : begin + size]


@inlined
def _steps(table: Any, k: int, first: int, count: int) -> Any:
    """table[k, first : first + count] (count, S), all numbers in a row."""
    whole = table[k]
    return whole[first : first + count].reshape(count * whole.shape[1])


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
def _at(row: Any, i: int) -> int:
    """Address of the i-th vector of a row."""
    return row.ctypes.data + i * len(VECTOR) * row.itemsize


@inlined
def _step(
    act: Any, pair: Any, linearize: Any, before: Any, other: Any, e: Any, slopes: Any, rate: Any, turn: Any, dt: Any
) -> None:
    """One step of a unit in S sequences, from its states `before` and those of the `other` unit of its pair.

    e holds U x + b on entry and the new states on return; to `linearize`, slopes = dt act'(z).
    """
    for i in range(e.size // len(VECTOR)):
        h = load(VECTOR, _at(before, i), e)
        z = load(VECTOR, _at(e, i), e) - rate * h
        if len(pair):
            z = z + turn * load(VECTOR, _at(other, i), e)
        if len(linearize):
            store(dt * slope(act, z), _at(slopes, i), e, False)
        store(h + dt * activate(act, z), _at(e, i), e, False)


@inlined
def _adjoint_step(act: Any, pull: Any, h: Any, slopes: Any, mu: Any, rate: Any) -> None:
    """One step of the adjoint, but for what the other unit of a pair sends; slopes becomes dz."""
    for i in range(mu.size // len(VECTOR)):
        adjoint = load(VECTOR, _at(mu, i), mu)
        adjoint = adjoint + slope(act, load(VECTOR, _at(h, i), mu)) * load(VECTOR, _at(pull, i), mu)
        dz = load(VECTOR, _at(slopes, i), mu) * adjoint
        store(dz, _at(slopes, i), mu, False)
        store(adjoint - rate * dz, _at(mu, i), mu, False)


@inlined
def _walk(
    act: Any, pair: Any, linearize: Any, x: Any, begin: int, steps: int, states: Any, slopes: Any, units: Any, dt: Any
) -> None:
    """The states of a unit, or of both of a pair, at all steps of a chunk, behind those before it.

    x (d, T S), whose chunk begins at `begin`; states and slopes (span, steps + 1 or more, S), units (span, ...).
    """
    span = 1 + len(pair)
    for k in range(span):
        _combine(_steps(states, k, 1, steps), units[k, 1], units[k, 2:], x, begin)
    for t in range(steps):
        for k in range(span):
            other = states[span - 1 - k, t]
            e, slope_row = states[k, t + 1], slopes[k, t]
            _step(act, pair, linearize, states[k, t], other, e, slope_row, units[k, 0], units[k, -1], dt)


@entry
def forward_task(
    act_in: Any, act_out: Any, pair: Any, x: Any, y: Any, states: Any, first: int, first_unit: int, units: Any, dt: Any,
    chunk: int,
) -> None:  # fmt: skip
    """x (d, T, S), y (p, T, S), states (B, chunks, D) or without chunks, units (m, 2 + d + p), and a column more of
    pairs, for which `pair` has an entry.

    S sequences from `first` and m units from `first_unit` on are this task's part of the states. A slice of them would
    be contiguous for some shapes and not for others: two types, and everything compiled twice.
    """
    inputs, length, lanes = x.shape
    span = 1 + len(pair)
    y[:] = 0
    xs, ys = x.reshape(inputs, -1), y.reshape(y.shape[0], -1)
    h = np.zeros((units.shape[0], lanes), x.dtype)
    filled = min(lanes, states.shape[0] - first)
    room = np.empty((span, min(chunk, length) + 1, lanes), x.dtype)
    for c in range((length + chunk - 1) // chunk):
        begin, steps = c * chunk * lanes, min(chunk, length - c * chunk)
        for u in range(0, units.shape[0], span):
            for k in range(span):
                room[k, 0] = h[u + k]
                if c < states.shape[1]:
                    for s in range(filled):
                        states[first + s, c, first_unit + u + k] = h[u + k, s]
            _walk(act_in, pair, (), xs, begin, steps, room, room, units[u : u + span], dt)
            for k in range(span):
                h[u + k] = room[k, steps]
                value = _steps(room, k, 1, steps)
                _activate_all(act_out, value)
                for q in range(ys.shape[0]):
                    _add_scaled(_part(ys, q, begin, value.size), units[u + k, 2 + inputs + q], value)


@entry
def backward_task(
    act_in: Any, act_out: Any, pair: Any, x: Any, g: Any, dx: Any, states: Any, first: int, first_unit: int, units: Any,
    grad_units: Any, dt: Any, chunk: int,
) -> None:  # fmt: skip
    """Shapes as in `forward_task`, g like y, dx like x or empty if not wanted, grad_units like units, in float64."""
    inputs, length, lanes = x.shape
    span = 1 + len(pair)
    count, filled = units.shape[0], min(lanes, states.shape[0] - first)
    dx[:] = 0
    grad_units[:] = 0
    xs, gs, dxs = x.reshape(inputs, -1), g.reshape(g.shape[0], -1), dx.reshape(dx.shape[0], -1)
    mu = np.zeros((count, lanes), x.dtype)
    room = np.zeros((span, min(chunk, length) + 1, lanes), x.dtype)
    slope_room, pull_room = np.empty_like(room), np.empty_like(room)
    zero = x.dtype.type(0)
    for c in range(states.shape[1] - 1, -1, -1):
        begin, steps = c * chunk * lanes, min(chunk, length - c * chunk)
        size = steps * lanes
        for u in range(0, count, span):
            for k in range(span):
                for s in range(filled):
                    room[k, 0, s] = states[first + s, c, first_unit + u + k]
                _combine(_steps(pull_room, k, 0, steps), zero, units[u + k, 2 + inputs :], gs, begin)
            _walk(act_in, pair, (0,), xs, begin, steps, room, slope_room, units[u : u + span], dt)
            for t in range(steps - 1, -1, -1):
                for k in range(span):
                    h, pull = room[k, t + 1], pull_room[k, t]
                    _adjoint_step(act_out, pull, h, slope_room[k, t], mu[u + k], units[u + k, 0])
                if span == 2:
                    for k in range(span):
                        _add_scaled(mu[u + k], -units[u + k, -1], slope_room[1 - k, t])
            for k in range(span):
                dz, grad = _steps(slope_room, k, 0, steps), grad_units[u + k]
                grad[0] -= _dot(dz, _steps(room, k, 0, steps))
                grad[1] += _sum(dz)
                for j in range(inputs):
                    grad[2 + j] += _dot(dz, _part(xs, j, begin, size))
                if span == 2:
                    grad[-1] += _dot(dz, _steps(room, 1 - k, 0, steps))
            for k in range(span):
                h, dz = _steps(room, k, 1, steps), _steps(slope_room, k, 0, steps)
                _activate_all(act_out, h)
                for q in range(gs.shape[0]):
                    grad_units[u + k, 2 + inputs + q] += _dot(_part(gs, q, begin, size), h)
                for j in range(dxs.shape[0]):
                    _add_scaled(_part(dxs, j, begin, size), units[u + k, 2 + j], dz)


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor, *,
    dt: float, act_in: str, act_out: str, chunk: int, keep: bool, turn: Tensor | None = None, lanes: int = 32,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`(y, states)` with B, T >= 1, all in the state's dtype: y (B, T, p), states (B, chunks or 0, D)."""
    batch, length, _ = x.shape
    width = readout.shape[1]
    units, blocks = _units(weight, bias, rate, readout, turn), _blocks(batch)
    groups = _groups(width, len(blocks), paired=turn is not None)
    states = x.new_empty(batch, -(-length // chunk) if keep else 0, width)
    xs, kept = blocked(x, _lane_count(batch)), states.numpy()
    ys = np.empty((len(groups), len(blocks), readout.shape[0], *xs.shape[2:]), xs.dtype)
    kinds, step = (constant(act_in), constant(act_out), _kind(turn)), xs.dtype.type(dt)

    def task(group: int, block: int) -> None:
        some = groups[group]
        place = kept, blocks[block].start, some.start
        forward_task(*kinds, xs[block], ys[group, block], *place, units[some], step, chunk)

    _share(task, len(groups), len(blocks), batch * length * width)
    return _sequences(torch.from_numpy(ys).sum(0), batch), states


def backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor, states: Tensor, *,
    dt: float, act_in: str, act_out: str, chunk: int, with_grad_x: bool, turn: Tensor | None = None,
    lanes: int = 32,
) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Gradients by x (None unless asked for), weight, bias, rate, readout and turn (None unless given), like them in
    the state's dtype.
    """
    batch, length, inputs = x.shape
    units, blocks = _units(weight, bias, rate, readout, turn), _blocks(batch)
    groups = _groups(len(units), len(blocks), paired=turn is not None)
    xs, gs = (blocked(sequences, _lane_count(batch)) for sequences in (x, grad_y))
    kept = states.numpy()
    dxs = np.empty((len(groups), len(blocks), inputs if with_grad_x else 0, *xs.shape[2:]), xs.dtype)
    grad_units = np.empty((len(blocks), *units.shape))
    kinds, step = (constant(act_in), constant(act_out), _kind(turn)), xs.dtype.type(dt)

    def task(group: int, block: int) -> None:
        some = groups[group]
        backward_task(
            *kinds, xs[block], gs[block], dxs[group, block], kept, blocks[block].start, some.start, units[some],
            grad_units[block, some], step, chunk,
        )  # fmt: skip

    _share(task, len(groups), len(blocks), batch * length * len(units))
    grads = torch.from_numpy(grad_units).sum(0).to(x.dtype)
    grad_x = _sequences(torch.from_numpy(dxs).sum(0), batch) if with_grad_x else None
    rows = grads.T.split((1, 1, inputs, len(readout), len(kinds[2])))
    by_rate, by_bias, encoder, decoder, by_turn = (row.clone(memory_format=torch.contiguous_format) for row in rows)
    grad_turn = None if turn is None else by_turn[0]
    return grad_x, encoder.T.contiguous(), by_bias[0], by_rate[0], decoder, grad_turn


def _kind(turn: Tensor | None) -> tuple[int, ...]:
    """A tuple with an entry for pairs: its length belongs to the type, as that of `constant`."""
    return () if turn is None else (0,)


def _units(weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor, turn: Tensor | None) -> np.ndarray[Any, Any]:
    """(D, 2 + d + p): a, b, U, c of each unit; behind them, of pairs, turn."""
    columns = [rate[:, None], bias[:, None], weight, readout.T]
    return torch.cat(columns if turn is None else [*columns, turn[:, None]], 1).contiguous().numpy()


def _lane_count(batch: int) -> int:
    """S, sequences of a block: blocks have equal sizes."""
    blocks = -(-batch // MAX_LANES)
    return -(-batch // (blocks * MIN_LANES)) * MIN_LANES


def _blocks(batch: int) -> list[slice]:
    """Sequences that go together."""
    lanes = _lane_count(batch)
    return [slice(first, min(first + lanes, batch)) for first in range(0, batch, lanes)]


def _groups(width: int, blocks: int, paired: bool) -> list[slice]:
    """Units that go together, those of a pair always, in as many groups as it takes to have `MIN_TASKS` tasks."""
    size = -(-width // min(width, max(1, MIN_TASKS // blocks)))
    size += size % 2 if paired else 0
    return [slice(first, min(first + size, width)) for first in range(0, width, size)]


def _share(task: Any, groups: int, blocks: int, states: int) -> None:
    """Run every task, which compute so many states."""
    spread(task, product(range(groups), range(blocks)), workers() if states >= MIN_NUMBERS else 1)


def _sequences(lanes: Tensor, batch: int) -> Tensor:
    """(blocks, d, T, S) to (B, T, d)."""
    return lanes.permute(0, 3, 2, 1).flatten(0, 1)[:batch].contiguous()

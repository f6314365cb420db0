"""Errors of K one-layer models on the same sequences and their gradients, compiled (arXiv 2305.19190, Definition 3.4).

The equation of `cofm_triton.cpu.jit.perturbation` and its adjoint, with z[k] = U x[k] + b - a h[k] and the weighted
gap r[k] = 2 w[k] (y[k] - target[k]):

    g[k+1]  = (g[k+2] - a s[k+1]) + sum over outputs of c r[k] act_out'(h[k+1]),   s[k] = dt act_in'(z[k]) g[k+1]
    da = - sum s[k] h[k],  dU = sum s[k] x[k],  db = sum s[k],  dc = sum r[k] act_out(h[k+1]),  dd = sum r[k]

sums over steps and sequences. Layout, threads and order of sums as in that file: sequences are the innermost axis. The
states of one unit, (T + 1, S), are computed twice, once for the outputs and once for the adjoint, instead of kept
for all units: they stay in the first-level cache. Padding sequences have r = 0.

Traffic: T S (d + p) numbers per block and task in, m (2 + d + p) + p + 1 per (block, model) out.
"""

from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cofm_triton.cpu.jit.activation import activate, constant, slope
from cofm_triton.cpu.jit.compiled import entry, inlined, inner
from cofm_triton.cpu.jit.perturbation import blocked, part, unit_rows
from cofm_triton.cpu.jit.threads import run, workers
from cofm_triton.step.stacked_cells import StackedCells

_LANES = 64  # sequences of a block: the states of a unit over 100 steps take 26 KB in float32
_TASKS_PER_THREAD = 4


@inlined
def _pre_activation(z: Any, x: Any, h: Any, unit: Any) -> None:
    """z = U x + b - a h: z and h (S,), x (d, S), unit (2 + d + p,): a, b, U, c."""
    first = unit[2]
    for s in range(z.shape[0]):
        z[s] = unit[1] + first * x[0, s] - unit[0] * h[s]
    for j in range(1, x.shape[0]):
        weight = unit[2 + j]
        for s in range(z.shape[0]):
            z[s] += weight * x[j, s]


@inlined
def _run_unit(act_in: int, x: Any, h: Any, z: Any, unit: Any, dt: Any) -> None:
    """The states of one unit: x (T, d, S), h (T + 1, S)."""
    h[0] = 0
    for t in range(x.shape[0]):
        _pre_activation(z, x[t], h[t], unit)
        now, then = h[t], h[t + 1]
        for s in range(z.shape[0]):
            then[s] = now[s] + dt * activate(act_in, z[s])


@inlined
def _read_out(act_out: int, h: Any, y: Any, readout: Any) -> None:
    """Add a unit to the outputs: y (T, p, S), readout (p,)."""
    for t in range(y.shape[0]):
        state = h[t + 1]
        for q in range(y.shape[1]):
            weight, row = readout[q], y[t, q]
            for s in range(row.shape[0]):
                row[s] += weight * activate(act_out, state[s])


@inlined
def _adjoint(act_in: int, act_out: int, x: Any, h: Any, r: Any, z: Any, g: Any, unit: Any, dt: Any, sums: Any) -> None:
    """The gradient of one unit, one number per sequence: r (T, p, S), g (S,), sums (2 + d + p, S)."""
    inputs = x.shape[1]
    g[:] = 0
    sums[:] = 0
    for t in range(x.shape[0] - 1, -1, -1):
        now, then = h[t], h[t + 1]
        for q in range(r.shape[1]):
            weight, gap, total = unit[2 + inputs + q], r[t, q], sums[2 + inputs + q]
            for s in range(g.shape[0]):
                total[s] += gap[s] * activate(act_out, then[s])
                g[s] += weight * gap[s] * slope(act_out, then[s])
        _pre_activation(z, x[t], now, unit)
        for s in range(g.shape[0]):  # few arrays in a loop: the compiler vectorises no loop with many that may overlap
            step = dt * slope(act_in, z[s]) * g[s]
            g[s] -= unit[0] * step
            z[s] = step
        rate, bias = sums[0], sums[1]
        for s in range(g.shape[0]):
            rate[s] -= z[s] * now[s]
            bias[s] += z[s]
        for j in range(inputs):
            total, source = sums[2 + j], x[t, j]
            for s in range(g.shape[0]):
                total[s] += z[s] * source[s]


@inner
def _weigh_gaps(y: Any, target: Any, weights: Any, valid: int) -> float:
    """Turn outputs into r, and return the error; y and target (T, p, S)."""
    error = 0.0
    for t in range(y.shape[0]):
        double = type(y[0, 0, 0])(2 * weights[t])
        for q in range(y.shape[1]):
            for s in range(y.shape[2]):
                gap = y[t, q, s] - target[t, q, s] if s < valid else type(y[0, 0, 0])(0)
                error += weights[t] * np.float64(gap) * np.float64(gap)
                y[t, q, s] = double * gap
    return error


@entry
def _task(
    act_in: tuple[int, ...], act_out: tuple[int, ...], x: Any, target: Any, valid: int, weights: Any, units: Any,
    offset: Any, dt: Any, errors: Any, unit_gradients: Any, offset_gradients: Any,
) -> None:  # fmt: skip
    """Some models on one block: units and their gradients (K, m, 2 + d + p), offset (K, p), errors (K,)."""
    steps, inputs, lanes = x.shape
    y = np.empty((steps, target.shape[1], lanes), x.dtype)
    h = np.empty((steps + 1, lanes), x.dtype)
    z, g = np.empty(lanes, x.dtype), np.empty(lanes, x.dtype)
    sums = np.empty((units.shape[2], lanes), x.dtype)
    for k in range(units.shape[0]):
        for q in range(target.shape[1]):
            y[:, q] = offset[k, q]
        for i in range(units.shape[1]):
            _run_unit(len(act_in), x, h, z, units[k, i], dt)
            _read_out(len(act_out), h, y, units[k, i, 2 + inputs :])
        errors[k] = _weigh_gaps(y, target, weights, valid)
        for q in range(target.shape[1]):
            total = 0.0
            for t in range(steps):
                for s in range(lanes):
                    total += y[t, q, s]
            offset_gradients[k, q] = total
        for i in range(units.shape[1]):
            _run_unit(len(act_in), x, h, z, units[k, i], dt)
            _adjoint(len(act_in), len(act_out), x, h, y, z, g, units[k, i], dt, sums)
            for c in range(sums.shape[0]):
                total = 0.0
                for s in range(lanes):
                    total += sums[c, s]
                unit_gradients[k, i, c] = total


def sweep_gradients(
    cells: StackedCells, inputs: Tensor, targets: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Errors of K models and their derivatives by the coefficients; see the module's equation.

    Args:
        cells: K models of one shape, on the CPU.
        inputs: (N, T, d), float32 or float64, on the CPU: the type of the states and of their adjoints too.
        targets: (N, T, p), the same type.
        weights: (T,) float64, w[k].

    Returns:
        Errors (K,); derivatives by a, b, U, c of every unit (K, m, 2 + d + p), and by d (K, p). All float64, not finite
        where a state or an adjoint overflowed.
    """
    lanes = min(_LANES, -(-len(inputs) // 16) * 16)
    x, target = blocked(inputs, lanes), blocked(targets, lanes)
    units, offset = unit_rows(cells, inputs.dtype, multiple=1), cells.offset.to(inputs.dtype).contiguous().numpy()
    blocks, models = len(x), len(units)
    chunks = min(models, max(1, -(-_TASKS_PER_THREAD * workers() // blocks)))
    errors = np.empty((blocks, models))
    unit_gradients = np.empty((blocks, *units.shape))
    offset_gradients = np.empty((blocks, *offset.shape))
    kinds, dt = (constant(cells.act_in), constant(cells.act_out)), x.dtype.type(cells.dt)

    def work(tasks: list[tuple[int, int]]) -> None:
        for block, chunk in tasks:
            some = part(models, chunk, chunks)
            _task(
                *kinds, x[block], target[block], min(lanes, len(inputs) - block * lanes), weights.numpy(), units[some],
                offset[some], dt, errors[block, some], unit_gradients[block, some], offset_gradients[block, some],
            )  # fmt: skip

    tasks = list(product(range(blocks), range(chunks)))
    work(tasks[:1])  # compiles at the first call: one thread, not all
    threads = workers()
    run([partial(work, tasks[1 + thread :: threads]) for thread in range(threads)])
    summed, by_unit, by_offset = (torch.from_numpy(part.sum(0)) for part in (errors, unit_gradients, offset_gradients))
    return summed, by_unit, by_offset

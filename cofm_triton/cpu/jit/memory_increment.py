"""Increments of K nonlinear one-layer models under Heaviside inputs, compiled.

    z[0] = e,   v[k] = act(z[k]),   z[k+1] = l z[k] + A (z[k] - act(z[k])),   A = dt * rate, l = 1 - A

The equation, arguments and numbers of `cofm_triton.cpu.blocked.memory_increment`, with sums over
units in another order. Inputs are the innermost axis, so that a line of arithmetic runs on
neighbouring inputs and vectorises; the z of one unit, `(lanes,)`, stay in the first-level cache
from the first step to the last, and nothing but the sampled read-outs is stored. Tasks are
(model, block of inputs), shared by torch's number of threads.
"""

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cofm_triton.cpu.blocked.memory_increment import LOOK_EVERY, SMALL
from cofm_triton.cpu.jit.activation import RELU, TANH, activate, constant
from cofm_triton.cpu.jit.compiled import entry, inlined
from cofm_triton.cpu.jit.threads import run, workers
from cofm_triton.step.nonlinearity import TANH_FLOAT64

_LANES, _ALIGNED = 128, 16
_THRESHOLD = TANH_FLOAT64.threshold
_SERIES = tuple(reversed(TANH_FLOAT64.coefficients))
_VANISHED = 1e-300  # below it numbers lose digits, and processors their speed


@inlined
def _excess(kind: int, z: float, value: float) -> float:
    """z - act(z) for value = act(z), by the series of tanh where the difference would cancel."""
    difference = z - value
    if kind == TANH:
        square = z * z
        series = 0.0
        for coefficient in _SERIES:
            series = series * square + coefficient
        return -z * square * series if abs(z) < _THRESHOLD else difference
    return difference


@inlined
def _advance(kind: int, z: Any, decay: float, step: float) -> None:
    for s in range(z.shape[0]):
        here = z[s]
        moved = decay * here + step * _excess(kind, here, activate(kind, here))
        z[s] = 0.0 if abs(moved) < _VANISHED else moved


@inlined
def _is_linear(kind: int, z: Any, decay: float) -> bool:
    """Whether every z is where act is linear, and stays there; relu never is, on both sides of 0."""
    if kind == RELU or abs(decay) > 1:
        return False
    large = 0.0
    for s in range(z.shape[0]):
        large = max(large, abs(z[s]))
    return large < SMALL


@inlined
def _read(kind: int, z: Any, readout: Any, y: Any) -> None:
    for q in range(y.shape[0]):
        weight = readout[q]
        for s in range(z.shape[0]):
            y[q, s] += weight * activate(kind, z[s])


@entry
def _task(kind: tuple[int, ...], drive: Any, decay: Any, step: Any, readout: Any, steps: Any, y: Any) -> None:
    """One model: drive (m, lanes), readout (p, m), y (S, p, lanes) of zeros.

    The nonlinearity is a tuple of the length of its index: the length belongs to the type, so each
    one is compiled (and cached) by itself.
    """
    z = np.empty(drive.shape[1])
    for i in range(drive.shape[0]):
        z[:] = drive[i]
        now = 0
        for row in range(steps.shape[0]):
            while now < steps[row]:
                if now % LOOK_EVERY == 0 and _is_linear(len(kind), z, decay[i]):
                    power = decay[i] ** (steps[row] - now)
                    for s in range(z.shape[0]):
                        z[s] *= power
                    now = steps[row]
                else:
                    _advance(len(kind), z, decay[i], step[i])
                    now += 1
            _read(len(kind), z, readout[:, i], y[row])


def sampled_increments(name: str, drive: Tensor, decay: Tensor, step: Tensor, readout: Tensor, steps: Tensor) -> Tensor:
    """Read-outs c^T act(z[k]) at some steps; arguments and result of the PyTorch function."""
    kind = constant(name)
    count = drive.shape[1]
    units = _blocked(drive)
    models, blocks, _, lanes = units.shape
    result = np.zeros((models, blocks, len(steps), readout.shape[1], lanes))
    per_model = [value.contiguous().numpy() for value in (decay, step, readout)]
    tasks = list(product(range(models), range(blocks)))

    def work(some: Sequence[tuple[int, int]]) -> None:
        for k, block in some:
            _task(kind, units[k, block], *(value[k] for value in per_model), steps.numpy(), result[k, block])

    work(tasks[:1])  # compiles at the first call: one thread, not all
    threads = workers()
    run([partial(work, tasks[1 + t :: threads]) for t in range(threads)])
    flat = torch.from_numpy(result).permute(0, 1, 4, 2, 3).flatten(1, 2)
    return flat[:, :count]


def _blocked(drive: Tensor) -> np.ndarray[Any, Any]:
    """(K, n, m) -> (K, blocks, m, lanes), the last block padded with zeros."""
    models, count, width = drive.shape
    lanes = min(_LANES, -(-count // _ALIGNED) * _ALIGNED)
    blocks = -(-count // lanes)
    padded = drive.new_zeros(models, blocks * lanes, width)
    padded[:, :count] = drive
    return padded.view(models, blocks, lanes, width).mT.contiguous().numpy()

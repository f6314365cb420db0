"""Increments of K nonlinear one-layer models under Heaviside inputs, compiled.

    z[0] = e,   v[k] = act(z[k]),   z[k+1] = l z[k] + A (z[k] - act(z[k])),   A = dt * rate, l = 1 - A

Equation, arguments and results are those of `cofm_triton.cpu.blocked.memory_increment`; only sums over units have
another order. Inputs are the innermost axis, so that the arithmetic vectorises over neighbouring inputs. The z of one
unit, `(lanes,)`, stay in the first-level cache from the first step to the last. Only the sampled read-outs are stored.
Tasks are (model, block of inputs), shared by as many threads as PyTorch uses.
"""

from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cofm_triton.cpu.blocked.memory_increment import LOOK_EVERY, SMALL
from cofm_triton.cpu.jit.activation import activate, constant, excess
from cofm_triton.cpu.jit.blocks import blocked
from cofm_triton.cpu.jit.compiled import entry, inlined
from cofm_triton.cpu.jit.threads import spread
from cofm_triton.step.activations import properties

_LANES, _ALIGNED = 128, 16
_VANISHED = 1e-300  # below it numbers lose digits, and processors their speed


@inlined
def _advance(act: Any, z: Any, decay: float, step: float) -> None:
    for s in range(z.shape[0]):
        here = z[s]
        moved = decay * here + step * excess(act, here, activate(act, here))
        z[s] = 0.0 if abs(moved) < _VANISHED else moved


@inlined
def _is_small(z: Any, decay: float) -> bool:
    """Whether every z is small, and stays there."""
    if abs(decay) > 1:
        return False
    large = 0.0
    for s in range(z.shape[0]):
        large = max(large, abs(z[s]))
    return large < SMALL


@inlined
def _read(act: Any, z: Any, readout: Any, y: Any) -> None:
    for q in range(y.shape[0]):
        weight = readout[q]
        for s in range(z.shape[0]):
            y[q, s] += weight * activate(act, z[s])


@entry
def _task(
    act: tuple[int, ...], jumps: bool, drive: Any, decay: Any, step: Any, readout: Any, steps: Any, y: Any
) -> None:
    """One model: drive (m, lanes), readout (p, m), y (S, p, lanes) of zeros; `jumps`, act is linear at small z."""
    z = np.empty(drive.shape[1])
    for i in range(drive.shape[0]):
        z[:] = drive[i]
        now = 0
        for row in range(steps.shape[0]):
            while now < steps[row]:
                if jumps and now % LOOK_EVERY == 0 and _is_small(z, decay[i]):
                    power = decay[i] ** (steps[row] - now)
                    for s in range(z.shape[0]):
                        z[s] *= power
                    now = steps[row]
                else:
                    _advance(act, z, decay[i], step[i])
                    now += 1
            _read(act, z, readout[:, i], y[row])


def sampled_increments(name: str, drive: Tensor, decay: Tensor, step: Tensor, readout: Tensor, steps: Tensor) -> Tensor:
    """Read-outs c^T act(z[k]) at some steps; arguments and result of the PyTorch function."""
    act, jumps = constant(name), properties(name).linear_radius >= SMALL
    inputs = drive.shape[1]
    units = blocked(drive.transpose(0, 1), min(_LANES, -(-inputs // _ALIGNED) * _ALIGNED))  # (blocks, m, K, lanes)
    blocks, _, models, lanes = units.shape
    result = np.zeros((models, blocks, len(steps), readout.shape[1], lanes))
    per_model = [value.contiguous().numpy() for value in (decay, step, readout)]

    def work(k: int, block: int) -> None:
        _task(act, jumps, units[block, :, k], *(value[k] for value in per_model), steps.numpy(), result[k, block])

    spread(work, product(range(models), range(blocks)))
    return torch.from_numpy(result).permute(0, 1, 4, 2, 3).flatten(1, 2)[:, :inputs]

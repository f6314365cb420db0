"""Increments of K nonlinear one-layer models under Heaviside inputs, in PyTorch alone: any device.

    z[0] = e,   v[k] = act(z[k]),   z[k+1] = z[k] - A act(z[k]) = l z[k] + A (z[k] - act(z[k]))

with A = dt * rate and l = 1 - A. The second form is the one computed: where act is linear, z
decays by l itself, which is known to full relative accuracy when 1 - A is not. Once every |z| is below
`SMALL` (and l shrinks it) act is linear to 1e-13, and the remaining steps are one power of l.
Source: arXiv 2305.19190, Definition 3.1, for y = c^T h.
"""

import torch
from torch import Tensor

from cofm_triton.step.activation import activation
from cofm_triton.step.nonlinearity import TANH_FLOAT64

SMALL = 1e-6  # tanh(z) / z deviates from 1 by z^2 / 3, summed over all later steps by z^2 / 6
LINEAR_AT_ZERO = ("linear", "tanh", "hardtanh")
LOOK_EVERY = 64  # steps between looks at the size of z


def excess(name: str, z: Tensor) -> Tensor:
    """z - act(z), accurate relative to itself, any shape.

    The difference cancels for tanh near 0 only, where the series of tanh takes over.
    """
    difference = z - activation(name)(z)
    if name != "tanh":
        return difference
    square = z * z
    series = torch.zeros_like(z)
    for coefficient in reversed(TANH_FLOAT64.coefficients):
        series = series * square + coefficient
    return torch.where(z.abs() < TANH_FLOAT64.threshold, -z * square * series, difference)


def sampled_increments(name: str, drive: Tensor, decay: Tensor, step: Tensor, readout: Tensor, steps: Tensor) -> Tensor:
    """Read-outs c^T act(z[k]) at some steps; see the module's equation.

    Args:
        name: of act.
        drive: e, (K, n, m) float64.
        decay: l, (K, m).
        step: A, (K, m).
        readout: c, (K, p, m).
        steps: (S,) int64, ascending.

    Returns:
        (K, n, S, p).
    """
    act = activation(name)
    factor, slope = decay[:, None], step[:, None]
    shrinks = name in LINEAR_AT_ZERO and bool((decay.abs() <= 1).all())
    z, now, rows = drive, 0, []
    for k in steps.tolist():
        while now < k:
            if shrinks and now % LOOK_EVERY == 0 and bool((z.abs() < SMALL).all()):
                z = factor ** (k - now) * z
                now = k
            else:
                z = factor * z + slope * excess(name, z)
                now += 1
        rows.append(act(z) @ readout.mT)
    return torch.stack(rows, 2)

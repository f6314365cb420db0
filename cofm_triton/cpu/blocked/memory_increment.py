"""Increments of K nonlinear one-layer models under Heaviside inputs, in PyTorch alone: any device.

    z[0] = e,   v[k] = act(z[k]),   z[k+1] = z[k] - A act(z[k]) = l z[k] + A (z[k] - act(z[k]))

with A = dt * rate and l = 1 - A. The second form is the one computed: where act is linear, z
decays by l itself, which is known to full relative accuracy when 1 - A is not.
Source: arXiv 2305.19190, Definition 3.1, for y = c^T h.
"""

import torch
from torch import Tensor

from cofm_triton.activation import activation
from cofm_triton.nonlinearity import TANH_FLOAT64


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
    z, now, rows = drive, 0, []
    for k in steps.tolist():
        while now < k:
            z = decay[:, None] * z + step[:, None] * excess(name, z)
            now += 1
        rows.append(act(z) @ readout.mT)
    return torch.stack(rows, 2)

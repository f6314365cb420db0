"""Increments of K nonlinear one-layer models under Heaviside inputs, in PyTorch alone: any device.

    z[0] = e,   v[k] = act(z[k]),   z[k+1] = z[k] - A act(z[k]) = l z[k] + A (z[k] - act(z[k]))

with A = dt * rate and l = 1 - A. The second form is computed: where act is linear, z decays by l, which is known to
full relative accuracy, unlike 1 - A. Once every |z| is below `SMALL` and shrinking, act is linear to 1e-13, and all
remaining steps are one power of l.
Source: arXiv 2305.19190, Definition 3.1, for y = c^T h.
"""

import torch
from torch import Tensor

from cofm_triton.step.activation import bodies
from cofm_triton.step.activations import properties

SMALL = 1e-6  # tanh(z) / z deviates from 1 by z^2 / 3, summed over all later steps by z^2 / 6
LOOK_EVERY = 64  # steps between looks at the size of z


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
    act, excess = bodies(name).act, bodies(name).excess
    factor, slope = decay[:, None], step[:, None]
    shrinks = properties(name).linear_radius >= SMALL and bool((decay.abs() <= 1).all())
    z, now, rows = drive, 0, []
    for k in steps.tolist():
        while now < k:
            if shrinks and now % LOOK_EVERY == 0 and bool((z.abs() < SMALL).all()):
                z = factor ** (k - now) * z
                now = k
            else:
                z = factor * z + slope * excess(z)
                now += 1
        rows.append(act(z) @ readout.mT)
    return torch.stack(rows, 2)

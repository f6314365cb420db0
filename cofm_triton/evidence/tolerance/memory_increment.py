"""Bounds of the recursion of memory functions, see `tolerance`."""

from __future__ import annotations

import torch
from torch import Tensor

from cofm_triton.evidence.tolerance.bound import Bound, bound_of, rounding_of
from cofm_triton.evidence.tolerance.orbit import slope_uncertainty
from cofm_triton.step.activation import activation, activation_slope
from cofm_triton.step.activations import properties


def increment_bounds(
    drive: Tensor, decay: Tensor, step: Tensor, readout: Tensor, steps: Tensor, *, nonlinearity: str
) -> dict[str, Bound]:
    """Exact read-outs c^T act(z[k]) of the memory recursion, and how far computed ones may be off.

        z[0] = e,   z[k+1] = z[k] - A act(z[k]) = l z[k] + A (z[k] - act(z[k]))

    Either form rounds a few times against |z| and A |act(z)|; the sweep and the definition both do, in float64. A power
    of l that stands for many steps where act is linear to 1e-13 rounds no more than they do.

    Args:
        drive: e, (K, n, m) float64.
        decay: l, (K, m).
        step: A, (K, m).
        readout: c, (K, p, m).
        steps: (S,), ascending.
        nonlinearity: act.

    Returns:
        "increments", (K, n, S, p).
    """
    u = rounding_of(torch.float64)
    act, slope_of = activation(nonlinearity), activation_slope(nonlinearity)
    a, c = step[:, None], readout.mT
    z, e, exact, errors = drive, torch.zeros_like(drive), [], []
    for k in range(int(steps[-1]) + 1 if len(steps) else 0):
        value, slope = act(z), slope_of(z)
        rounded = properties(nonlinearity).error(z, value)
        e_value = (slope.abs() + slope_uncertainty(nonlinearity, z, e)) * e + u * rounded
        if k in steps:
            exact.append(value @ c)
            errors.append(e_value @ c.abs() + (drive.shape[2] + 1) * u * (value.abs() @ c.abs()))
        growth = (1 - a * slope).abs() + a.abs() * slope_uncertainty(nonlinearity, z, e)
        # Of the difference z - act(z), which the series of tanh takes some 20 roundings for, and of the sum.
        e = growth * e + u * (3 * z.abs() + a.abs() * (3 * value.abs() + 4 * rounded))
        z = z - a * value
    return {"increments": bound_of(torch.stack(exact, 2), torch.stack(errors, 2), torch.float64)}

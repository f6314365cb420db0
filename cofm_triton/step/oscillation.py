"""Oscillating modes: coefficients of pairs of units (2k, 2k+1) that decay with a rate r and turn with a frequency w.

    dh/dt = act(e - R h),   R = [[r, -w], [w, r]],      one step:   h' = h + dt act(e - A h),   A = [[alpha, -omega],
                                                                                                     [omega, alpha]]
    discretization   dt alpha                    dt omega
    "euler"          dt r                        dt w
    "exact"          1 - e^{-dt r} cos(dt w)     e^{-dt r} sin(dt w)

Linear steps are stable where rho^2 = (1 - dt alpha)^2 + (dt omega)^2 < 1: "exact" for every rate r > 0 and every
frequency, "euler" for dt (r^2 + w^2) < 2 r. Of nonlinear ones, whose act has slopes in [0, 1] and act(0) = 0,

1. constant inputs lead to rest wherever rho < 1;
2. no input whatever makes the difference between two states, or a gradient, grow if and only if
   |1 - dt alpha| + |dt omega| <= 1, up to quarter turns |omega| <= alpha: a pair turns no faster than it decays;
3. bounded inputs keep states bounded wherever alpha > 0.

Proofs, the last one in outline: `reference/oscillation.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cofm_triton.step.discretization import complement, is_exact


def effective_pair(rate: Tensor, frequency: Tensor, dt: float, discretization: str) -> tuple[Tensor, Tensor]:
    """The coefficients `(alpha, omega)` of a step; differentiable, accurate relative to |A| for small rates and angles.

    1 - e^{-dt r} cos = (1 - e^{-dt r}) + e^{-dt r} 2 sin(dt w / 2)^2, a sum that does not cancel for r >= 0.

    Args:
        rate: r, any shape, float32 or float64, 1 / time.
        frequency: w, like `rate`, 1 / time.
        dt: step, time.
        discretization: "exact" or "euler".

    Returns:
        alpha and omega, like `rate`, 1 / time.

    Raises:
        ValueError: unknown discretization.

    Example:
        >>> effective_pair(torch.zeros(1), torch.tensor([math.pi / 2]), 1.0, "exact")[1].tolist()
        [1.0]
    """
    if not is_exact(discretization):
        return rate, frequency
    decay, angle = torch.exp(-dt * rate), dt * frequency
    alpha = complement(dt * rate) + 2 * decay * torch.sin(angle / 2).square()
    return alpha / dt, decay * torch.sin(angle) / dt


def contracting_angle(rate: Tensor, dt: float, discretization: str = "exact") -> Tensor:
    """The largest angle dt w up to which no step makes a difference between states grow, see above.

    "exact": about dt r for slow pairs, pi / 4 at e^{dt r} = sqrt(2), infinite for faster ones: they contract at every
    angle. "euler": dt r, or 2 - dt r if that is less.

    Args:
        rate: r > 0, any shape, float32 or float64, 1 / time; Euler's method has none for dt r > 2, and gets 0.
        dt: step, time.
        discretization: "exact" or "euler".

    Raises:
        ValueError: unknown discretization.

    Example:
        >>> contracting_angle(torch.tensor([1.0]), 1.0).tolist()
        [inf]
    """
    if not is_exact(discretization):
        return torch.minimum(dt * rate, 2 - dt * rate).clamp(min=0)
    under = 1 - torch.expm1(2 * dt * rate)  # 2 - e^{2 dt r}
    slow = under > 0
    root = torch.where(slow, under, torch.ones_like(under)).sqrt()  # no root of a number <= 0 reaches the gradient
    rise = torch.expm1(torch.where(slow, dt * rate, torch.zeros_like(rate)))
    return torch.where(slow, 2 * torch.atan(rise / (1 + root)), math.inf)


def bounded_angle(raw: Tensor, largest: float | Tensor) -> Tensor:
    """An angle in (-largest, largest) from a free parameter, `largest * (2 / pi) atan(raw)`.

    Args:
        raw: any shape.
        largest: > 0, a number or a tensor that broadcasts.

    Example:
        >>> bounded_angle(torch.tensor([0.0, 1.0]), 2.0).tolist()
        [0.0, 1.0]
    """
    return largest * (2 / math.pi) * torch.atan(raw)

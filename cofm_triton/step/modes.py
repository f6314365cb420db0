"""One step of an elementwise recurrence: single units, or pairs of units that decay and turn.

    dh/dt = -z h + e,   z = r of a single unit, z = r + i w of a pair read as one complex number h[2k] + i h[2k+1]

    linear step   h' = l h + g e

    discretization   decay l      gain g           normalised gain
    "euler"          1 - dt z     dt               sqrt(1 - |l|^2), 0 where |l| >= 1
    "exact"          exp(-dt z)   dt phi(dt z)     sqrt(1 - |l|^2) = sqrt(1 - exp(-2 dt r))

and phi(x) = (1 - exp(-x)) / x. With the normalised gain the state of every unit has the variance of a white input,
whatever its memory. A nonlinear step h + dt act(e - A h) has gain dt where act does not saturate; its input is scaled
by what is missing. Source: arXiv 2303.06349, section 3.3 (turning modes) and 3.4 (normalisation).
"""

from __future__ import annotations

import torch
from torch import Tensor

from cofm_triton.step.discretization import complement, effective_rate, is_exact, linear_decay, linear_gain, phi_series
from cofm_triton.step.oscillation import effective_pair

_SERIES_LIMIT = 0.25  # of |dt z|, as for single units


def mode_decay(rate: Tensor, frequency: Tensor | None, dt: float, discretization: str) -> Tensor:
    """l of the linear step.

    Args:
        rate: r, (P,), float32 or float64, 1 / time.
        frequency: w, like `rate`, radians per time; None for single units.
        dt: step, time.
        discretization: "exact" or "euler".

    Returns:
        (P,), real for single units, complex for pairs.

    Raises:
        ValueError: unknown discretization.

    Example:
        >>> mode_decay(torch.tensor([1.0]), torch.tensor([2.0]), 0.5, "euler").tolist()
        [(0.5-1j)]
    """
    if frequency is None:
        return linear_decay(rate, dt, discretization)
    if not is_exact(discretization):
        return torch.complex(1 - dt * rate, -dt * frequency)
    modulus, angle = torch.exp(-dt * rate), dt * frequency
    return torch.complex(modulus * torch.cos(angle), -modulus * torch.sin(angle))


def log_decay(rate: Tensor, frequency: Tensor | None, dt: float, discretization: str) -> Tensor:
    """log |l| of single units and log l of pairs, whose real part is log |l|; arguments, errors as of `mode_decay`.

    It keeps the digits of slow modes, l near 1, and of fast ones, l near 0.

    Returns:
        Like `rate`, real for single units, complex for pairs; -inf where l = 0.

    Example:
        >>> log_decay(torch.tensor([2.0]), torch.tensor([1.0]), 0.5, "exact").tolist()
        [(-1-0.5j)]
    """
    reach, angle = dt * rate, None if frequency is None else dt * frequency
    if is_exact(discretization):
        return -reach if angle is None else torch.complex(-reach, -angle)
    if angle is None:
        return torch.where(reach < 1, torch.log1p(-reach), torch.log(reach - 1))
    lost = 2 * reach - (reach * reach + angle * angle)  # 1 - |l|^2
    near = lost.abs() < 0.5
    size = torch.where(near, torch.log1p(-torch.where(near, lost, 0.0)) / 2, torch.log(torch.hypot(1 - reach, angle)))
    return torch.complex(size, torch.atan2(-angle, 1 - reach))


def mode_gain(rate: Tensor, frequency: Tensor | None, dt: float, discretization: str) -> Tensor:
    """g of the linear step, time; arguments, shapes and errors of `mode_decay`.

    Example:
        >>> mode_gain(torch.tensor([0.0]), torch.tensor([0.0]), 0.5, "exact").tolist()
        [(0.5+0j)]
    """
    if frequency is None:
        return linear_gain(rate, dt, discretization)
    if not is_exact(discretization):
        return torch.complex(torch.full_like(rate, dt), torch.zeros_like(rate))
    return dt * _complex_phi(dt * rate, dt * frequency)


def normalized_gain(rate: Tensor, frequency: Tensor | None, dt: float, discretization: str) -> Tensor:
    """sqrt(1 - |l|^2), real, (P,), without unit; arguments and errors of `mode_decay`.

    Its gradient is 0 where |l| >= 1.

    Example:
        >>> normalized_gain(torch.tensor([0.0, 0.5]), None, 1.0, "euler").square().tolist()
        [0.0, 0.75]
    """
    if is_exact(discretization):
        share = complement(2 * dt * rate)
    else:
        turned = 0 if frequency is None else frequency * frequency
        share = dt * (2 * rate - dt * (rate * rate + turned))
    positive = share > 0
    root = torch.where(positive, share, torch.ones_like(share)).sqrt()  # no root of 0 reaches the gradient
    return torch.where(positive, root, torch.zeros_like(root))


def step_size(rate: Tensor, frequency: Tensor | None, dt: float, discretization: str) -> Tensor:
    """|1 - l| / dt, real, (P,), 1 / time: what a constant state needs for an input; otherwise as `mode_decay`.

    Example:
        >>> step_size(torch.tensor([3.0]), torch.tensor([4.0]), 1.0, "euler").tolist()
        [5.0]
    """
    if frequency is None:
        return effective_rate(rate, dt, discretization)
    return torch.hypot(*effective_pair(rate, frequency, dt, discretization))


def _complex_phi(x: Tensor, angle: Tensor) -> Tensor:
    """phi(x + i angle), accurate with its derivatives at and near 0, as `discretization.phi`."""
    small = x * x + angle * angle < _SERIES_LIMIT**2
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    near = torch.complex(torch.where(small, x, zero), torch.where(small, angle, zero))
    far_x, far_angle = torch.where(small, one, x), torch.where(small, zero, angle)
    # 1 - exp(-z), whose real part is a sum of terms that do not cancel for x >= 0
    shrunk = torch.exp(-far_x)
    missing = torch.complex(
        complement(far_x) + 2 * shrunk * torch.sin(far_angle / 2).square(), shrunk * torch.sin(far_angle)
    )
    return torch.where(small, phi_series(near), missing / torch.complex(far_x, far_angle))

"""Stable or unstable approximation, decided by how the slow-direction radius scales with T.

The radius at horizon T is  r(T) = max {beta : E(beta) <= 0.1 P},  E the error after every raw
recurrent weight has moved by beta towards slower decay, P the error of the zero model. At a fixed
T it tells little; as T doubles it stays where the approximation is stable (a radius that serves
every horizon) and shrinks where it is not.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .loss import tail_weights
from .targets import kernel, rho

LEVEL = 0.1
"""Share of the zero model's error at which a perturbed model counts as lost."""

UNSTABLE_BELOW, STABLE_ABOVE = -0.3, -0.15
"""Slopes of log r in log T that decide; undecided between."""


def zero_model_error(target: str, length: int) -> Tensor:
    """P = sum_s V_s rho_s^2: the error of the model that puts out 0, on white inputs, dt = 1."""
    return (tail_weights(length) * kernel(target, length) ** 2).sum()


def limit_error(target: str, parameterization: str, beta: float, length: int) -> Tensor:
    """E(beta) along the slow direction in the limit of infinite width, white inputs, dt = 1.

    The limit model is the target itself, rho(s) = int e^{-rate s} dmu(rate), so a shift of the
    raw weights acts on it directly:

        direct  rate -> rate - beta:      sum_s V_s rho(s)^2 (e^{beta s} - 1)^2
        exp     rate -> rate e^{-beta}:   sum_s V_s (rho(s e^{-beta}) - rho(s))^2

    Raises:
        ValueError: no limit formula for the parameterisation.
    """
    lags = torch.arange(length, dtype=torch.float64)
    before = rho(target, lags)
    if parameterization == "direct":
        change = _grown(before, beta * lags)
    elif parameterization == "exp":
        change = rho(target, lags * math.exp(-beta)) - before
    else:
        raise ValueError(f"parameterization must be 'direct' or 'exp', got {parameterization!r}")
    return (tail_weights(length) * change**2).sum()


def _grown(value: Tensor, exponent: Tensor) -> Tensor:
    """Tiny value times huge growth, value * (exp(exponent) - 1), exponent >= 0."""
    small = exponent < 1
    near = value * torch.expm1(torch.where(small, exponent, torch.zeros_like(exponent)))
    far = torch.sign(value) * torch.exp(value.abs().log() + exponent) - value
    return torch.where(small, near, far)


def radius(error: Callable[[float], float], level: float, *, upper: float = 16.0, steps: int = 60) -> float:
    """The largest beta in [0, upper] with error(beta) <= level, by bisection.

    Errors that are not finite lie above the level. Where the error is not monotone the result is
    one crossing of the level, not necessarily the last.

    Returns:
        The radius; 0 when error(0) > level already, `upper` when error(upper) <= level.
    """
    if not error(0.0) <= level:
        return 0.0
    if error(upper) <= level:
        return upper
    inside, outside = 0.0, upper
    for _ in range(steps):
        middle = (inside + outside) / 2
        if error(middle) <= level:
            inside = middle
        else:
            outside = middle
    return inside


def limit_radius(target: str, parameterization: str, length: int) -> float:
    """r(T) from the target's limit formula.

    Example:
        >>> round(limit_radius("exp", "direct", 100), 4)
        0.4488
    """
    return radius(
        lambda beta: float(limit_error(target, parameterization, beta, length)),
        LEVEL * float(zero_model_error(target, length)),
    )


def slope(horizons: Sequence[float], radii: Sequence[float]) -> float:
    """Least-squares slope of log r in log T; NaN, so undecided, when some radius is 0.

    Raises:
        ValueError: fewer than two horizons, or not one radius for each.
    """
    if len(horizons) != len(radii) or len(horizons) < 2:
        raise ValueError(f"radii must match at least two horizons, got {len(radii)} for {len(horizons)}")
    if min(radii) <= 0:
        return math.nan
    x = torch.tensor(horizons, dtype=torch.float64).log()
    y = torch.tensor(radii, dtype=torch.float64).log()
    x = x - x.mean()
    return float((x * y).sum() / (x * x).sum())


def decide(scaling: float) -> str:
    """The rule: "unstable" below -0.3, "stable" above -0.15, "undecided" between and for NaN.

    Example:
        >>> decide(-0.68), decide(0.0), decide(-0.2)
        ('unstable', 'stable', 'undecided')
    """
    if scaling < UNSTABLE_BELOW:
        return "unstable"
    return "stable" if scaling > STABLE_ABOVE else "undecided"

"""Stable or unstable approximation, decided by how the slow-direction radius scales with T.

The radius at horizon T is  r(T) = max {beta : E(beta) <= 0.1 P}.  E(beta) is the error after every raw recurrent weight
has moved by beta towards slower decay, P the error of the zero model. At one T the radius says little. As T doubles, it
stays the same if the approximation is stable, and shrinks if it is not.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .loss import tail_weights
from .targets import kernel, rho

LEVEL = 0.1
"""Share of the zero model's error at which a perturbed model counts as lost."""

BOUND = -0.3
"""Slope of log r in log T at which the radius halves while T grows tenfold: between stable and unstable."""

SCATTER, PRIOR_WEIGHT = 0.05, 4
"""Standard deviation of log r from one training to the next, and how many residuals it counts as."""


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


def local_slope(horizons: Sequence[float], radii: Sequence[float], scatter: float = SCATTER) -> tuple[float, float]:
    """d log r / d log T at the longest horizon, and its standard error.

        y = a + b x + c x^2,  x = log(T / longest T),  y = log r:  b by the normal equations
        s^2 = (PRIOR_WEIGHT scatter^2 + |y - A (a, b, c)|^2) / (PRIOR_WEIGHT + n - 3),  error^2 = s^2 [(A^T A)^-1]_bb

    Raises:
        ValueError: fewer than three horizons, or not one radius for each.
    """
    if len(horizons) != len(radii) or len(horizons) < 3:
        raise ValueError(f"radii must match at least three horizons, got {len(radii)} for {len(horizons)}")
    x = (torch.tensor(horizons, dtype=torch.float64) / max(horizons)).log()
    y = torch.tensor(radii, dtype=torch.float64).log()
    a = torch.stack([x**0, x, x**2], 1)
    covariance = torch.linalg.inv(a.T @ a)
    fit = covariance @ (a.T @ y)
    squares = PRIOR_WEIGHT * scatter**2 + (y - a @ fit).square().sum()
    error = (squares / (PRIOR_WEIGHT + len(y) - 3) * covariance[1, 1]).sqrt()
    return float(fit[1]), float(error)


def decide(slope: float, error: float) -> str:
    """The rule: "unstable" two errors below -0.3, "stable" two above, "undecided" between and for NaN.

    Example:
        >>> decide(-0.68, 0.1), decide(0.0, 0.1), decide(-0.2, 0.1)
        ('unstable', 'stable', 'undecided')
    """
    if slope + 2 * error < BOUND:
        return "unstable"
    return "stable" if slope - 2 * error > BOUND else "undecided"

"""Recurrent parameterisations  rate = f(w),  arXiv 2305.19190 eq (16).

A stable parameterisation has f > 0 everywhere, and changes the rate by a bounded factor when w moves by a bounded
amount. The table has f, its inverse, its derivative, and this factor minus 1, the stability modulus.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .discretization import complement

EXP_LIMIT = 30.0
"""exp(w) grows up to here: exp(30) = 1e13 per unit of time is instantaneous, and gradients overflow further up."""

INVERSE_A, INVERSE_B = 1.0, 0.5
"""Usual numbers of the "inverse" parameterisation, rate = 1 / (a w^2 + b)."""


@dataclass(frozen=True)
class Parameterization:
    """A map f from raw recurrent weights w to rates.

    Attributes:
        name: the name used throughout the library.
        rate: f(w), elementwise, 1 / time.
        inverse: a w with f(w) = rate; NaN or infinite outside the range of f.
        derivative: f'(w).
        modulus: g(beta) = sup_w sup_{|d| <= beta} |f(w) / f(w + d) - 1|, finite for stable f.
    """

    name: str
    rate: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    modulus: Callable[[float], float]

    def gradient_scale(self, w: Tensor) -> Tensor:
        """|f'(w)| / f(w)^2, the factor that bounds |dLoss/dw| (zero where f' is zero).

        In terms of a discrete decay l = 1 - f it reads |l'| / (1 - l)^2: the same number.
        """
        # Two divisions: the square of a tiny rate underflows before the quotient does.
        slope, rate = self.derivative(w).abs(), self.rate(w)
        return torch.where(slope == 0, torch.zeros_like(slope), slope / rate / rate)


def _identity(w: Tensor) -> Tensor:
    return w


def _step(w: Tensor) -> Tensor:
    return (w > 0).to(w.dtype)


def _exp(w: Tensor) -> Tensor:
    return torch.exp(torch.where(w > EXP_LIMIT, EXP_LIMIT, w))  # the derivative at the limit is that of exp


def _exp_derivative(w: Tensor) -> Tensor:
    return torch.where(w <= EXP_LIMIT, _exp(w), torch.zeros_like(w))


def _softplus(w: Tensor) -> Tensor:
    return torch.logaddexp(w, torch.zeros_like(w))


def _softplus_inverse(rate: Tensor) -> Tensor:
    """log(exp(rate) - 1), as rate + log(1 - exp(-rate)): no overflow, no cancellation."""
    return rate + torch.log(complement(rate))


def inverse(a: float, b: float) -> Parameterization:
    """rate = 1 / (a w^2 + b): in Euler form with dt = 1 the decay 1 - 1 / (a w^2 + b) of arXiv 2311.14495."""

    def rate(w: Tensor) -> Tensor:
        return 1 / (a * w * w + b)

    def weight(rate: Tensor) -> Tensor:
        """sqrt((1/rate - b) / a); for b = 1/2, b rate is exact, so 1 - b rate keeps its relative accuracy."""
        return torch.sqrt((1 - b * rate) / (a * rate))

    def derivative(w: Tensor) -> Tensor:
        return -2 * a * w * rate(w) ** 2

    def modulus(beta: float) -> float:
        beta = math.sqrt(a) * beta
        return beta * (beta + math.sqrt(beta * beta + 4 * b)) / (2 * b)

    return Parameterization("inverse", rate, weight, derivative, modulus)


def _lru_rate(w: Tensor) -> Tensor:
    """1 - exp(-exp(w)): what the discrete decay exp(-exp(w)) leaves to one Euler step of dt = 1."""
    return complement(_exp(w))


def lru_normalization(w: Tensor) -> Tensor:
    """sqrt(1 - a^2) of a = 1 - exp(-exp(w)), arXiv 2303.06349 section 3.4, without cancellation.

    1 - a^2 = (1 - a) (1 + a), and 1 - a = exp(-exp(w)) is known also where a rounds to 1. Where a
    is small, the derivatives of the two factors cancel, and those of 1 - a^2 do not.
    """
    a = _lru_rate(w)
    slow = torch.sqrt(1 - a.clamp(max=0.5) ** 2)
    return torch.where(a < 0.5, slow, torch.exp(-_exp(w) / 2) * torch.sqrt(1 + a))


def _lru_inverse(rate: Tensor) -> Tensor:
    return torch.log(-torch.log1p(-rate))


def _lru_derivative(w: Tensor) -> Tensor:
    return _exp_derivative(w) * torch.exp(-_exp(w))


def _unbounded_modulus(beta: float) -> float:
    return math.inf if beta > 0 else 0.0


PARAMETERIZATIONS: dict[str, Parameterization] = {
    entry.name: entry
    for entry in (
        Parameterization("direct", _identity, _identity, torch.ones_like, _unbounded_modulus),
        Parameterization("relu", torch.relu, _identity, _step, _unbounded_modulus),
        Parameterization("exp", _exp, torch.log, _exp_derivative, math.expm1),
        Parameterization("softplus", _softplus, _softplus_inverse, torch.sigmoid, math.expm1),
        inverse(INVERSE_A, INVERSE_B),
        # log f has slope x / (exp(x) - 1) <= 1 in w (x = exp(w)): the modulus of exp.
        Parameterization("lru", _lru_rate, _lru_inverse, _lru_derivative, math.expm1),
    )
}


def parameterization(name: str) -> Parameterization:
    """Look up a parameterisation.

    "direct" w, "relu" max(w, 0), "exp" exp(min(w, 30)), "softplus" log(1 + exp(w)),
    "inverse" 1 / (w^2 + 0.5), "lru" 1 - exp(-exp(min(w, 30))). "inverse(a=1.0, b=0.1)" has other numbers.

    Raises:
        ValueError: unknown name.

    Example:
        >>> round(parameterization("inverse").modulus(0.5), 12)
        1.0
    """
    numbers = re.fullmatch(r"inverse\(a=(.+), b=(.+)\)", name)
    if numbers:
        return inverse(float(numbers[1]), float(numbers[2]))
    if name not in PARAMETERIZATIONS:
        raise ValueError(f"name must be one of {tuple(PARAMETERIZATIONS)}, got {name!r}")
    return PARAMETERIZATIONS[name]

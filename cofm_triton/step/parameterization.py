"""The table of recurrent parameterisations  rate = f(w).

    name        f(w)                 range         modulus g(beta)
    direct      w                    (-inf, inf)   infinite
    relu        max(w, 0)            [0, inf)      infinite
    exp         exp(min(w, 30))      (0, e^30]     e^beta - 1
    softplus    log(1 + exp(w))      (0, inf)      e^beta - 1
    inverse     1 / (a w^2 + b)      (0, 1/b]      s (s + sqrt(s^2 + 4 b)) / (2 b), s = sqrt(a) beta
    lru         1 - exp(-exp(w))     (0, 1)        e^beta - 1

A stable parameterisation has f > 0 for every w and a finite stability modulus
g(beta) = sup_w sup_{|d| <= beta} |f(w) / f(w + d) - 1|: moving a weight changes its rate by a
bounded factor, so a model near the edge of stability cannot be pushed over it. Source: arXiv
2305.19190, eq 16; the criterion g is the one of its sequel StableSSM (arXiv 2311.14495).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cofm_triton.step.discretization import complement
from cofm_triton.step.rate_numbers import EXP_LIMIT, INVERSE_A, INVERSE_B
from cofm_triton.step.wide import widened
from cofm_triton.support.scalars import check_choice, check_int, check_not_negative, check_number

_SOFTPLUS_LINEAR_FROM = 40.0  # exp(-40) is below half an ulp of 40: the linear branch is exact


@dataclass(frozen=True)
class Interval:
    """The set of rates that a parameterisation can express."""

    low: float
    high: float
    closed_low: bool = False
    closed_high: bool = False

    def contains(self, value: Tensor) -> Tensor:
        """Elementwise membership, False for NaN."""
        above = value >= self.low if self.closed_low else value > self.low
        below = value <= self.high if self.closed_high else value < self.high
        return above & below

    def __str__(self) -> str:
        left, right = "[" if self.closed_low else "(", "]" if self.closed_high else ")"
        return f"{left}{self.low:g}, {self.high:g}{right}"


@dataclass(frozen=True)
class Parameterization:
    """One row of the table: how raw recurrent weights w become rates.

    Tensors may be float64, float32 or 16-bit; 16-bit weights are computed in, and give, float32,
    because a 16-bit decay of a slow mode rounds to 1.

    Attributes:
        name: the name used throughout the library.
        range: the rates that f can express.

    Example:
        >>> p = parameterization("exp")
        >>> p.rate(p.inverse(torch.tensor([0.25], dtype=torch.float64))).tolist()
        [0.25]
    """

    name: str
    range: Interval
    _rate: Callable[[Tensor], Tensor]
    _inverse: Callable[[Tensor], Tensor]
    _derivative: Callable[[Tensor], Tensor]
    _modulus: Callable[[float], float]

    def rate(self, w: Tensor) -> Tensor:
        """f(w), elementwise, 1 / time; differentiable, with finite gradients for every finite w.

        Args:
            w: raw weights, any shape.

        Raises:
            TypeError: `w` is not a real floating-point tensor.
        """
        return self._rate(_working("w", w))

    def inverse(self, rate: Tensor) -> Tensor:
        """A raw weight w with f(w) = rate (for "inverse" the one that is >= 0).

        Args:
            rate: any shape, 1 / time, inside `range`.

        Raises:
            TypeError: `rate` is not a real floating-point tensor.
            ValueError: a rate lies outside the range of f, or is NaN.
        """
        rate = _working("rate", rate)
        inside = self.range.contains(rate)
        if not bool(inside.all()):
            worst = rate[~inside].flatten()[0].item()
            raise ValueError(
                f"rate must lie in {self.range}, the range of parameterization {self.name!r}, got {worst!r}"
            )
        return self._inverse(rate)

    def derivative(self, w: Tensor) -> Tensor:
        """f'(w), elementwise; arguments and errors of `rate`."""
        return self._derivative(_working("w", w))

    def gradient_scale(self, w: Tensor) -> Tensor:
        """|f'(w)| / f(w)^2, the factor that bounds |dLoss/dw|; 0 where f' is 0.

        With the discrete decay l = 1 - f in place of f it reads |l'| / (1 - l)^2, the same number.
        Arguments and errors of `rate`.
        """
        working = _working("w", w)
        wide = widened(working)  # squares of slow rates leave the range of float32
        slope, rate = self._derivative(wide).abs(), self._rate(wide)
        scale = torch.where(slope == 0, torch.zeros_like(slope), slope / rate / rate)
        return scale.to(working.dtype)

    def modulus(self, beta: float) -> float:
        """The stability modulus g(beta) = sup_w sup_{|d| <= beta} |f(w) / f(w + d) - 1|.

        Args:
            beta: radius of the perturbation of w, >= 0.

        Raises:
            TypeError: `beta` is not a real number.
            ValueError: `beta` is negative or NaN.

        Example:
            >>> round(parameterization("inverse").modulus(1.0), 10)
            2.7320508076
        """
        return self._modulus(check_not_negative("beta", beta, finite=False))


def _working(argument: str, value: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{argument} must be a torch.Tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(f"{argument} must have a real floating-point dtype, got {value.dtype}")
    return value if value.dtype in (torch.float32, torch.float64) else value.float()


def _identity(w: Tensor) -> Tensor:
    return w


def _step(w: Tensor) -> Tensor:
    return (w > 0).to(w.dtype)


def _exp(w: Tensor) -> Tensor:
    return torch.exp(w.clamp(max=EXP_LIMIT))


def _exp_derivative(w: Tensor) -> Tensor:
    return torch.where(w <= EXP_LIMIT, _exp(w), torch.zeros_like(w))


def _softplus(w: Tensor) -> Tensor:
    # logaddexp(w, 0) has the same values, but NaN as its second derivative at large negative w.
    return F.softplus(w, threshold=_SOFTPLUS_LINEAR_FROM)


def _softplus_inverse(rate: Tensor) -> Tensor:
    """log(exp(rate) - 1), written so that nothing overflows or cancels."""
    return rate + torch.log(complement(rate))


def _inverse_square(w: Tensor) -> Tensor:
    return 1 / (INVERSE_A * w * w + INVERSE_B)


def _inverse_square_inverse(rate: Tensor) -> Tensor:
    return torch.sqrt((1 - INVERSE_B * rate) / INVERSE_A / rate)


def _inverse_square_derivative(w: Tensor) -> Tensor:
    rate = _inverse_square(w)
    return -2 * INVERSE_A * w * rate * rate


def _lru(w: Tensor) -> Tensor:
    return complement(_exp(w))


def lru_normalization(w: Tensor) -> Tensor:
    """The input gain sqrt(1 - a^2) of parameterization "lru", a = 1 - exp(-exp(w)), elementwise.

    Accurate to 4 roundings, and so is its derivative, also where a is tiny or rounds to 1; each exp(w) adds one, the
    value's own sensitivity. Source: arXiv 2303.06349, section 3.4.

    Raises:
        TypeError: `w` is not a real floating-point tensor.

    Example:
        >>> lru_normalization(torch.tensor([-30.0])).tolist()
        [1.0]
    """
    w = _working("w", w)
    # Autograd of the product cancels for slow units, where log(1 - a^2) is -a^2; 1 - a^2 itself does for fast ones.
    a = _lru(w)
    slow = torch.sqrt(1 - a.clamp(max=0.5).square())
    return torch.where(a < 0.5, slow, torch.exp(-_exp(w) / 2) * torch.sqrt(1 + a))


def _lru_inverse(rate: Tensor) -> Tensor:
    return torch.log(-torch.log1p(-rate))


def _lru_derivative(w: Tensor) -> Tensor:
    return _exp_derivative(w) * torch.exp(-_exp(w))


def _unbounded(beta: float) -> float:
    return math.inf if beta > 0 else 0.0


def _exponential_modulus(beta: float) -> float:
    """e^beta - 1: the slope of log f is at most 1, and tends to 1 as w -> -inf."""
    try:
        return math.expm1(beta)
    except OverflowError:
        return math.inf


def _inverse_square_modulus(beta: float) -> float:
    scaled = math.sqrt(INVERSE_A) * beta
    return scaled * (scaled + math.sqrt(scaled * scaled + 4 * INVERSE_B)) / (2 * INVERSE_B)


_TABLE = {
    row.name: row
    for row in (
        Parameterization(
            "direct",
            Interval(-math.inf, math.inf),
            _identity,
            _identity,
            torch.ones_like,
            _unbounded,
        ),
        Parameterization(
            "relu",
            Interval(0.0, math.inf, closed_low=True),
            torch.relu,
            _identity,
            _step,
            _unbounded,
        ),
        Parameterization(
            "exp",
            Interval(0.0, math.exp(EXP_LIMIT), closed_high=True),
            _exp,
            torch.log,
            _exp_derivative,
            _exponential_modulus,
        ),
        Parameterization(
            "softplus",
            Interval(0.0, math.inf),
            _softplus,
            _softplus_inverse,
            torch.sigmoid,
            _exponential_modulus,
        ),
        Parameterization(
            "inverse",
            Interval(0.0, 1 / INVERSE_B, closed_high=True),
            _inverse_square,
            _inverse_square_inverse,
            _inverse_square_derivative,
            _inverse_square_modulus,
        ),
        Parameterization(
            "lru",
            Interval(0.0, 1.0),
            _lru,
            _lru_inverse,
            _lru_derivative,
            _exponential_modulus,
        ),
    )
}

PARAMETERIZATIONS = tuple(_TABLE)


def parameterization(name: str) -> Parameterization:
    """Look up a parameterisation, one of `PARAMETERIZATIONS`.

    Source: arXiv 2305.19190, eq 16, and arXiv 2311.14495; defined in `cofm_triton.reference`.

    Raises:
        ValueError: unknown name.

    Example:
        >>> parameterization("inverse").rate(torch.zeros(1)).tolist()
        [2.0]
    """
    check_choice("parameterization", name, PARAMETERIZATIONS)
    return _TABLE[name]


def spread_rates(count: int, kind: Parameterization, *, dt: float = 1.0, max_time_scale: float = 1000.0) -> Tensor:
    """Rates spread evenly in their logarithm over [high / max_time_scale, high].

    high is 1 / dt, the rate that forgets within one step, or 0.9 of the supremum of f where that
    is less (on the bound itself f is flat or out of reach). So the slowest mode remembers about
    `max_time_scale` steps, every mode starts stable, and dt * rate <= 1 in Euler form too.

    Args:
        count: number of rates; a single one is the geometric middle.
        kind: the parameterisation that has to express them.
        dt: step, time.
        max_time_scale: longest to shortest memory, > 1.

    Returns:
        (count,) float64 on the CPU, ascending, 1 / time.

    Raises:
        TypeError, ValueError: no numbers, or out of range.

    Example:
        >>> spread_rates(3, parameterization("exp"), max_time_scale=100.0).tolist()
        [0.01, 0.1, 1.0]
    """
    count, dt = check_int("count", count, 1), check_number("dt", dt)
    max_time_scale = check_number("max_time_scale", max_time_scale, above=1.0)
    high = min(1 / dt, 0.9 * kind.range.high)
    if count == 1:
        position = torch.full((1,), 0.5, dtype=torch.float64, device="cpu")
    else:
        position = torch.linspace(1, 0, count, dtype=torch.float64, device="cpu")
    return high * max_time_scale**-position


def spread_weights(count: int, kind: Parameterization, *, dt: float = 1.0, max_time_scale: float = 1000.0) -> Tensor:
    """Raw weights of the rates of `spread_rates`, whose arguments and result it has.

    The rates lie in the range of f by construction. `Parameterization.inverse` would look, and there is nothing to
    see where tensors have no numbers (`FakeTensorMode`).

    Example:
        >>> weights = spread_weights(3, parameterization("direct"), max_time_scale=100.0)
        >>> weights.tolist()
        [0.01, 0.1, 1.0]
    """
    return kind._inverse(spread_rates(count, kind, dt=dt, max_time_scale=max_time_scale))

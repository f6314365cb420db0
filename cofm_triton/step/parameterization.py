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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cofm_triton.step.parameterizations import PARAMETERIZATIONS, Interval, rate_function
from cofm_triton.step.parameterizations.exp import exp_torch
from cofm_triton.step.wide import widened
from cofm_triton.support.scalars import as_number, check_int, check_not_negative, check_number, described
from cofm_triton.support.tensors import check_tensor

__all__ = [
    "PARAMETERIZATIONS", "Interval", "Parameterization", "lru_normalization", "parameterization", "spread_rates",
    "spread_weights",
]  # fmt: skip


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

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles look the row up by its name."""
        return parameterization, (self.name,)


def _working(argument: str, value: Tensor) -> Tensor:
    check_tensor(argument, value)
    if not value.is_floating_point():
        raise TypeError(f"{argument} must have a real floating-point dtype, got {value.dtype}")
    return value if value.dtype in (torch.float32, torch.float64) else value.float()


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
    a = parameterization("lru").rate(w)
    slow = torch.sqrt(1 - a.clamp(max=0.5).square())
    return torch.where(a < 0.5, slow, torch.exp(-exp_torch(torch).rate(w) / 2) * torch.sqrt(1 + a))


_TABLE: dict[str, Parameterization] = {}


def parameterization(name: "str | Parameterization", **numbers: float) -> Parameterization:
    """Look up a parameterisation.

    What it returns, and its `name`, are taken wherever a name is: by layers, `rnn_scan`, model files and sweeps.

    Args:
        name: one of `PARAMETERIZATIONS`, a name with numbers such as "inverse(a=1.0, b=0.1)", or a parameterisation.
        numbers: those in f, positive. "inverse" has a and b: the decay of its Euler step with dt = 1 is the
            1 - 1 / (a w^2 + b) of StableSSM, whose code has a = 1, b = 0.1. That is stable for every w if b >= 1/2;
            "exact" steps are for every b.

    Source: arXiv 2305.19190, eq 16, and arXiv 2311.14495; defined in `cofm_triton.reference`.

    Raises:
        TypeError: a number is no number, or f has none of this name.
        ValueError: unknown name, or a number out of range.

    Example:
        >>> parameterization("inverse").rate(torch.zeros(1)).tolist()
        [2.0]
        >>> stable_ssm = parameterization("inverse", a=1.0, b=0.1)
        >>> stable_ssm.name, stable_ssm.rate(torch.zeros(1)).tolist()
        ('inverse(a=1.0, b=0.1)', [10.0])
    """
    if isinstance(name, Parameterization):
        name = name.name
    if not numbers and isinstance(name, str) and name in _TABLE:
        return _TABLE[name]
    row = rate_function(name, **{key: _number(key, value) for key, value in numbers.items()})
    if row.name not in _TABLE:
        _TABLE[row.name] = Parameterization(row.name, row.range, *row.torch(torch), row.modulus)
    return _TABLE[row.name]


def _number(name: str, value: Any) -> float:
    number = as_number(value)
    if number is None:
        raise TypeError(f"{name} must be a number, got {described(value)}")
    return number


for _name in PARAMETERIZATIONS:  # now, as compilers follow a table better than what fills it
    parameterization(_name)


def spread_rates(
    count: int, kind: Parameterization, *, dt: float = 1.0, max_time_scale: float = 1000.0, fastest: float = 1.0
) -> Tensor:
    """Rates spread evenly in their logarithm over [high / max_time_scale, high], or up to fastest * high.

    high is 1 / dt, the rate that forgets within one step, or 0.9 of the supremum of f where that
    is less (on the bound itself f is flat or out of reach). So the slowest mode remembers about
    `max_time_scale` steps, every mode starts stable, and dt * rate <= 1 in Euler form too.

    Args:
        count: number of rates; a single one is the geometric middle.
        kind: the parameterisation that has to express them.
        dt: step, time.
        max_time_scale: memory of the slowest, in those of high, > 1.
        fastest: of the largest rate, in units of high, or as near as f's range comes; "euler" allows less than 2.

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
    bound = 0.9 * kind.range.high
    high = min(1 / dt, bound)
    if count == 1:
        position = torch.full((1,), 0.5, dtype=torch.float64, device="cpu")
    else:
        position = torch.linspace(1, 0, count, dtype=torch.float64, device="cpu")
    top = min(high * fastest, bound)
    return top * (max_time_scale * (top / high)) ** -position


def spread_weights(
    count: int, kind: Parameterization, *, dt: float = 1.0, max_time_scale: float = 1000.0, fastest: float = 1.0
) -> Tensor:
    """Raw weights of the rates of `spread_rates`, whose arguments and result it has.

    The rates lie in the range of f by construction. `Parameterization.inverse` would look, and there is nothing to
    see where tensors have no numbers (`FakeTensorMode`).

    Example:
        >>> weights = spread_weights(3, parameterization("direct"), max_time_scale=100.0)
        >>> weights.tolist()
        [0.01, 0.1, 1.0]
    """
    return kind._inverse(spread_rates(count, kind, dt=dt, max_time_scale=max_time_scale, fastest=fastest))

"""What a parameterisation rate = f(w) is: its range and modulus, and f in the languages of PyTorch and of Triton."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Interval:
    """The set of rates that a parameterisation can express."""

    low: float
    high: float
    closed_low: bool = False
    closed_high: bool = False

    def contains(self, value: Any) -> Any:
        """Elementwise membership of a tensor, False for NaN."""
        above = value >= self.low if self.closed_low else value > self.low
        below = value <= self.high if self.closed_high else value < self.high
        return above & below

    def __str__(self) -> str:
        left, right = "[" if self.closed_low else "(", "]" if self.closed_high else ")"
        return f"{left}{self.low:g}, {self.high:g}{right}"


class TorchRate(NamedTuple):
    """Functions of PyTorch tensors, float32 or float64, elementwise.

    Attributes:
        rate: f(w), with finite derivatives for every finite w.
        inverse: a w with f(w) = rate, for rates within the range.
        slope: f'(w), 0 at kinks.
    """

    rate: Callable[[Any], Any]
    inverse: Callable[[Any], Any]
    slope: Callable[[Any], Any]


class KernelRate(NamedTuple):
    """f(w) and f'(w) as Triton functions of float64 values; NaN is passed on."""

    rate: Any
    slope: Any


@dataclass(frozen=True)
class RateFunction:
    """One row of the table. Functions are made when their backend is first used: a row imports no backend.

    Attributes:
        name: the name used throughout the library, with the numbers that are not the usual ones.
        range: the rates that f can express.
        modulus: the stability modulus g(beta) = sup_w sup_{|d| <= beta} |f(w) / f(w + d) - 1|.
        torch: `torch(module)`, the functions of tensors, from the module `torch`.
        triton: `triton(jit, tl, elementary)`, from a decorator for all that Triton compiles and the modules
            `triton.language` and `cofm_triton.kernels.elementary`.
    """

    name: str
    range: Interval
    modulus: Callable[[float], float]
    torch: Callable[[Any], TorchRate]
    triton: Callable[[Any, Any, Any], KernelRate]


def unbounded(beta: float) -> float:
    """The modulus of f that comes to 0: infinite."""
    return math.inf if beta > 0 else 0.0


def exponential_modulus(beta: float) -> float:
    """e^beta - 1: the slope of log f is at most 1, and tends to 1 as w -> -inf."""
    try:
        return math.expm1(beta)
    except OverflowError:
        return math.inf

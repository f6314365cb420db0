"""inverse: f(w) = 1 / (a w^2 + b), a and b positive; usually a = 1, b = 1/2.

The decay of an Euler step with dt = 1 is StableSSM's lambda = 1 - 1 / (a w^2 + b), arXiv 2311.14495, whose code has
a = 1 and b = 0.1. It is stable for every w where b >= 1/2.
"""

from __future__ import annotations

import math
from typing import Any

from cofm_triton.step.parameterizations.row import Interval, KernelRate, RateFunction, TorchRate

A, B = 1.0, 0.5


def row(a: float = A, b: float = B) -> RateFunction:
    """The row with numbers a and b."""

    def in_torch(torch: Any) -> TorchRate:
        def rate(w: Any) -> Any:
            return 1 / (a * w * w + b)

        def inverse(rate: Any) -> Any:
            return torch.sqrt((1 - b * rate) / a / rate)

        def slope(w: Any) -> Any:
            f = rate(w)
            return -2 * a * w * f * f

        return TorchRate(rate, inverse, slope)

    def in_triton(jit: Any, tl: Any, elementary: Any) -> KernelRate:
        scale, shift = tl.constexpr(a), tl.constexpr(b)

        @jit
        def rate(w):
            return 1.0 / (scale * w * w + shift)

        @jit
        def slope(w):
            f = rate(w)
            return -2.0 * scale * w * f * f

        return KernelRate(rate, slope)

    def modulus(beta: float) -> float:
        """s (s + sqrt(s^2 + 4 b)) / (2 b), s = sqrt(a) beta."""
        scaled = math.sqrt(a) * beta
        return scaled * (scaled + math.sqrt(scaled * scaled + 4 * b)) / (2 * b)

    name = "inverse" if (a, b) == (A, B) else f"inverse(a={a!r}, b={b!r})"
    return RateFunction(name, Interval(0.0, 1 / b, closed_high=True), modulus, in_torch, in_triton)

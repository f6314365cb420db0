"""exp: f(w) = exp(min(w, 30)).

exp(30) = 1e13 per unit of time is instantaneous; further up gradients overflow.
"""

from __future__ import annotations

import math
from typing import Any

from cofm_triton.step.parameterizations.row import Interval, KernelRate, RateFunction, TorchRate, exponential_modulus

LIMIT = 30.0


def exp_torch(torch: Any) -> TorchRate:
    """Functions of tensors."""

    def rate(w: Any) -> Any:
        return torch.exp(torch.where(w > LIMIT, LIMIT, w))  # clamp has no derivative at its limit in PyTorch 2.14

    def slope(w: Any) -> Any:
        return torch.where(w <= LIMIT, rate(w), torch.zeros_like(w))

    return TorchRate(rate, torch.log, slope)


def exp_triton(jit: Any, tl: Any, elementary: Any) -> KernelRate:
    """Functions of Triton values."""
    limit = tl.constexpr(LIMIT)

    @jit
    def rate(w):
        return tl.exp(tl.minimum(w, limit, propagate_nan=tl.PropagateNan.ALL))

    @jit
    def slope(w):
        return tl.where(w <= limit, rate(w), 0.0)

    return KernelRate(rate, slope)


def row() -> RateFunction:
    """The row."""
    return RateFunction(
        "exp", Interval(0.0, math.exp(LIMIT), closed_high=True), exponential_modulus, exp_torch, exp_triton
    )

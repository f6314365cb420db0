"""relu: f(w) = max(w, 0)."""

from __future__ import annotations

import math
from typing import Any

from cofm_triton.step.parameterizations.row import Interval, KernelRate, RateFunction, TorchRate, unbounded


def _torch(torch: Any) -> TorchRate:
    def inverse(rate: Any) -> Any:
        return rate

    def slope(w: Any) -> Any:
        return (w > 0).to(w.dtype)

    return TorchRate(torch.relu, inverse, slope)


def _triton(jit: Any, tl: Any, elementary: Any) -> KernelRate:
    @jit
    def rate(w):
        return tl.maximum(w, 0.0, propagate_nan=tl.PropagateNan.ALL)

    @jit
    def slope(w):
        return tl.where(w > 0, 1.0, 0.0).to(w.dtype)

    return KernelRate(rate, slope)


def row() -> RateFunction:
    """The row."""
    return RateFunction("relu", Interval(0.0, math.inf, closed_low=True), unbounded, _torch, _triton)

"""direct: f(w) = w, of any sign; the rate itself, as in `torch.nn.RNN`."""

from __future__ import annotations

import math
from typing import Any

from cofm_triton.step.parameterizations.row import Interval, KernelRate, RateFunction, TorchRate, unbounded


def _torch(torch: Any) -> TorchRate:
    def identity(w: Any) -> Any:
        return w

    return TorchRate(identity, identity, torch.ones_like)


def _triton(jit: Any, tl: Any, elementary: Any) -> KernelRate:
    @jit
    def rate(w):
        return w

    @jit
    def slope(w):
        return tl.full(w.shape, 1.0, w.dtype)

    return KernelRate(rate, slope)


def row() -> RateFunction:
    """The row."""
    return RateFunction("direct", Interval(-math.inf, math.inf), unbounded, _torch, _triton)

"""softplus: f(w) = log(1 + exp(w))."""

from __future__ import annotations

import math
from typing import Any

from cofm_triton.step.parameterizations.row import Interval, KernelRate, RateFunction, TorchRate, exponential_modulus

_LINEAR_FROM = 40.0  # exp(-40) is below half an ulp of 40: the linear branch is exact


def _torch(torch: Any) -> TorchRate:
    from cofm_triton.step.discretization import complement

    def rate(w: Any) -> Any:
        # logaddexp(w, 0) has the same values, but NaN as its second derivative at large negative w.
        return torch.nn.functional.softplus(w, threshold=_LINEAR_FROM)

    def inverse(rate: Any) -> Any:
        """log(exp(rate) - 1), written so that nothing overflows or cancels."""
        return rate + torch.log(complement(rate))

    return TorchRate(rate, inverse, torch.sigmoid)


def _triton(jit: Any, tl: Any, elementary: Any) -> KernelRate:
    @jit
    def rate(w):
        return tl.maximum(w, 0.0, propagate_nan=tl.PropagateNan.ALL) + elementary.log1p(tl.exp(-tl.abs(w)))

    @jit
    def slope(w):
        return 1.0 / (1.0 + tl.exp(-w))

    return KernelRate(rate, slope)


def row() -> RateFunction:
    """The row."""
    return RateFunction("softplus", Interval(0.0, math.inf), exponential_modulus, _torch, _triton)

"""lru: f(w) = 1 - exp(-exp(w)), whose Euler step with dt = 1 has the decay exp(-exp(w)) of arXiv 2303.06349."""

from __future__ import annotations

from typing import Any

from cofm_triton.step.parameterizations.exp import exp_torch, exp_triton
from cofm_triton.step.parameterizations.row import Interval, KernelRate, RateFunction, TorchRate, exponential_modulus


def _torch(torch: Any) -> TorchRate:
    from cofm_triton.step.discretization import complement

    exp = exp_torch(torch)

    def rate(w: Any) -> Any:
        return complement(exp.rate(w))

    def inverse(rate: Any) -> Any:
        return torch.log(-torch.log1p(-rate))

    def slope(w: Any) -> Any:
        return exp.slope(w) * torch.exp(-exp.rate(w))

    return TorchRate(rate, inverse, slope)


def _triton(jit: Any, tl: Any, elementary: Any) -> KernelRate:
    exp, exp_slope = exp_triton(jit, tl, elementary)

    @jit
    def rate(w):
        return elementary.complement(exp(w))

    @jit
    def slope(w):
        return exp_slope(w) * tl.exp(-exp(w))

    return KernelRate(rate, slope)


def row() -> RateFunction:
    """The row; log f has the slope x / (exp(x) - 1) <= 1 in w, x = exp(w): the modulus of exp."""
    return RateFunction("lru", Interval(0.0, 1.0), exponential_modulus, _torch, _triton)

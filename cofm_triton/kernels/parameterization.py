"""Rates from raw parameters inside kernels: `a = f(w)`, or `(1 - exp(-dt f(w))) / dt` where EXACT, and `da / dw`.

The functions f are those of `step.parameterization`. All is float64 on the way, whatever the state: it happens
once per channel and program, and leaves the rate off by one rounding of the state. NaN propagates.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cofm_triton.kernels.nonlinearity import tanh
from cofm_triton.step.rate_numbers import EXP_LIMIT, INVERSE_A, INVERSE_B

_LIMIT = tl.constexpr(EXP_LIMIT)
_A = tl.constexpr(INVERSE_A)
_B = tl.constexpr(INVERSE_B)
# Terms of the series of log1p: s <= 1/3, so that the first one left out is below 2e-18.
_TERMS = tl.constexpr(17)


@triton.jit
def _complement(x):
    """1 - exp(-x), accurate relative to itself: 2 t / (1 + t) with t = tanh(x / 2) near 0."""
    t = tanh(x / 2)
    return tl.where(tl.abs(x) < 0.5, 2 * t / (1 + t), 1 - tl.exp(-x))


@triton.jit
def _log1p(x):
    """log(1 + x) for 0 <= x <= 1, accurate relative to itself: 2 artanh(s), s = x / (2 + x), by its series."""
    s = x / (2 + x)
    total = tl.full(x.shape, 1 / (2 * _TERMS + 1), x.dtype)
    for k in tl.static_range(_TERMS - 1, -1, -1):
        total = total * (s * s) + 1 / (2 * k + 1)
    return 2 * s * total


@triton.jit
def _exp(w):
    return tl.exp(tl.minimum(w, _LIMIT, propagate_nan=tl.PropagateNan.ALL))


@triton.jit
def _function(w, PARAMETERIZATION: tl.constexpr):
    """f(w)."""
    if PARAMETERIZATION == "relu":
        rate = tl.maximum(w, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif PARAMETERIZATION == "exp":
        rate = _exp(w)
    elif PARAMETERIZATION == "softplus":
        rate = tl.maximum(w, 0.0, propagate_nan=tl.PropagateNan.ALL) + _log1p(tl.exp(-tl.abs(w)))
    elif PARAMETERIZATION == "inverse":
        rate = 1.0 / (_A * w * w + _B)
    elif PARAMETERIZATION == "lru":
        rate = _complement(_exp(w))
    else:
        rate = w
    return rate


@triton.jit
def _derivative(w, PARAMETERIZATION: tl.constexpr):
    """f'(w); at the kink of relu 0, and 0 where exp no longer grows."""
    if PARAMETERIZATION == "relu":
        slope = tl.where(w > 0, 1.0, 0.0).to(w.dtype)
    elif PARAMETERIZATION == "exp":
        slope = tl.where(w <= _LIMIT, _exp(w), 0.0)
    elif PARAMETERIZATION == "softplus":
        slope = 1.0 / (1.0 + tl.exp(-w))
    elif PARAMETERIZATION == "inverse":
        rate = 1.0 / (_A * w * w + _B)
        slope = -2.0 * _A * w * rate * rate
    elif PARAMETERIZATION == "lru":
        slope = tl.where(w <= _LIMIT, _exp(w), 0.0) * tl.exp(-_exp(w))
    else:
        slope = tl.full(w.shape, 1.0, w.dtype)
    return slope


@triton.jit
def step_rate(w, dt, PARAMETERIZATION: tl.constexpr, EXACT: tl.constexpr):
    """a, in the dtype of w; dt is float64."""
    rate = _function(w.to(tl.float64), PARAMETERIZATION)
    if EXACT:
        rate = _complement(dt * rate) / dt
    return rate.to(w.dtype)


@triton.jit
def step_rate_slope(w, dt, PARAMETERIZATION: tl.constexpr, EXACT: tl.constexpr):
    """da / dw, in the dtype of w; dt is float64."""
    slope = _derivative(w.to(tl.float64), PARAMETERIZATION)
    if EXACT:
        slope *= tl.exp(-dt * _function(w.to(tl.float64), PARAMETERIZATION))
    return slope.to(w.dtype)

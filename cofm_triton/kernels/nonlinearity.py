"""The nonlinearities and their derivatives on Triton values; names and numbers from `step.nonlinearity`.

`act` maps the pre-activation z to u = act(z); `act_derivative` gives a multiple of act'(z), with PyTorch's subgradient
at the kinks: hardtanh'(+-1) = 0, relu'(0) = 0. NaN propagates through each of them, as it does in PyTorch.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from cofm_triton.step.nonlinearity import TANH_FLOAT32, TANH_FLOAT64

_TWO_LOG2E = tl.constexpr(2.0 / math.log(2.0))
_THRESHOLD_32 = tl.constexpr(TANH_FLOAT32.threshold)
_FIT_32 = tl.constexpr(TANH_FLOAT32.coefficients)
_DEGREE_32 = tl.constexpr(len(TANH_FLOAT32.coefficients) - 1)
_THRESHOLD_64 = tl.constexpr(TANH_FLOAT64.threshold)
_FIT_64 = tl.constexpr(TANH_FLOAT64.coefficients)
_DEGREE_64 = tl.constexpr(len(TANH_FLOAT64.coefficients) - 1)


@triton.jit
def _polynomial(w, FIT: tl.constexpr, DEGREE: tl.constexpr):
    """P(w)."""
    p = tl.full(w.shape, FIT[DEGREE], w.dtype)
    for i in tl.static_range(DEGREE - 1, -1, -1):
        p = p * w + FIT[i]
    return p


@triton.jit
def _tanh_excess(z, u, THRESHOLD: tl.constexpr, FIT: tl.constexpr, DEGREE: tl.constexpr):
    w = z * z
    return tl.where(tl.abs(z) < THRESHOLD, -z * w * _polynomial(w, FIT, DEGREE), z - u)


@triton.jit
def tanh(z):
    """tanh, the state's dtype chooses the fit: float32 to 2.5 ulp, see `cofm_triton.step.nonlinearity`, float64 to 2.5.

    tanh(-0) = -0, where the polynomial gives +0: in float32 the sign is a bit, where that is the cheapest; in float64
    integers of twice the width cost registers.
    """
    if z.dtype == tl.float64:
        magnitude = tl.abs(z)
        far = 1.0 - 2.0 / (tl.exp(2.0 * magnitude) + 1.0)
        far = tl.where(z < 0, -far, far)
        w = z * z
        u = tl.where(magnitude < _THRESHOLD_64, z + z * w * _polynomial(w, _FIT_64, _DEGREE_64), far)
        u = tl.where(z == 0, z, u)
    else:
        w = z * z
        near = z + z * w * _polynomial(w, _FIT_32, _DEGREE_32)
        magnitude = tl.abs(z)
        # 1 / a = rsqrt(a^2): one instruction on every target, where a division takes five or eleven.
        denominator = tl.exp2(magnitude * _TWO_LOG2E) + 1.0
        far = 1.0 - 2.0 * tl.rsqrt(denominator * denominator)
        u = tl.where(magnitude < _THRESHOLD_32, near, far)
        sign = z.to(tl.int32, bitcast=True) & (tl.full((), 1, tl.int32) << 31)
        u = (u.to(tl.int32, bitcast=True) | sign).to(tl.float32, bitcast=True)
    return u


@triton.jit
def act(z, NONLINEARITY: tl.constexpr):
    """u = act(z)."""
    if NONLINEARITY == "tanh":
        u = tanh(z)
    elif NONLINEARITY == "hardtanh":
        if z.dtype == tl.float64:  # no target has the fused instruction for it, and on sm_90 Triton asks for one
            low = tl.maximum(z, -1.0, propagate_nan=tl.PropagateNan.ALL)
            u = tl.minimum(low, 1.0, propagate_nan=tl.PropagateNan.ALL)
        else:
            u = tl.clamp(z, -1.0, 1.0, propagate_nan=tl.PropagateNan.ALL)
    elif NONLINEARITY == "relu":
        u = tl.maximum(z, 0.0, propagate_nan=tl.PropagateNan.ALL)
    else:
        u = z
    return u


@triton.jit
def act_derivative(z, u, scale, NONLINEARITY: tl.constexpr):
    """scale * act'(z), from z or u = act(z), whichever is cheaper; chosen, not multiplied, where act' is 0 or 1."""
    if NONLINEARITY == "tanh":
        s = scale * (1.0 - u * u)
    elif NONLINEARITY == "hardtanh":
        s = tl.where(tl.abs(z) < 1.0, scale, 0.0).to(z.dtype)
    elif NONLINEARITY == "relu":
        s = tl.where(z > 0.0, scale, 0.0).to(z.dtype)
    else:
        s = tl.full(z.shape, 1.0, z.dtype) * scale
    return s


@triton.jit
def excess(z, u, NONLINEARITY: tl.constexpr):
    """z - u for u = act(z), accurate relative to itself: for tanh near 0, where it would cancel, by the series."""
    if NONLINEARITY == "tanh":
        if z.dtype == tl.float64:
            difference = _tanh_excess(z, u, _THRESHOLD_64, _FIT_64, _DEGREE_64)
        else:
            difference = _tanh_excess(z, u, _THRESHOLD_32, _FIT_32, _DEGREE_32)
    else:
        difference = z - u
    return difference

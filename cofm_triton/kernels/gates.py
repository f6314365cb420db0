"""Gates inside kernels, in the dtype of the state: the rows of `step/gates.py`.

    strength(p, q)          s, and its slopes by p and q
    decayed(E)              exp(-E) and 1 - exp(-E), for E >= 0

exp is taken of numbers that are not positive, so that nothing overflows. NaN propagates.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Terms of the series of log1p in s^2, s = x / (2 + x) <= 1/3, and of (1 - exp(-x)) / x for x < 1/2: the first ones left
# out are below a tenth of a rounding. In float64 arguments are made small first, since gfx942 keeps every constant of a
# series in two scalar registers.
LOG_TERMS, EXP_TERMS = tl.constexpr(8), tl.constexpr(8)
LOG_TERMS_64, EXP_TERMS_64 = tl.constexpr(6), tl.constexpr(5)
HALVINGS = tl.constexpr(3)  # log(1 + e) = 2 log(sqrt(1 + e)), float64: s < 0.044
DOUBLINGS = tl.constexpr(7)  # c(2 x) = c (2 - c) for c(x) = 1 - exp(-x), float64: x < 1/256
# The smallest normal numbers, below which a square root is not to be divided by.
TINY, TINY_64 = tl.constexpr(2.0**-126), tl.constexpr(2.0**-1022)


@triton.jit
def sigmoid(z):
    """`(sigmoid(z), its slope)`."""
    e = tl.exp(-tl.abs(z))
    r = 1.0 / (1.0 + e)
    return tl.where(z < 0, e * r, r), e * r * r


@triton.jit
def softplus(z):
    """`(softplus(z), its slope)`: max(z, 0) + log1p(exp(-|z|)), log1p(e) = 2 artanh(e / (2 + e))."""
    e = tl.exp(-tl.abs(z))
    small = e
    scale = 2.0
    if z.dtype == tl.float64:
        for _ in tl.static_range(HALVINGS):
            small = small / (1.0 + tl.sqrt(1.0 + small))
            scale = 2.0 * scale
    s = small / (2.0 + small)
    w = s * s
    TERMS: tl.constexpr = LOG_TERMS_64 if z.dtype == tl.float64 else LOG_TERMS
    total = tl.full(z.shape, 1.0 / (2 * TERMS - 1), z.dtype)
    for k in tl.static_range(TERMS - 2, -1, -1):
        total = total * w + 1.0 / (2 * k + 1)
    r = 1.0 / (1.0 + e)
    return tl.where(z < 0, 0.0, z) + scale * s * total, tl.where(z < 0, e * r, r)


@triton.jit
def decayed(x):
    """`(exp(-x), 1 - exp(-x))`, x >= 0: the latter by its series near 0."""
    decay = tl.exp(-x)
    small = x
    if x.dtype == tl.float64:
        small = x * (0.5**DOUBLINGS)
    TERMS: tl.constexpr = EXP_TERMS_64 if x.dtype == tl.float64 else EXP_TERMS
    near = tl.full(x.shape, 1.0, x.dtype)
    for k in tl.static_range(TERMS, 0, -1):  # 1 - x/2 (1 - x/3 (1 - ...))
        near = 1.0 - small * near * (1.0 / (k + 1))
    near = small * near
    if x.dtype == tl.float64:
        for _ in tl.static_range(DOUBLINGS):
            near = near * (2.0 - near)
    return decay, tl.where(x < 0.5, near, 1.0 - decay)


@triton.jit
def normalization(decay, complement):
    """sqrt(1 - decay^2), never 0: there a gradient would be 0 times infinity."""
    LEAST: tl.constexpr = TINY_64 if decay.dtype == tl.float64 else TINY
    square = complement * (1.0 + decay)
    return tl.sqrt(tl.where(square < LEAST, LEAST, square))


@triton.jit
def strength(p, q, STRENGTH: tl.constexpr):
    """`(s, by p, by q)`; q does not count but in "share"."""
    if STRENGTH == "sigmoid":
        s, by_p = sigmoid(p)
        by_q = p
    elif STRENGTH == "softplus":
        s, by_p = softplus(p)
        by_q = p
    else:
        tl.static_assert(STRENGTH == "share", "STRENGTH must be one of ('sigmoid', 'softplus', 'share')")
        forget, by_p = softplus(-p)
        enter, by_q = softplus(-q)
        s, slope = softplus(forget - enter)
        by_p = 0.0 - slope * by_p
        by_q = slope * by_q
    return s, by_p, by_q


@triton.jit
def formed(rate, p, q, STRENGTH: tl.constexpr, GAIN: tl.constexpr):
    """`(decay, gain)`."""
    s, _by_p, _by_q = strength(p, q, STRENGTH=STRENGTH)
    decay, complement = decayed(rate * s)
    if GAIN == "variance":
        share, _slope = sigmoid(q)
        gain = normalization(decay, complement) * share
    elif GAIN == "complement":
        gain = complement
    else:
        tl.static_assert(GAIN == "strength", "GAIN must be one of ('variance', 'complement', 'strength')")
        gain = s
    return decay, gain


@triton.jit
def pulled(rate, p, q, by_decay, by_gain, STRENGTH: tl.constexpr, GAIN: tl.constexpr):
    """`(decay, gain, dp, dq, drate)`: the latter from gradients by decay and gain."""
    s, slope, slope_q = strength(p, q, STRENGTH=STRENGTH)
    decay, complement = decayed(rate * s)
    if GAIN == "variance":
        size = normalization(decay, complement)
        share, share_slope = sigmoid(q)
        gain = size * share
        by_exponent = decay * (by_gain * share * (decay / size) - by_decay)
        grad_q = by_gain * size * share_slope
        by_strength = rate * by_exponent
    elif GAIN == "complement":
        gain = complement
        by_exponent = decay * (by_gain - by_decay)
        by_strength = rate * by_exponent
        grad_q = by_strength * slope_q
    else:
        tl.static_assert(GAIN == "strength", "GAIN must be one of ('variance', 'complement', 'strength')")
        gain = s
        by_exponent = 0.0 - decay * by_decay
        by_strength = rate * by_exponent + by_gain
        grad_q = by_strength * slope_q
    return decay, gain, by_strength * slope, grad_q, s * by_exponent

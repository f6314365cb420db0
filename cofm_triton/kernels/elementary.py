"""Elementary functions of Triton values that Triton's language lacks, accurate relative to themselves."""

from __future__ import annotations

import math

import triton
import triton.language as tl

from cofm_triton.kernels.nonlinearity import tanh

# Terms of the series of log1p: s <= 1/3, so that the first one left out is below 2e-18.
_TERMS = tl.constexpr(17)
# Of that of atan: |t| < 0.2, so that the first one left out is below 1e-18.
_ATAN_TERMS = tl.constexpr(12)
_SINE_TERMS = tl.constexpr(9)  # of those of sine and cosine: |rest| < pi / 4, so that the first one left out is < 4e-21
_QUARTER_TURN = tl.constexpr(math.pi / 2)


@triton.jit
def complement(x):
    """1 - exp(-x): 2 t / (1 + t) with t = tanh(x / 2) near 0."""
    t = tanh(x / 2)
    return tl.where(tl.abs(x) < 0.5, 2 * t / (1 + t), 1 - tl.exp(-x))


@triton.jit
def log1p(x):
    """log(1 + x) for 0 <= x <= 1: 2 artanh(s), s = x / (2 + x), by its series."""
    s = x / (2 + x)
    total = tl.full(x.shape, 1 / (2 * _TERMS + 1), x.dtype)
    for k in tl.static_range(_TERMS - 1, -1, -1):
        total = total * (s * s) + 1 / (2 * k + 1)
    return 2 * s * total


@triton.jit
def atan(x):
    """atan(x), beyond 1 from that of 1 / x; for the series the angle is halved twice: its tangent is then below 0.2."""
    large = tl.abs(x) > 1
    t = tl.where(large, 1 / tl.where(large, x, 1.0), x)
    t = t / (1 + tl.sqrt(1 + t * t))
    t = t / (1 + tl.sqrt(1 + t * t))
    total = tl.full(x.shape, 1 / (2 * _ATAN_TERMS + 1), x.dtype)
    for k in tl.static_range(_ATAN_TERMS - 1, -1, -1):
        total = 1 / (2 * k + 1) - total * (t * t)
    angle = 4 * t * total
    quarter = tl.full(x.shape, _QUARTER_TURN, x.dtype)  # `tl.where` takes a number for float32
    return tl.where(large, tl.where(x > 0, quarter, -quarter) - angle, angle)


@triton.jit
def sin_cos(x):
    """sin(x) and cos(x), to a rounding of x and one of 1: by the series of the rest that multiples of pi / 2 leave.

    Libraries keep an array in memory for the rest of huge angles, whose last digit is worth more than a turn anyway.
    """
    turns = tl.floor(x * (1 / _QUARTER_TURN) + 0.5)
    # pi / 2 in parts of 33 bits: a product with a number of turns below 2^20 is exact.
    rest = x - turns * 1.57079632673412561417 - turns * 6.0771005063039659766e-11 - turns * 2.0222662487111664558e-21
    square = rest * rest
    sine = tl.full(x.shape, 1.0, x.dtype)
    cosine = tl.full(x.shape, 1.0, x.dtype)
    for k in tl.static_range(_SINE_TERMS, 0, -1):
        sine = 1 - square * (1 / (2 * k * (2 * k + 1))) * sine
        cosine = 1 - square * (1 / (2 * k * (2 * k - 1))) * cosine
    sine = rest * sine
    quadrant = turns - 4 * tl.floor(turns / 4)
    swapped = (quadrant == 1) | (quadrant == 3)
    s = tl.where(swapped, cosine, sine)
    c = tl.where(swapped, sine, cosine)
    return tl.where(quadrant >= 2, -s, s), tl.where((quadrant == 1) | (quadrant == 2), -c, c)

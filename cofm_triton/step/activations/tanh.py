"""tanh: act(z) = tanh(z), to 2.5 units in the last place on every backend.

Triton: `tanh(z) = z + z w P(w)`, `w = z^2`, for `|z| < threshold`, and `1 - 2 / (exp(2 |z|) + 1)` with the sign of z
beyond. In float32, P is a minimax fit in relative error (4.7e-9), and a quotient is the inverse square root of a
square. The threshold is where the quotient has become small enough for its errors not to matter: with exp2 and the
inverse root both taken to be 2 units in the last place off, up or down, every float32 |z| from 1 to 10 has its tanh
within 2.5 units of the exact one and 2 of `torch.tanh`, every one from 1e-4 to 1 within 1: found by going through all
of them. Smaller z come out as z, larger ones as 1, as they should.

Compiled loops of the CPU: `tanh|z| = e / (e + 2)` with e = expm1(2|z|), see `expm1`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from cofm_triton.step.activations.row import Activation, KernelBodies, TorchBodies


class TanhFit(NamedTuple):
    """Largest |z| of the polynomial, and its coefficients from the lowest power of w up."""

    threshold: float
    coefficients: tuple[float, ...]


TANH_FLOAT32 = TanhFit(
    1.0,
    (
        -0.33333295583724976,
        0.13332346081733704,
        -0.05387984588742256,
        0.0214866753667593,
        -0.007946009747684002,
        0.00230122241191566,
        -0.0003583947254810482,
    ),
)
# The Taylor series is short enough here: its first neglected term is below 1e-16 of the sum.
TANH_FLOAT64 = TanhFit(
    0.25,
    (
        -1 / 3,
        2 / 15,
        -17 / 315,
        62 / 2835,
        -1382 / 155925,
        21844 / 6081075,
        -929569 / 638512875,
        6404582 / 10854718875,
        -443861162 / 1856156927625,
    ),
)


def _torch(torch: Any) -> TorchBodies:
    def slope(z: Any) -> Any:
        return 1 - torch.tanh(z).square()

    def excess(z: Any) -> Any:
        """The difference cancels near 0, where the series takes over."""
        square = z * z
        series = torch.zeros_like(z)
        for coefficient in reversed(TANH_FLOAT64.coefficients):
            series = series * square + coefficient
        return torch.where(z.abs() < TANH_FLOAT64.threshold, -z * square * series, z - torch.tanh(z))

    def difference(z: Any, step: Any) -> Any:
        """sinh(step) / (cosh(z) cosh(z + step)), the three exponents joined: their sum is never positive."""
        end = z + step
        scale = torch.exp(step.abs() - z.abs() - end.abs())
        damping = (1 + torch.exp(-2 * z.abs())) * (1 + torch.exp(-2 * end.abs()))
        return -2 * torch.sign(step) * torch.expm1(-2 * step.abs()) * scale / damping

    return TorchBodies(torch.tanh, torch.tanh_, slope, excess, difference)


def _triton(jit: Any, tl: Any) -> KernelBodies:
    two_log2e = tl.constexpr(2.0 / math.log(2.0))
    threshold_32, threshold_64 = tl.constexpr(TANH_FLOAT32.threshold), tl.constexpr(TANH_FLOAT64.threshold)
    fit_32, fit_64 = tl.constexpr(TANH_FLOAT32.coefficients), tl.constexpr(TANH_FLOAT64.coefficients)
    degree_32 = tl.constexpr(len(TANH_FLOAT32.coefficients) - 1)
    degree_64 = tl.constexpr(len(TANH_FLOAT64.coefficients) - 1)

    @jit
    def polynomial(w, FIT: tl.constexpr, DEGREE: tl.constexpr):
        """P(w)."""
        p = tl.full(w.shape, FIT[DEGREE], w.dtype)
        for i in tl.static_range(DEGREE - 1, -1, -1):
            p = p * w + FIT[i]
        return p

    @jit
    def act(z):
        """The state's dtype chooses the fit.

        tanh(-0) = -0, where the polynomial gives +0: in float32 the sign is a bit, where that is the cheapest; in
        float64 integers of twice the width cost registers.
        """
        if z.dtype == tl.float64:
            magnitude = tl.abs(z)
            far = 1.0 - 2.0 / (tl.exp(2.0 * magnitude) + 1.0)
            far = tl.where(z < 0, -far, far)
            w = z * z
            u = tl.where(magnitude < threshold_64, z + z * w * polynomial(w, fit_64, degree_64), far)
            u = tl.where(z == 0, z, u)
        else:
            w = z * z
            near = z + z * w * polynomial(w, fit_32, degree_32)
            magnitude = tl.abs(z)
            # 1 / a = rsqrt(a^2): one instruction on every target, where a division takes five or eleven.
            denominator = tl.exp2(magnitude * two_log2e) + 1.0
            far = 1.0 - 2.0 * tl.rsqrt(denominator * denominator)
            u = tl.where(magnitude < threshold_32, near, far)
            sign = z.to(tl.int32, bitcast=True) & (tl.full((), 1, tl.int32) << 31)
            u = (u.to(tl.int32, bitcast=True) | sign).to(tl.float32, bitcast=True)
        return u

    @jit
    def slope(z, u, scale):
        return scale * (1.0 - u * u)

    @jit
    def excess(z, u):
        """The difference cancels near 0, where the series takes over."""
        w = z * z
        if z.dtype == tl.float64:
            difference = tl.where(tl.abs(z) < threshold_64, -z * w * polynomial(w, fit_64, degree_64), z - u)
        else:
            difference = tl.where(tl.abs(z) < threshold_32, -z * w * polynomial(w, fit_32, degree_32), z - u)
        return difference

    return KernelBodies(act, slope, excess)


class _Expm1(NamedTuple):
    """Numbers of `expm1` for one type: see there."""

    high: float
    low: float
    degree: int
    limit: float


_EXPM1 = {
    "float32": _Expm1(0.693145751953125, 1.4286068203094173e-06, 7, 20.0),
    "float64": _Expm1(0.6931471805598903, 5.497923018708371e-14, 13, 40.0),
}


def _expm1(inlined: Any, bits: Any, real: Any) -> Any:
    """expm1(x) for x >= 0 inside compiled loops, x taken for the limit from where tanh(x / 2) rounds to 1.

    expm1(x) = 2^n p(r) + (2^n - 1), x = n ln 2 + r. p is the Taylor polynomial of expm1 on |r| <= ln(2) / 2. n is read
    off the bits of x / ln 2 + 1.5 * 2^mantissa, so that the whole function is straight-line arithmetic and the
    compiler vectorises it; the C library's functions are called one number at a time. ln 2 is high + low, and n * high
    is exact for every n that occurs.
    """
    import numpy as np

    limits, numbers = np.finfo(real), _EXPM1[np.dtype(real).name]
    integer = np.int32 if real is np.float32 else np.int64
    choose, like, power = bits.choose, bits.like, bits.power
    magic, one, cap = real(1.5 * 2.0**limits.nmant), real(1), real(numbers.limit)
    log2e, high, low = real(1 / math.log(2)), real(numbers.high), real(numbers.low)
    first, *rest = (real(1 / math.factorial(n)) for n in range(numbers.degree, 1, -1))
    terms = tuple(rest)
    bias, shift = integer(2 ** (int(limits.nexp) - 1) - 1), integer(limits.nmant)

    @inlined
    def expm1(x: Any) -> Any:
        x = choose(x > cap, like(x, cap), x)
        shifted = x * log2e + magic
        n = shifted - magic
        r = x - n * high - n * low
        p = first
        for term in terms:
            p = p * r + term
        p = p * r * r + r
        scale = power(shifted, bias, shift)
        return scale * p + (scale - one)

    return expm1


def _jit(inlined: Any, bits: Any, real: Any) -> KernelBodies:
    expm1, signed, like, two = _expm1(inlined, bits, real), bits.signed, bits.like, real(2)
    threshold, series = TANH_FLOAT64.threshold, tuple(reversed(TANH_FLOAT64.coefficients))

    @inlined
    def act(z: Any) -> Any:
        e = expm1(two * abs(z))
        return signed(e / (e + two), z)  # of zero too

    @inlined
    def slope(z: Any) -> Any:
        u = act(z)
        return like(z, 1.0) - u * u

    @inlined
    def excess(z: Any, u: Any) -> Any:
        """The difference cancels near 0, where the series takes over."""
        square = z * z
        total = 0.0
        for coefficient in series:
            total = total * square + coefficient
        return -z * square * total if abs(z) < threshold else z - u

    return KernelBodies(act, slope, excess)


ROW = Activation(
    name="tanh",
    torch=_torch,
    triton=_triton,
    jit=_jit,
    slopes=(0.0, 1.0),
    values=(-1.0, 1.0),
    is_odd=True,
    is_restoring=True,
    curvature=0.7699,  # 4 / (3 sqrt(3))
    linear_radius=1e-6,  # tanh(z) / z deviates from 1 by z^2 / 3
    roundings=5,
    slope_roundings=12,  # of 1 - tanh^2: twice those of tanh and of the square
    cost=3,
    output_size=0.628,
)

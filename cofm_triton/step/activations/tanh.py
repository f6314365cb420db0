"""tanh: act(z) = tanh(z), to 2.5 units in the last place on every backend.

Triton: `tanh(z) = z + z w P(w)`, `w = z^2`, for `|z| < threshold`, and `1 - 1 / c` with c = (exp(2 |z|) + 1) / 2 and
the sign of z beyond. In float32, P is a minimax fit in relative error of tanh (5.7e-9), and 1 / c is the square of the
inverse square root of c, one instruction that the last one squares. The threshold is where the quotient has become
small enough for its errors not to matter: with exp2 and the inverse root both taken to be 2 units in the last place
off, up or down, every float32 |z| from it to 10 has its tanh within 2.4 units of the exact one, every one from 1e-4 to
1 within 1: found by going through all of them. Smaller z come out as z, larger ones as 1, as they should.

Compiled loops of the CPU: `tanh|z| = e / (e + 1)` with e = (exp(2 |z|) - 1) / 2, see `_half_expm1`: 22 operations and a
division for 16 numbers. A thread of a Zen 4 does 3.1e9 units a second so, where a clamp's does 14e9. Tried in C with
the same recurrence around it, and not faster: the quotient by the approximate reciprocal and a step of Newton (2.8e9),
and polynomials of degree 5 or 6 on 32 pieces whose coefficients are looked up in registers (2.9e9 and 2.6e9).
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
    1.2,
    (
        -0.33333292603492737,
        0.13332384824752808,
        -0.053892187774181366,
        0.02156848832964897,
        -0.0081825852394104,
        0.0026435863692313433,
        -0.0006018334534019232,
        6.776715599698946e-05,
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
            # 1 / c = rsqrt(c)^2: one instruction on every target, where a division takes five or eleven.
            root = tl.rsqrt(tl.exp2(magnitude * two_log2e) * 0.5 + 0.5)
            far = 1.0 - root * root
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


class _HalfExpm1(NamedTuple):
    """Numbers of `_half_expm1` for one type.

    Attributes:
        limit: where |z| is cut off: tanh rounds to 1.
        low: what rounding leaves out of ln(2) / 2, where the error of tanh just above ln(2) / 4 shows it.
        coefficients: of c, an even number, from the lowest power of r up.
    """

    limit: float
    low: float
    coefficients: tuple[float, ...]


# Minimax: errors of h are below 1.1e-9 and 4.1e-17 of it, in float64 below 1.5e-17 where n = 0.
_HALF_EXPM1 = {
    "float32": _HalfExpm1(
        10.0,
        0.0,
        (
            1.0,
            0.6666666269302368,
            0.3333318531513214,
            0.1333347111940384,
            0.04458652436733246,
            0.012687431648373604,
        ),
    ),
    "float64": _HalfExpm1(
        20.0,
        1.1595234069231498e-17,
        (
            1.0,
            0.6666666666666811,
            0.33333333333295806,
            0.1333333333289014,
            0.0444444445460183,
            0.012698413135140143,
            0.003174594068931875,
            0.0007054498012497513,
            0.0001414262311528194,
            2.5920205248229514e-05,
        ),
    ),
}


def _half_expm1(inlined: Any, bits: Any, real: Any) -> Any:
    """(exp(2 a) - 1) / 2 for 0 <= a, a taken for the limit beyond it, inside compiled loops.

    2^n h + (2^n - 1) / 2 with a = n ln(2) / 2 + r and h = r + r^2 c(r), the same function on |r| <= ln(2) / 4. Adding a
    large number to 2 a / ln(2) rounds it to n, and leaves the exponent of 2^n in its last bits. So all is straight-line
    arithmetic, which the compiler vectorises; the C library's functions are called one number at a time. c is a
    polynomial in r^2 whose coefficients are a + b r: they wait for nothing but r.
    """
    import numpy as np

    limits, numbers = np.finfo(real), _HALF_EXPM1[np.dtype(real).name]
    choose, like, power = bits.choose, bits.like, bits.power
    bias = 2 ** (int(limits.nexp) - 1) - 1
    magic, shift = real(1.5 * 2.0**limits.nmant + bias), int(limits.nmant)
    cap, half = real(numbers.limit), real(0.5)
    per_step, step, low = real(2 / math.log(2)), real(math.log(2) / 2), real(numbers.low)
    coefficients = [*map(real, numbers.coefficients)]
    (top, top_slope), *rest = zip(coefficients[-2::-2], coefficients[::-2], strict=True)
    pairs = tuple(rest)

    @inlined
    def half_expm1(a: Any) -> Any:
        a = choose(a > cap, like(a, cap), a)
        shifted = a * per_step + magic
        n = shifted - magic
        r = a - n * step
        square = r * r
        c = r * top_slope + top
        for term, slope in pairs:
            c = c * square + (r * slope + term)
        h = c * square
        if low != 0:
            h = h - n * low
        h = h + r
        scale = power(shifted, shift)
        return scale * h + (scale * half - half)

    return half_expm1


def _jit(inlined: Any, bits: Any, real: Any) -> KernelBodies:
    half_expm1, signed, like, one = _half_expm1(inlined, bits, real), bits.signed, bits.like, real(1)
    threshold, series = TANH_FLOAT64.threshold, tuple(reversed(TANH_FLOAT64.coefficients))

    @inlined
    def act(z: Any) -> Any:
        e = half_expm1(abs(z))
        return signed(e / (e + one), z)  # of zero too

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

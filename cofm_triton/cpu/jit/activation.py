"""The nonlinearities inside compiled loops: `activate(kind, z)`, z a float32 or float64 number or vector of them.

    linear z    tanh(z)    hardtanh min(max(z, -1), 1)    relu max(z, 0)

`kind` is an index into the table of `cofm_triton.step.nonlinearity`; pass it as a constant so that the
loop around the call holds one branch only and vectorises. Comparisons are written so that NaN
comes out as NaN; functions that call these compile with `compiled.OPTIONS`, which allow fused multiply-adds
and nothing else: no assumption about infinities or NaN.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from cofm_triton.cpu.jit.bits import choose, like, power, signed
from cofm_triton.cpu.jit.compiled import OPTIONS, inlined
from cofm_triton.cpu.jit.vectors import Vector
from cofm_triton.step.nonlinearity import NONLINEARITIES

TANH, HARDTANH, RELU = map(NONLINEARITIES.index, ("tanh", "hardtanh", "relu"))


def constant(nonlinearity: str) -> tuple[int, ...]:
    """A tuple whose length is the index of the nonlinearity.

    The length belongs to the type, so the compiler makes one specialised (and cached) loop for each
    nonlinearity that is used, in a quarter of the time that one loop for all of them takes.
    """
    return (0,) * NONLINEARITIES.index(nonlinearity)


def _tanh(z: float) -> float:
    raise NotImplementedError("only inside compiled code")


def _make_tanh(
    real: Any, integer: Any, mantissa: int, high: float, low: float, degree: int, limit: float
) -> Callable[[Any], Any]:
    """tanh|z| = e / (e + 2), e = expm1(2|z|) = 2^n p(r) + (2^n - 1), 2|z| = n ln 2 + r.

    p is the Taylor polynomial of expm1 on |r| <= ln(2) / 2. n is read off the bits of
    2|z| / ln 2 + 1.5 * 2^mantissa, so that the whole function is straight-line arithmetic and
    the compiler vectorises it; the C library's tanh is called one number at a time.
    Error against the exact value: at most 2.5 units in the last place.

    Args:
        real: the number type.
        integer: the integer type of its size.
        mantissa: stored mantissa bits of `real`.
        high: leading bits of ln 2, n * high is exact for every n that occurs.
        low: the rest of ln 2.
        degree: of p.
        limit: 2|z| from where tanh rounds to 1.
    """
    magic, one, two, cap = real(1.5 * 2.0**mantissa), real(1), real(2), real(limit)
    log2e, ln2_high, ln2_low = real(1 / math.log(2)), real(high), real(low)
    first, *rest = (real(1 / math.factorial(n)) for n in range(degree, 1, -1))
    terms = tuple(rest)
    bias, shift = integer(2 ** (int(np.finfo(real).nexp) - 1) - 1), integer(mantissa)

    def tanh(z: Any) -> Any:
        doubled = two * abs(z)
        doubled = choose(doubled > cap, like(doubled, cap), doubled)
        shifted = doubled * log2e + magic
        n = shifted - magic
        r = doubled - n * ln2_high - n * ln2_low
        p = first
        for term in terms:
            p = p * r + term
        p = p * r * r + r
        scale = power(shifted, bias, shift)
        e = scale * p + (scale - one)
        return signed(e / (e + two), z)  # of zero too

    return tanh


_BODIES = {
    types.float32: _make_tanh(np.float32, np.int32, 23, 0.693145751953125, 1.4286068203094173e-06, 7, 20.0),
    types.float64: _make_tanh(np.float64, np.int64, 52, 0.6931471805598903, 5.497923018708371e-14, 13, 40.0),
}


@overload(_tanh, jit_options=OPTIONS)
def _tanh_overload(z: Any) -> Any:
    return _BODIES.get(z.element if isinstance(z, Vector) else z)


@inlined
def activate(kind: int, z: Any) -> Any:
    """act(z), kind an index into the table of nonlinearities."""
    if kind == HARDTANH:
        one = like(z, 1.0)
        lower = choose(z < -one, -one, z)
        return choose(lower > one, one, lower)
    if kind == TANH:
        return _tanh(z)
    if kind == RELU:
        zero = like(z, 0.0)
        return choose(z < zero, zero, z)
    return z


@inlined
def slope(kind: int, z: Any) -> Any:
    """act'(z), 0 at the kinks."""
    one, zero = like(z, 1.0), like(z, 0.0)
    if kind == HARDTANH:
        return choose(abs(z) < one, one, zero)
    if kind == TANH:
        u = _tanh(z)
        return one - u * u
    if kind == RELU:
        return choose(z > zero, one, zero)
    return one

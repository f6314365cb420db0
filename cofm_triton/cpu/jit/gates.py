"""Gates inside compiled loops, on float32 or float64 vectors: the rows of `step/gates.py`.

    formed(kind, rate, p, q)                          (decay, gain)
    pulled(kind, rate, p, q, by_decay, by_gain)       (decay, gain, dp, dq, drate): what the latter make of gradients

`kind` is what `constant` gives, a tuple whose length is the index of the row: the compiler makes one loop for each row
that is used. All is straight-line arithmetic, which the compiler vectorises: exp and log1p are polynomials.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from cofm_triton.cpu.jit import bits
from cofm_triton.cpu.jit.compiled import INLINED, inlined
from cofm_triton.cpu.jit.vectors import Vector
from cofm_triton.step.gates import GATES, gates_of

_REAL: Any = {types.float32: np.float32, types.float64: np.float64}


class _Exp(NamedTuple):
    """ln 2 as high + low, of which n * high is exact for every n that occurs; terms; from where on exp(-x) is 0."""

    high: float
    low: float
    degree: int
    limit: float


_EXP = {
    np.float32: _Exp(0.693145751953125, 1.4286068203094173e-06, 7, 87.0),
    np.float64: _Exp(0.6931471805598903, 5.497923018708371e-14, 13, 708.0),
}
# Terms of the series of log1p in s^2 <= 1/9, s = x / (2 + x): the first one left out is below a tenth of a rounding.
_LOG_TERMS = {np.float32: 8, np.float64: 17}


def constant(name: str) -> tuple[int, ...]:
    """A tuple whose length is the index of the row."""
    return (0,) * GATES.index(name)


def _functions(real: Any) -> tuple[Any, Any, Any]:
    """`decayed(x)`, (exp(-x), 1 - exp(-x)) for x >= 0, `sigmoid(z)` and `softplus(z)`, each with its slope."""
    choose, like, power = bits.choose, bits.like, bits.power
    limits, numbers = np.finfo(real), _EXP[real]
    # Adding it rounds to an integer n, and leaves the exponent of 2^n in the last bits.
    magic = real(1.5 * 2.0**limits.nmant + 2 ** (int(limits.nexp) - 1) - 1)
    one, two, cap = real(1), real(2), real(numbers.limit)
    log2e, high, low = real(1 / math.log(2)), real(numbers.high), real(numbers.low)
    first, *rest = (real(1 / math.factorial(n)) for n in range(numbers.degree, 1, -1))
    terms = tuple(rest)
    shift = (np.int32 if real is np.float32 else np.int64)(limits.nmant)
    last, *others = (real(2 / (2 * k + 1)) for k in range(_LOG_TERMS[real] - 1, -1, -1))
    series = tuple(others)

    @inlined
    def decayed(x: Any) -> Any:
        """exp(-x) = 2^n p(r) + 2^n, -x = n ln 2 + r, p the Taylor polynomial of expm1."""
        near = choose(x > cap, like(x, cap), x)
        shifted = magic - near * log2e
        n = shifted - magic
        r = -near - n * high - n * low
        p = first
        for term in terms:
            p = p * r + term
        p = p * r * r + r
        scale = power(shifted, shift)
        decay = choose(x > cap, like(x, real(0)), scale * p + scale)
        return decay, (one - scale) - scale * p

    @inlined
    def sigmoid(z: Any) -> Any:
        e = decayed(abs(z))[0]
        r = one / (e + one)
        return choose(z < real(0), e * r, like(z, one) * r), e * r * r

    @inlined
    def softplus(z: Any) -> Any:
        """max(z, 0) + log1p(exp(-|z|)), log1p(e) = 2 artanh(e / (2 + e)); its slope is the sigmoid."""
        e = decayed(abs(z))[0]
        s = e / (e + two)
        square = s * s
        total = last
        for term in series:
            total = total * square + term
        r = one / (e + one)
        positive = choose(z < real(0), like(z, real(0)), z)
        return positive + s * total, choose(z < real(0), e * r, like(z, one) * r)

    return decayed, sigmoid, softplus


@cache
def _bodies(name: str, real: Any) -> tuple[Any, Any]:
    """`formed` and `pulled` of a row."""
    row = gates_of(name)
    decayed, sigmoid, softplus = _functions(real)
    choose, like = bits.choose, bits.like
    zero, one, tiny = real(0), real(1), real(np.finfo(real).tiny)

    @inlined
    def by_sigmoid(p: Any, q: Any) -> Any:
        s, slope = sigmoid(p)
        return s, slope, like(p, zero)

    @inlined
    def by_softplus(p: Any, q: Any) -> Any:
        s, slope = softplus(p)
        return s, slope, like(p, zero)

    @inlined
    def by_share(p: Any, q: Any) -> Any:
        (forget, from_p), (enter, from_q) = softplus(-p), softplus(-q)
        s, slope = softplus(forget - enter)
        return s, -(slope * from_p), slope * from_q

    strength = {"sigmoid": by_sigmoid, "softplus": by_softplus, "share": by_share}[row.strength]

    @inlined
    def root(decay: Any, complement: Any) -> Any:
        """sqrt(1 - decay^2), never 0: there a gradient would be 0 times infinity."""
        square = complement * (decay + one)
        return bits.root(choose(square < tiny, like(square, tiny), square))

    @inlined
    def formed_variance(rate: Any, p: Any, q: Any) -> Any:
        decay, complement = decayed(rate * strength(p, q)[0])
        return decay, root(decay, complement) * sigmoid(q)[0]

    @inlined
    def formed_complement(rate: Any, p: Any, q: Any) -> Any:
        return decayed(rate * strength(p, q)[0])

    @inlined
    def formed_strength(rate: Any, p: Any, q: Any) -> Any:
        s = strength(p, q)[0]
        return decayed(rate * s)[0], s

    @inlined
    def pulled_variance(rate: Any, p: Any, q: Any, by_decay: Any, by_gain: Any) -> Any:
        s, slope, _ = strength(p, q)
        decay, complement = decayed(rate * s)
        size = root(decay, complement)
        share, share_slope = sigmoid(q)
        by_exponent = decay * (by_gain * share * (decay / size) - by_decay)
        return decay, size * share, rate * by_exponent * slope, by_gain * size * share_slope, s * by_exponent

    @inlined
    def pulled_complement(rate: Any, p: Any, q: Any, by_decay: Any, by_gain: Any) -> Any:
        s, slope, slope_q = strength(p, q)
        decay, complement = decayed(rate * s)
        by_exponent = decay * (by_gain - by_decay)
        by_strength = rate * by_exponent
        return decay, complement, by_strength * slope, by_strength * slope_q, s * by_exponent

    @inlined
    def pulled_strength(rate: Any, p: Any, q: Any, by_decay: Any, by_gain: Any) -> Any:
        s, slope, slope_q = strength(p, q)
        decay = decayed(rate * s)[0]
        by_exponent = -(decay * by_decay)
        by_strength = rate * by_exponent + by_gain
        return decay, s, by_strength * slope, by_strength * slope_q, s * by_exponent

    return {
        "variance": (formed_variance, pulled_variance),
        "complement": (formed_complement, pulled_complement),
        "strength": (formed_strength, pulled_strength),
    }[row.gain]


def _body(kind: Any, vector: Any, which: int) -> Any:
    """Of the types of `kind` and of a vector; None, an error of compilation, where there is none."""
    real = _REAL.get(vector.element if isinstance(vector, Vector) else vector)
    known = isinstance(kind, types.BaseTuple) and len(kind) < len(GATES)
    return _bodies(GATES[len(kind)], real)[which] if real and known else None


def formed(kind: Any, rate: Any, p: Any, q: Any) -> Any:
    """`(decay, gain)`."""
    raise TypeError("compiled code only")


def pulled(kind: Any, rate: Any, p: Any, q: Any, by_decay: Any, by_gain: Any) -> Any:
    """`(decay, gain, dp, dq, drate)`."""
    raise TypeError("compiled code only")


@overload(formed, jit_options=INLINED)
def _formed(kind: Any, rate: Any, p: Any, q: Any) -> Any:
    body = _body(kind, p, 0)
    if body is None:
        return None

    def call(kind: Any, rate: Any, p: Any, q: Any) -> Any:
        return body(rate, p, q)

    return call


@overload(pulled, jit_options=INLINED)
def _pulled(kind: Any, rate: Any, p: Any, q: Any, by_decay: Any, by_gain: Any) -> Any:
    body = _body(kind, p, 1)
    if body is None:
        return None

    def call(kind: Any, rate: Any, p: Any, q: Any, by_decay: Any, by_gain: Any) -> Any:
        return body(rate, p, q, by_decay, by_gain)

    return call

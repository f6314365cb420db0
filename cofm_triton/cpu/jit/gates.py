"""Gates inside compiled loops, on float32 or float64 vectors: the rows of `step/gates.py`.

    formed(kind, bits, p, q)                          (decay, gain)
    pulled(kind, bits, p, q, by_decay, by_gain)       (decay, gain, dp, dq, drate): what the latter make of gradients

bits is rate / ln 2, so that decay = 2^(-bits s).

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


class _Fit(NamedTuple):
    """Numbers of `functions` for one type, coefficients from the highest power down.

    Attributes:
        rise: of (2^f - 1) / f on |f| <= 1/2.
        power: as `rise`, where only the error beside 2^f counts.
        log: of log((1 + s) / (1 - s)) / s in s^2 <= 1/9.
    """

    rise: tuple[float, ...]
    power: tuple[float, ...]
    log: tuple[float, ...]


# Minimax in float32, rounded to it: errors of at most 1.2e-8 and 4.0e-9 of rise and log, and of 9.2e-8 of 2^f. Taylor
# in float64, where the first term left out is below a tenth of a rounding.
_TAYLOR = tuple(math.log(2) ** n / math.factorial(n) for n in range(14, 0, -1))
_FITS = {
    np.float32: _Fit(
        (
            0.00015403522411361337,
            0.0013390735257416964,
            0.009618237614631653,
            0.05550357326865196,
            0.24022649228572845,
            0.6931471824645996,
        ),
        (
            0.0013264756416901946,
            0.009671498090028763,
            0.05550733581185341,
            0.24022242426872253,
            0.6931470036506653,
        ),
        (0.2817832827568054, 0.27960604429244995, 0.40024909377098083, 0.6666631698608398, 2.0),
    ),
    np.float64: _Fit(_TAYLOR, _TAYLOR[1:], tuple(2 / (2 * k + 1) for k in range(16, -1, -1))),
}


def constant(name: str) -> tuple[int, ...]:
    """A tuple whose length is the index of the row."""
    return (0,) * GATES.index(name)


def functions(real: Any) -> tuple[Any, Any, Any]:
    """Functions of a type of numbers.

    decayed(t)    2^-t and 1 - 2^-t, t >= 0, each accurate relative to itself
    grown(z)      exp(-z), and 1 + exp(-z), the reciprocal of sigmoid(z); never infinite
    softplus(z)   with its slope

    exp(-x) = 2^t = 2^n 2^f with an integer n: adding a large number to t rounds it to n, and leaves the exponent of 2^n
    in the last bits. Below the least of them, 2^n is 0.
    """
    choose, like, power, fuse = bits.choose, bits.like, bits.power, bits.fuse
    limits = np.finfo(real)
    magic = real(1.5 * 2.0**limits.nmant - (int(limits.minexp) - 1))
    one, two, zero, least, most = real(1), real(2), real(0), real(limits.minexp - 1), real(-limits.minexp)
    far = -least
    log2e = real(1 / math.log(2))
    shift = int(limits.nmant)
    rise, raise_, log = (tuple(map(real, fit)) for fit in _FITS[real])

    @inlined
    def split(t: Any) -> Any:
        """2^n and f."""
        shifted = t + magic
        return power(shifted, shift), t - (shifted - magic)

    @inlined
    def polynomial(fit: Any, x: Any) -> Any:
        value = like(x, fit[0])
        for term in fit[1:]:
            value = value * x + term
        return value

    @inlined
    def decayed(t: Any) -> Any:
        scale, f = split(-choose(t > far, like(t, far), t))
        c = f * polynomial(rise, f)
        return fuse(scale, c, scale), fuse(-scale, c, one - scale)

    @inlined
    def grown(z: Any) -> Any:
        t = -(z * log2e)
        t = choose(t < least, like(t, least), t)
        scale, f = split(choose(t > most, like(t, most), t))
        c = f * polynomial(raise_, f) + one
        return scale * c, scale * c + one

    @inlined
    def softplus(z: Any) -> Any:
        """max(z, 0) + log1p(e), e = exp(-|z|), log1p(e) = log((1 + s) / (1 - s)), s = e / (2 + e); slope sigmoid(z)."""
        e = decayed(abs(z) * log2e)[0]
        near, far = e + one, e + two
        r = one / (near * far)  # one division for both quotients
        s = e * near * r
        positive = choose(z < zero, like(z, zero), z)
        return positive + s * polynomial(log, s * s), choose(z < zero, e, like(z, one)) * far * r

    return decayed, grown, softplus


@cache
def _bodies(name: str, real: Any) -> tuple[Any, Any]:
    """`formed` and `pulled` of a row."""
    row = gates_of(name)
    decayed, grown, softplus = functions(real)
    choose, like = bits.choose, bits.like
    zero, one, ln2, tiny = real(0), real(1), real(math.log(2)), real(np.finfo(real).tiny)

    @inlined
    def by_sigmoid(p: Any, q: Any) -> Any:
        e, whole = grown(p)
        s = one / whole
        return s, e * s * s, like(p, zero)

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
    def formed_variance(rate: Any, p: Any, q: Any) -> Any:
        decay, complement = decayed(rate * strength(p, q)[0])
        return decay, bits.root(complement * (decay + one)) / grown(q)[1]

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
        square = complement * (decay + one)
        square = choose(square < tiny, like(square, tiny), square)  # a gradient would be 0 times infinity
        e, whole = grown(q)
        r = one / (whole * square)  # one division for 1 / whole = sigmoid(q) and 1 / square
        share = square * r
        gain = bits.root(square) * share
        by_size = by_gain * gain
        by_exponent = decay * (by_size * decay * (whole * r) - by_decay)
        return decay, gain, rate * (ln2 * by_exponent * slope), by_size * (e * share), s * by_exponent

    @inlined
    def pulled_complement(rate: Any, p: Any, q: Any, by_decay: Any, by_gain: Any) -> Any:
        s, slope, slope_q = strength(p, q)
        decay, complement = decayed(rate * s)
        by_exponent = decay * (by_gain - by_decay)
        by_strength = rate * (ln2 * by_exponent)
        return decay, complement, by_strength * slope, by_strength * slope_q, s * by_exponent

    @inlined
    def pulled_strength(rate: Any, p: Any, q: Any, by_decay: Any, by_gain: Any) -> Any:
        s, slope, nothing = strength(p, q)
        decay = decayed(rate * s)[0]
        by_exponent = -(decay * by_decay)
        by_strength = rate * (ln2 * by_exponent) + by_gain
        return decay, s, by_strength * slope, nothing, s * by_exponent

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

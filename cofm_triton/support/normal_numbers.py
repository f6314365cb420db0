"""Standard normal numbers from a counter-based generator: the same bits on every machine."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]

_LOG_TERMS = 12  # of artanh up to 0.172: the next one is below 1e-19 of the sum
_TURN_TERMS = 11  # of cos and sin up to pi / 4: the next one is below 1e-22


def normal_numbers(seed: int, name: str, indices: Sequence[int], count: int) -> Floats:
    """Standard normal numbers by Box and Muller from Philox, (indices, count) float64: the same bits everywhere.

    numpy promises the bits of the generator across versions and processors, not those of `standard_normal`, `log` and
    `cos`. Here the latter are made of sums, products, quotients and roots, which round alike on every processor.
    """
    pairs = -(-count // 2)
    keys = [np.array((seed, zlib.crc32(name.encode()) << 32 | index), dtype=np.uint64) for index in indices]
    bits = np.stack([np.random.Philox(key=key).random_raw(2 * pairs) for key in keys])
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 1) * 2.0**-53  # in (0, 1]
    length, (cosine, sine) = np.sqrt(-2 * _log(uniform[:, :pairs])), _turn(uniform[:, pairs:])
    return np.stack([length * cosine, length * sine], 2).reshape(len(keys), -1)[:, :count]


def _log(u: Floats) -> Floats:
    """log u for u in (0, 1]: u = 2^e m with m near 1, log m = 2 artanh((m - 1) / (m + 1)) by its series."""
    m, e = np.frexp(u)
    low = m < math.sqrt(0.5)
    m, e = np.where(low, 2 * m, m), np.where(low, e - 1, e)
    f = (m - 1) / (m + 1)
    return e * math.log(2) + 2 * f * _series(f * f, [1 / n for n in range(1, 2 * _LOG_TERMS, 2)])


def _turn(u: Floats) -> tuple[Floats, Floats]:
    """cos and sin of 2 pi u: u less its quarters, which is exact, then Taylor's series up to a quarter of pi."""
    quarter = np.floor(4 * u + 0.5)
    angle = 2 * math.pi * (u - 0.25 * quarter)
    square = angle * angle
    cosine = _series(square, [(-1) ** n / math.factorial(2 * n) for n in range(_TURN_TERMS)])
    sine = angle * _series(square, [(-1) ** n / math.factorial(2 * n + 1) for n in range(_TURN_TERMS)])
    turns = quarter.astype(np.int64) % 4
    return np.choose(turns, [cosine, -sine, -cosine, sine]), np.choose(turns, [sine, cosine, -sine, -cosine])


def _series(x: Floats, coefficients: list[float]) -> Floats:
    """sum_n coefficients[n] x^n, by Horner's rule."""
    total = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total

"""Gates in compiled code: errors of exp, sigmoid and softplus at every exponent of their arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from numba import njit

from cofm_triton.cpu.jit.compiled import OPTIONS
from cofm_triton.cpu.jit.gates import functions
from cofm_triton.cpu.jit.vectors import load, store

LANES = (0,) * 16
# Roundings of a function like exp or log1p or of a quotient, as `evidence/tolerance/gated_rnn.py` counts them.
ROUNDINGS = 4


def evaluated(real: Any, which: int, z: Any) -> tuple[Any, Any]:
    """Both results of a function at all z, as numbers of twice the width."""
    body = functions(real)[which]

    def apply(z: Any, one: Any, other: Any) -> None:
        for k in range(0, z.size, 16):
            at = k * z.itemsize
            first, second = body(load(LANES, z.ctypes.data + at, z))
            store(first, one.ctypes.data + at, one, False)
            store(second, other.ctypes.data + at, other, False)

    one, other = np.empty_like(z), np.empty_like(z)
    njit(**OPTIONS)(apply)(z, one, other)
    return one.astype(np.longdouble), other.astype(np.longdouble)


def arguments(real: Any, largest: float) -> Any:
    """Of float32 every 4096th number below `largest`, of float64 as many: all exponents, and 2048 mantissas of each."""
    found: Any
    if real is np.float32:
        found = np.arange(0, 2**31 - 2**23, 2**12, dtype=np.uint32).view(np.float32)
    else:
        found = np.logspace(-300, np.log10(largest), 2**18)
    found = found[found <= largest].astype(real)
    return found[: found.size // 16 * 16]


def check(found: Any, exact: Any, roundings: Any, real: Any) -> None:
    """Relative errors; what is near the smallest number has errors of that size."""
    unit, tiny = np.finfo(real).eps / 2, np.finfo(real).tiny
    error = np.abs(found - exact)
    allowed = roundings * unit * np.abs(exact) + 2 * tiny
    worst = np.argmax(error / allowed)
    assert error[worst] <= allowed[worst], (
        float(found[worst]),
        float(exact[worst]),
        float(error[worst] / allowed[worst]),
    )


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_decay_and_its_complement(real: Any) -> None:
    t = arguments(real, 1e4)
    exact = t.astype(np.longdouble) * np.log(np.longdouble(2))
    decay, complement = evaluated(real, 0, t)
    check(decay, np.exp(-exact), ROUNDINGS, real)
    check(complement, -np.expm1(-exact), ROUNDINGS, real)
    gone, whole = evaluated(real, 0, np.full(16, 1e5, real))
    assert not gone.any() and (whole == 1).all()  # not what the least exponent would leave


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_sigmoid(real: Any) -> None:
    """exp multiplies what its argument is rounded by; a logit beyond the exponents is taken for the last one."""
    z = arguments(real, 1e4)
    most = -np.finfo(real).minexp * np.log(2)
    for logit in (z, -z[z < most]):
        logit = logit[: logit.size // 16 * 16]
        wide, slack = logit.astype(np.longdouble), ROUNDINGS + 2 * np.abs(logit)
        power, whole = evaluated(real, 1, logit)
        check(power, np.exp(-wide), slack, real)
        check(whole, 1 + np.exp(-wide), slack, real)
    _, whole = evaluated(real, 1, np.full(16, -1e5, real))
    assert np.isfinite(whole).all() and (1 / whole <= 2 * np.finfo(real).tiny).all()


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_softplus(real: Any) -> None:
    z = arguments(real, 1e4)
    for logit in (z, -z):
        wide = logit.astype(np.longdouble)
        value, slope = evaluated(real, 2, logit)
        slack = 2 * ROUNDINGS + 2 * np.abs(logit)
        check(value, np.maximum(wide, 0) + np.log1p(np.exp(-np.abs(wide))), slack, real)
        check(slope, np.where(wide < 0, np.exp(wide), 1) / (1 + np.exp(-np.abs(wide))), slack, real)


@pytest.mark.parametrize("which", range(3))
def test_not_a_number(which: int) -> None:
    assert all(np.isnan(result).all() for result in evaluated(np.float32, which, np.full(16, np.nan, np.float32)))

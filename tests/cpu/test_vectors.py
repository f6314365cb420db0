"""Vectors in compiled code: what lanes hold after loads, arithmetic and stores, of any width and dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from numba import njit

from cofm_triton.cpu.jit.bits import choose, like, power, signed
from cofm_triton.cpu.jit.compiled import OPTIONS
from cofm_triton.cpu.jit.rows import SAMPLES
from cofm_triton.cpu.jit.vectors import conjugate, distribute, load, same, store, swap

WIDTHS = [1, 2, 3, 7, 8, 16, 24, 31, 32]
REAL = [torch.float32, torch.float64]


def _copy(lanes: Any, source: int, sample: Any, target: int, target_sample: Any, streamed: bool) -> None:
    store(load(lanes, source, sample), target, target_sample, streamed)


def _combine(lanes: Any, a: int, b: int, c: int, sample: Any, target: int) -> None:
    x, y, z = load(lanes, a, sample), load(lanes, b, sample), load(lanes, c, sample)
    store(x * y + conjugate(z), target, sample, False)


def _exchange(lanes: Any, a: int, sample: Any, target: int) -> None:
    store(swap(load(lanes, a, sample)), target, sample, False)


def _distribute(lanes: Any, a: int, b: int, c: int, sample: Any, target: int) -> None:
    store(distribute(load(lanes, a, sample), load(lanes, b, sample), load(lanes, c, sample)), target, sample, False)


def _real(lanes: Any, a: int, b: int, sample: Any, target: int) -> None:
    x, y = load(lanes, a, sample), load(lanes, b, sample)
    larger = choose(x > y, x, y)
    smaller = choose(x < y, x, y)
    store((larger - smaller) / (abs(x) + 2.0) - -(1.0 * like(x, 3.0)), target, sample, False)


def _same(lanes: Any, a: int, b: int, sample: Any) -> Any:
    return same(load(lanes, a, sample), load(lanes, b, sample))


def _power(lanes: Any, a: int, shift: int, sample: Any, target: int) -> None:
    store(power(load(lanes, a, sample), shift), target, sample, False)


def _signed(lanes: Any, a: int, b: int, sample: Any, target: int) -> None:
    store(signed(load(lanes, a, sample), load(lanes, b, sample)), target, sample, False)


# Called rather than written above the functions: the decorator carries no types.
copy, combine, exchange, spread, real, equal, scaled, with_sign = (
    njit(**OPTIONS)(function) for function in (_copy, _combine, _exchange, _distribute, _real, _same, _power, _signed)
)


def room(width: int, dtype: torch.dtype) -> torch.Tensor:
    """Zeros that begin at a multiple of 32 bytes, with as many behind the first `width`: what must stay untouched."""
    return torch.zeros(2 * width, dtype=dtype)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", list(SAMPLES), ids=str)
@pytest.mark.parametrize("streamed", [False, True])
def test_copies(width: int, dtype: torch.dtype, streamed: bool) -> None:
    # int32 is a pair of bfloat16 numbers, the parts of a complex one.
    pairs = dtype == torch.int32
    source = torch.randn(2 * width).bfloat16().view(dtype) if pairs else torch.randn(width, dtype=dtype)
    target, sample = room(width, dtype), SAMPLES[dtype]
    copy((0,) * width, source.data_ptr(), sample, target.data_ptr(), sample, streamed)
    assert torch.equal(target[:width], source)
    assert not target[width:].any()


def test_any_address_will_do() -> None:
    source, target = torch.randn(40), room(40, torch.float32)
    sample = SAMPLES[torch.float32]
    copy((0,) * 16, source[3:].data_ptr(), sample, target[5:].data_ptr(), sample, False)
    assert torch.equal(target[5:21], source[3:19])


def test_bfloat16_is_rounded_to_nearest_even() -> None:
    # Every bfloat16 with the tails around a tie: just below, the tie, just above; infinities and NaN are among them.
    words = torch.arange(2**16, dtype=torch.int64) * 2**16
    tails = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    patterns = (words[:, None] + tails).flatten()
    values = torch.from_numpy(patterns.numpy().astype(np.uint32).view(np.float32))
    result = torch.empty(values.numel(), dtype=torch.bfloat16)
    for first in range(0, values.numel(), 32):
        copy(
            (0,) * 32, values[first:].data_ptr(), SAMPLES[torch.float32], result[first:].data_ptr(),
            SAMPLES[torch.bfloat16], False,
        )  # fmt: skip
    expected = values.bfloat16()
    assert torch.equal(result.isnan(), expected.isnan())
    assert torch.equal(result[~result.isnan()], expected[~expected.isnan()])


@pytest.mark.parametrize("width", [1, 5, 32])
@pytest.mark.parametrize("dtype", [*REAL, torch.complex64, torch.complex128], ids=str)
def test_sums_and_products(width: int, dtype: torch.dtype) -> None:
    a, b, c = torch.randn(3, width, dtype=dtype).unbind()
    target, sample = room(width, dtype), SAMPLES[dtype]
    addresses = (a.data_ptr(), b.data_ptr(), c.data_ptr())
    combine((0,) * width, *addresses, sample, target.data_ptr())
    torch.testing.assert_close(target[:width], a * b + c.conj())
    spread((0,) * width, *addresses, sample, target.data_ptr())
    torch.testing.assert_close(target[:width], a * b + a * c)


@pytest.mark.parametrize("width", [2, 6, 32])
@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_neighbours_change_places(width: int, dtype: torch.dtype) -> None:
    a, target = torch.randn(width, dtype=dtype), room(width, dtype)
    exchange((0,) * width, a.data_ptr(), SAMPLES[dtype], target.data_ptr())
    assert torch.equal(target[:width], a.view(-1, 2).flip(1).flatten())
    assert not target[width:].any()


@pytest.mark.parametrize("width", [1, 5, 32])
@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_real_operations(width: int, dtype: torch.dtype) -> None:
    a, b = torch.randn(2, width, dtype=dtype).unbind()
    target = room(width, dtype)
    real((0,) * width, a.data_ptr(), b.data_ptr(), SAMPLES[dtype], target.data_ptr())
    torch.testing.assert_close(target[:width], (a - b).abs() / (a.abs() + 2) + 3)


@pytest.mark.parametrize("dtype", [*REAL, torch.complex64], ids=str)
@pytest.mark.parametrize("width", [1, 7, 32])
def test_same_compares_bits(width: int, dtype: torch.dtype) -> None:
    a, sample = torch.randn(width, dtype=dtype), SAMPLES[dtype]
    a[0] = float("nan")
    b = a.clone()
    assert equal((0,) * width, a.data_ptr(), b.data_ptr(), sample)
    b[-1] = 0.0
    a[-1] = torch.tensor(complex(0.0, -0.0) if dtype.is_complex else -0.0)
    assert not equal((0,) * width, a.data_ptr(), b.data_ptr(), sample)


@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_powers_from_bits(dtype: torch.dtype) -> None:
    mantissa = 23 if dtype == torch.float32 else 52
    exponents = torch.tensor([-3.0, 0.0, 1.0, 20.0], dtype=dtype)
    bias, target = 127 if dtype == torch.float32 else 1023, room(4, dtype)
    shifted = exponents + (1.5 * 2.0**mantissa + bias)
    scaled((0,) * 4, shifted.data_ptr(), mantissa, SAMPLES[dtype], target.data_ptr())
    assert torch.equal(target[:4], torch.exp2(exponents))


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("width", [1, 7, 8])
def test_signs(width: int, dtype: torch.dtype) -> None:
    magnitude = torch.tensor([0.0, 1.5, 0.0, 2.0, torch.inf, 3.0, 0.0, 1.0], dtype=dtype)
    sign = torch.tensor([-0.0, -2.0, 0.0, 0.0, -0.0, -torch.inf, -1.0, 1.0], dtype=dtype)
    target = room(width, dtype)
    with_sign((0,) * width, magnitude.data_ptr(), sign.data_ptr(), SAMPLES[dtype], target.data_ptr())
    expected = torch.copysign(magnitude, sign)[:width]
    assert torch.equal(target[:width], expected) and torch.equal(target[:width].signbit(), expected.signbit())

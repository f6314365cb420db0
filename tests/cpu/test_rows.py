"""Rows by address: bfloat16 in compiled code rounds as PyTorch does, and tensors are copied only when they must be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from numba import njit

from cofm_triton.cpu.jit.bits import bits, choose, number
from cofm_triton.cpu.jit.compiled import OPTIONS
from cofm_triton.cpu.jit.rows import Rows, load, row, store, with_rows


def _store_all(values: Any, result: Any) -> None:
    for i in range(values.size):
        result[i] = store(values[i], result)


def _load_all(values: Any, result: Any) -> None:
    for i in range(values.size):
        result[i] = load(values[i])


def _read_row(address: int, sample: Any, channels: int, result: Any) -> None:
    source = row(address, sample, channels)
    for d in range(channels):
        result[d] = source[d]


def _round_trip(values: Any, result: Any) -> None:
    for i in range(values.size):
        result[i] = number(bits(values[i]))


def _larger(a: Any, b: Any, result: Any) -> None:
    for i in range(a.size):
        result[i] = choose(a[i] > b[i], a[i], b[i])


# Called rather than written above the functions: the decorator carries no types.
store_all, load_all, read_row, round_trip, larger = (
    njit(**OPTIONS)(function) for function in (_store_all, _load_all, _read_row, _round_trip, _larger)
)


def test_bfloat16_is_rounded_to_nearest_even() -> None:
    # Every bfloat16 with the tails around a tie: just below, the tie, just above; infinities and NaN are among them.
    words = torch.arange(2**16, dtype=torch.int64) * 2**16
    tails = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    patterns = (words[:, None] + tails).flatten()
    values = torch.from_numpy(patterns.numpy().astype(np.uint32).view(np.float32))
    result = np.empty(values.numel(), np.uint16)
    store_all(values.numpy(), result)
    rounded = torch.from_numpy(result.view(np.int16)).view(torch.bfloat16)
    expected = values.bfloat16()
    assert torch.equal(rounded.isnan(), expected.isnan())
    assert torch.equal(rounded[~rounded.isnan()], expected[~expected.isnan()])


def test_bfloat16_is_widened_exactly() -> None:
    values = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    result = np.empty(values.numel(), np.float32)
    load_all(values.view(torch.int16).numpy().view(np.uint16), result)
    assert np.array_equal(result, values.float().numpy(), equal_nan=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bits(dtype: Any) -> None:
    values = np.array([0.0, -0.0, 1.5, -np.inf, np.nan, np.finfo(dtype).tiny, np.finfo(dtype).max], dtype)
    result = np.empty_like(values)
    round_trip(values, result)
    assert values.tobytes() == result.tobytes()


def test_choice() -> None:
    a, b = np.array([1.0, 2.0, np.nan]), np.array([2.0, 1.0, 0.0])
    result = np.empty_like(a)
    larger(a, b, result)
    assert np.array_equal(result, [2.0, 2.0, 0.0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_rows_of_a_strided_tensor(dtype: torch.dtype) -> None:
    tensor = torch.randn(4, 9, 10, dtype=dtype)[1::2, 1::3, 4:7]
    rows = Rows(with_rows(tensor))
    assert rows.tensor is tensor  # no copy: channels lie next to each other
    for b in range(2):
        for t in range(3):
            result = np.empty(3, rows.sample.dtype)
            read_row(rows.at(b, t), rows.sample, 3, result)
            assert np.array_equal(result, tensor[b, t].numpy())


def test_copies_only_where_channels_are_apart() -> None:
    dense = torch.zeros(2, 5, 3)
    for tensor in (dense, dense[:, ::2], dense.transpose(0, 1), dense[:1].expand(4, 5, 3), dense[..., :1]):
        assert with_rows(tensor).data_ptr() == tensor.data_ptr()
    for tensor in (dense.transpose(1, 2), dense[..., ::2], dense[..., :1].expand(2, 5, 3)):
        copy = with_rows(tensor)
        assert copy.stride(2) == 1
        assert torch.equal(copy, tensor)


def test_float16_is_widened() -> None:
    tensor = torch.randn(1, 2, 3).half()
    assert torch.equal(with_rows(tensor), tensor.float())

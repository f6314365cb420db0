"""Rows by address; tensors are copied only when they must be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from numba import njit

from cofm_triton.cpu.jit.bits import choose
from cofm_triton.cpu.jit.compiled import OPTIONS
from cofm_triton.cpu.jit.rows import Rows, row, with_rows


def _read_row(address: int, sample: Any, channels: int, result: Any) -> None:
    source = row(address, sample, channels)
    for d in range(channels):
        result[d] = source[d]


def _larger(a: Any, b: Any, result: Any) -> None:
    for i in range(a.size):
        result[i] = choose(a[i] > b[i], a[i], b[i])


# Called rather than written above the functions: the decorator carries no types.
read_row, larger = (njit(**OPTIONS)(function) for function in (_read_row, _larger))


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

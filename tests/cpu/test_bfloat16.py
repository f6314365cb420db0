"""bfloat16 in compiled code rounds as PyTorch does, and is widened exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from numba import njit

from cofm_triton.cpu.jit.bfloat16 import load, store
from cofm_triton.cpu.jit.compiled import OPTIONS


def _store_all(values: Any, result: Any) -> None:
    for i in range(values.size):
        result[i] = store(values[i], result)


def _load_all(values: Any, result: Any) -> None:
    for i in range(values.size):
        negative = -load(values[i])  # of a float, not of its bits
        result[i] = -negative


# Called rather than written above the functions: the decorator carries no types.
store_all, load_all = (njit(**OPTIONS)(function) for function in (_store_all, _load_all))


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

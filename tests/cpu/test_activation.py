"""The compiled nonlinearities: accuracy of tanh over the whole range, NaN and infinity."""

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from numba import njit

from cofm_triton.cpu.jit.activation import activate
from cofm_triton.cpu.jit.compiled import OPTIONS
from cofm_triton.step.nonlinearity import NONLINEARITIES


@njit(**OPTIONS)
def apply(kind: int, z: Any, result: Any) -> None:
    for i in range(z.size):
        result[i] = activate(kind, z[i])


EXACT = {
    "linear": lambda z: z,
    "tanh": np.tanh,
    "hardtanh": lambda z: np.clip(z, -1, 1),
    "relu": lambda z: np.where(z < 0, 0, z),
}


def arguments(dtype: Any) -> Any:
    tiny = np.logspace(np.log10(float(np.finfo(dtype).tiny)), 2, 20_001)
    grid = np.linspace(-25, 25, 200_001)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, float(np.finfo(dtype).max)]
    return np.concatenate((tiny, -tiny, grid, special)).astype(dtype)


@pytest.mark.parametrize("name", NONLINEARITIES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values(name: str, dtype: Any) -> None:
    z = arguments(dtype)
    result = np.empty_like(z)
    apply(NONLINEARITIES.index(name), z, result)
    expected = EXACT[name](z.astype(np.longdouble))
    assert np.array_equal(np.isnan(result), np.isnan(z))
    known = ~np.isnan(z)
    assert np.array_equal(np.signbit(result[z == 0]), np.signbit(z[z == 0]))
    if name != "tanh":
        assert np.array_equal(result[known], expected[known].astype(dtype))
        return
    unit = np.spacing(np.abs(expected[known]).astype(dtype))
    assert (np.abs(result[known] - expected[known]) / unit).max() <= 2.5  # what the docstring says


def test_tanh_is_that_of_pytorch_to_two_units_over_all_of_float32() -> None:
    """Every 4,099th number from the smallest to the largest, and its negative."""
    positive = np.arange(0, int(np.float32(np.inf).view(np.int32)), 4099, dtype=np.int32).view(np.float32)
    z = np.concatenate((positive, -positive))
    result, expected = np.empty_like(z), torch.tanh(torch.from_numpy(z)).numpy()
    apply(NONLINEARITIES.index("tanh"), z, result)
    unit = np.spacing(np.abs(expected)).astype(np.float64)
    assert (np.abs(result.astype(np.float64) - expected) / unit).max() <= 2
    assert np.array_equal(result[np.abs(z) > 10], np.sign(z[np.abs(z) > 10]))

"""The compiled nonlinearities: accuracy of tanh over the whole range, NaN and infinity."""

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from numba import njit
from numba.core.errors import TypingError

from cofm_triton import reference
from cofm_triton.cpu.jit.activation import activate, constant, excess, slope
from cofm_triton.cpu.jit.compiled import OPTIONS
from cofm_triton.step.activation import bodies
from cofm_triton.step.activations import NONLINEARITIES, properties


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def apply(act: Any, z: Any, result: Any) -> None:
    for i in range(z.size):
        result[i] = activate(act, z[i])


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def apply_others(act: Any, z: Any, slopes: Any, excesses: Any) -> None:
    for i in range(z.size):
        slopes[i] = slope(act, z[i])
        excesses[i] = excess(act, z[i], activate(act, z[i]))


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
    apply(constant(name), z, result)
    wide = z.astype(np.longdouble)
    expected = np.tanh(wide) if name == "tanh" else reference.nonlinearity(name).act(torch.from_numpy(z)).numpy()
    assert np.array_equal(np.isnan(result), np.isnan(z))
    known = ~np.isnan(z)
    assert np.array_equal(np.signbit(result[z == 0]), np.signbit(z[z == 0]))
    wrong = known & (result != expected)
    error, u = np.abs(result[wrong] - expected[wrong]), np.finfo(dtype).eps / 2
    if name == "tanh":
        assert (error / np.spacing(np.abs(expected[wrong]).astype(dtype))).max() <= 2.5  # what the docstring says
    else:
        assert (error <= u * properties(name).error(wide[wrong], expected[wrong])).all()


@pytest.mark.parametrize("name", NONLINEARITIES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_slopes_and_excesses(name: str, dtype: Any) -> None:
    tiny = np.logspace(-9, -1, 33)
    z = np.concatenate((np.linspace(-6, 6, 2001), tiny, -tiny, [0.0])).astype(dtype)
    slopes, excesses = np.empty_like(z), np.empty_like(z)
    apply_others(constant(name), z, slopes, excesses)
    wide, u = torch.from_numpy(z.astype(np.float64)), np.finfo(dtype).eps / 2
    expected = bodies(name)
    act = properties(name)
    assert np.abs(slopes - expected.slope(wide).numpy()).max() <= act.slope_roundings * u
    exact, size = expected.excess(wide).numpy(), np.abs(expected.act(wide).numpy())
    # A difference of two numbers, or near 0 the series of both, which keeps its digits.
    allowed = np.where(np.abs(z) < 0.25, 0, act.error(z, size)) + 32 * np.abs(exact)
    assert (np.abs(excesses - exact) <= allowed * u).all()


def test_an_unknown_one_is_an_error_of_compilation() -> None:
    z = np.zeros(1)
    with pytest.raises(TypingError, match="activate"):
        apply((0,) * len(NONLINEARITIES), z, z)


def test_tanh_is_that_of_pytorch_to_two_units_over_all_of_float32() -> None:
    """Every 4,099th number from the smallest to the largest, and its negative."""
    positive = np.arange(0, int(np.float32(np.inf).view(np.int32)), 4099, dtype=np.int32).view(np.float32)
    z = np.concatenate((positive, -positive))
    result, expected = np.empty_like(z), torch.tanh(torch.from_numpy(z)).numpy()
    apply(constant("tanh"), z, result)
    unit = np.spacing(np.abs(expected)).astype(np.float64)
    assert (np.abs(result.astype(np.float64) - expected) / unit).max() <= 2
    assert np.array_equal(result[np.abs(z) > 10], np.sign(z[np.abs(z) > 10]))

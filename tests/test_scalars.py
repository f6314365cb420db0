"""Checks of numbers, names and flags: what is accepted comes back, all else is refused by name."""

from typing import Any

import numpy as np
import pytest
import torch

from cofm_triton.scalars import check_bool, check_choice, check_dtype, check_int, check_number


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_integers(value: Any) -> None:
    found = check_int("n", value, 3, 4)
    assert found == 3 and type(found) is int


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (True, TypeError, "n must be an int, got bool"),
        (3.0, TypeError, "n must be an int, got float"),
        ("3", TypeError, "n must be an int, got str"),
        (None, TypeError, "n must be an int, got NoneType"),
        (2, ValueError, "n must be at least 3, got 2"),
        (4, ValueError, "n must be below 4, got 4"),
    ],
)
def test_no_integers(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_int("n", value, 3, 4)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2)])
def test_numbers(value: Any) -> None:
    found = check_number("dt", value, above=1.0)
    assert found == 2 and type(found) is float


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (True, TypeError, "dt must be a real number, got bool"),
        ("1", TypeError, "dt must be a real number, got str"),
        (1j, TypeError, "dt must be a real number, got complex"),
        (1.0, ValueError, "dt must be greater than 1 and finite, got 1.0"),
        (float("nan"), ValueError, "dt must be greater than 1 and finite, got nan"),
        (float("inf"), ValueError, "dt must be greater than 1 and finite, got inf"),
    ],
)
def test_no_numbers(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_number("dt", value, above=1.0)


def test_positive_numbers_are_called_so() -> None:
    with pytest.raises(ValueError, match="dt must be positive and finite, got 0"):
        check_number("dt", 0)


def test_flags_names_and_dtypes() -> None:
    check_bool("reverse", True)
    check_choice("norm", "inf", ["inf"])
    check_dtype("dtype", torch.float32, [torch.float32])
    for flag in (1, "no", None, np.True_):
        with pytest.raises(TypeError, match="reverse must be a bool"):
            check_bool("reverse", flag)
    for name in ("l2", None, ["inf"]):
        with pytest.raises(ValueError, match=r"norm must be one of \('inf',\), got"):
            check_choice("norm", name, ["inf"])
    for dtype in (torch.float64, "float32", None):
        with pytest.raises(TypeError, match=r"dtype must be one of torch\.float32, got"):
            check_dtype("dtype", dtype, [torch.float32])

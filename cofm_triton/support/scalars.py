"""Checks of numbers, names and flags: every message names the argument, what was given and what is accepted.

Numbers may be Python's, numpy's, or 0-dimensional arrays and tensors; the checks return Python's. Arrays of one element
are not numbers. Neither is a tensor that requires a gradient: the conversion would cut the gradient off.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch


def as_int(value: Any) -> int | None:
    """The value as an int; None if it is no integer. A bool is not an integer here."""
    value = _unwrapped(value)
    if isinstance(value, int):
        return None if isinstance(value, bool) else int(value)
    return operator.index(value) if hasattr(value, "__index__") and not hasattr(value, "shape") else None


def as_number(value: Any) -> float | None:
    """The value as a float (infinite if too large); None if it is no real number. A bool is not a number here."""
    if type(value) is float:  # mostly, and it takes a tenth of the time to say so
        return value
    value = _unwrapped(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if operator.gt(value, 0) else -math.inf


def as_bool(value: Any) -> bool | None:
    """The value as a bool; None if it is neither True nor False."""
    value = _unwrapped(value)
    return value if isinstance(value, bool) else None


def described(value: Any) -> str:
    """For a message: the type of what was given instead of a number; of arrays and tensors, why they do not count."""
    name = type(value).__name__
    if not isinstance(value, torch.Tensor) and name != "ndarray":
        return name
    gradient = " that requires a gradient" if getattr(value, "requires_grad", False) else ""
    return f"{name} of shape {tuple(value.shape)} and dtype {value.dtype}{gradient}"


def check_int(name: str, value: Any, least: int = 0, below: int | None = None) -> int:
    """The value as an int.

    Raises:
        TypeError: no integer; a bool is none.
        ValueError: not in [least, below).
    """
    number = as_int(value)
    if number is None:
        raise TypeError(f"{name} must be an int, got {described(value)}")
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    if below is not None and number >= below:
        raise ValueError(f"{name} must be below {below}, got {number}")
    return number


def check_real(name: str, value: Any) -> float:
    """The value as a float, infinities and NaN too.

    Raises:
        TypeError: no real number; a bool is none.
    """
    number = as_number(value)
    if number is None:
        raise TypeError(f"{name} must be a real number, got {described(value)}")
    return number


def check_number(name: str, value: Any, above: float = 0.0) -> float:
    """The value as a float.

    Raises:
        TypeError: no real number; a bool is none.
        ValueError: not finite, or not greater than `above`.
    """
    number = check_real(name, value)
    if not above < number < math.inf:
        size = "positive" if above == 0 else f"greater than {above:g}"
        raise ValueError(f"{name} must be {size} and finite, got {value!r}")
    return number


def check_not_negative(name: str, value: Any, *, finite: bool = True) -> float:
    """The value as a float, zero or more.

    Raises:
        TypeError: no real number; a bool is none.
        ValueError: negative, NaN, or infinite where that is not accepted.
    """
    number = check_real(name, value)
    if not number >= 0 or (finite and number == math.inf):
        raise ValueError(f"{name} must be >= 0{' and finite' if finite else ''}, got {value!r}")
    return number


def check_bool(name: str, value: Any) -> bool:
    """The value as a bool.

    Raises:
        TypeError: neither True nor False.
    """
    flag = as_bool(value)
    if flag is None:
        raise TypeError(f"{name} must be a bool, got {described(value)}")
    return flag


def check_choice(name: str, value: Any, accepted: Sequence[str]) -> None:
    """Raises ValueError unless the value is one of the accepted names."""
    if value not in tuple(accepted):
        raise ValueError(f"{name} must be one of {tuple(accepted)}, got {value!r}")


def check_dtype(name: str, value: Any, accepted: Sequence[torch.dtype]) -> None:
    """Raises TypeError unless the value is one of the accepted dtypes."""
    if value not in tuple(accepted):
        raise TypeError(f"{name} must be one of {', '.join(map(str, accepted))}, got {value!r}")


def _unwrapped(value: Any) -> Any:
    """The Python number inside numpy's scalars and 0-dimensional arrays and tensors; any other value as it is."""
    if isinstance(value, (bool, int, float)):  # first: compilers follow this where the number is symbolic
        return value
    if getattr(value, "shape", None) != () or not hasattr(value, "item") or getattr(value, "requires_grad", False):
        return value
    return value.item()

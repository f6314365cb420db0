"""Checks of numbers, names and flags: every message names the argument, what was given and what is accepted."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch


def check_int(name: str, value: Any, least: int = 0, below: int | None = None) -> int:
    """The value as an int, numpy's integers too.

    Raises:
        TypeError: no integer; a bool is none.
        ValueError: not in [least, below).
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    number = operator.index(value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    if below is not None and number >= below:
        raise ValueError(f"{name} must be below {below}, got {number}")
    return number


def check_number(name: str, value: Any, above: float = 0.0) -> float:
    """The value as a float, numpy's numbers too.

    Raises:
        TypeError: no real number; a bool is none.
        ValueError: not finite, or not greater than `above`.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a real number, got {type(value).__name__}")
    number = float(value)
    if not above < number < math.inf:
        size = "positive" if above == 0 else f"greater than {above:g}"
        raise ValueError(f"{name} must be {size} and finite, got {value!r}")
    return number


def check_bool(name: str, value: Any) -> None:
    """Raises TypeError unless the value is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, got {type(value).__name__}")


def check_choice(name: str, value: Any, accepted: Sequence[str]) -> None:
    """Raises ValueError unless the value is one of the accepted names."""
    if value not in tuple(accepted):
        raise ValueError(f"{name} must be one of {tuple(accepted)}, got {value!r}")


def check_dtype(name: str, value: Any, accepted: Sequence[torch.dtype]) -> None:
    """Raises TypeError unless the value is one of the accepted dtypes."""
    if value not in tuple(accepted):
        raise TypeError(f"{name} must be one of {', '.join(map(str, accepted))}, got {value!r}")

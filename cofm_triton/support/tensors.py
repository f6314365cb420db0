"""Tensors as arguments: dense ones, with a number in every place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def check_tensor(name: str, value: Any, accepted: str = "a torch.Tensor") -> None:
    """Raise TypeError unless `value` is a dense tensor.

    Args:
        name: of the argument.
        value: what was given.
        accepted: what the message asks for.

    Example:
        >>> check_tensor("x", torch.ones(2))
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be {accepted}, got {type(value).__name__}")
    if value.is_nested:
        raise TypeError(f"{name} must be a dense tensor, got a nested one: pad it, or pack its sequences")
    if value.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {value.layout}: use to_dense()")


def check_real_tensor(name: str, value: Any) -> Tensor:
    """The value, a dense tensor of floating-point numbers.

    Raises:
        TypeError: anything else.

    Example:
        >>> check_real_tensor("x", torch.ones(2))
        tensor([1., 1.])
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        given = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a real floating-point tensor, got {given}")
    check_tensor(name, value)
    return value


def check_holds_numbers(name: str, value: Tensor) -> None:
    """Raise ValueError where a tensor has a shape and no numbers.

    Example:
        >>> check_holds_numbers("x", torch.ones(2))
    """
    if value.device.type == "meta":
        raise ValueError(f"{name} must hold numbers, got a tensor on the device meta")

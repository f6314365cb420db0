"""Floats as the integers that hold their bits, and back, inside compiled loops."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic


def _bits(_context: Any, value: Any) -> Any:
    return (types.int32 if value == types.float32 else types.int64)(value), _cast


def _number(_context: Any, value: Any) -> Any:
    return (types.float32 if value == types.int32 else types.float64)(value), _cast


def _cast(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))


# The bits of a float32 or float64 as an int32 or int64, and the float with the bits of such an integer.
bits: Any = intrinsic(_bits)
number: Any = intrinsic(_number)

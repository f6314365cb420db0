"""Single machine operations inside compiled loops: bits of a float as an integer and back, choice without a branch."""

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


def _choose(_context: Any, condition: Any, yes: Any, no: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        condition = context.cast(builder, arguments[0], signature.args[0], types.boolean)
        return builder.select(condition, arguments[1], arguments[2])

    return yes(condition, yes, yes), generate


# The bits of a float32 or float64 as an int32 or int64, and the float with the bits of such an integer.
bits: Any = intrinsic(_bits)
number: Any = intrinsic(_number)
# `yes if condition else no` of two numbers of one type, both computed: data that saturate at random defeat branch
# prediction, and a branch on them costs more than the arithmetic it saves.
choose: Any = intrinsic(_choose)

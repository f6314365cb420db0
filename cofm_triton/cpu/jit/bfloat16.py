"""bfloat16, which numba does not know: it travels as uint16, and is widened to float32 and rounded from it here.

To nearest, ties to even; every NaN becomes the same quiet one. Numbers of other dtypes are computed with as they are
stored.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_NAN = 0x7FC0


def _like(value: Any, lane: Any) -> Any:
    """The type of a lane, or of as many of them as an LLVM value has."""
    return ir.VectorType(lane, value.type.count) if isinstance(value.type, ir.VectorType) else lane


def _everywhere(kind: Any, number: int) -> Any:
    """A constant, the same in every lane."""
    return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)


def widened(builder: Any, stored: Any) -> Any:
    """LLVM: the float32 that one uint16, or each of a vector, stands for."""
    word = _like(stored, ir.IntType(32))
    bits = builder.shl(builder.zext(stored, word), _everywhere(word, 16))
    return builder.bitcast(bits, _like(stored, ir.FloatType()))


def rounded(builder: Any, value: Any) -> Any:
    """LLVM: the uint16 that stands for one float32, or for each of a vector."""
    word = _like(value, ir.IntType(32))
    bits = builder.bitcast(value, word)
    odd = builder.and_(builder.lshr(bits, _everywhere(word, 16)), _everywhere(word, 1))
    carried = builder.add(builder.add(bits, _everywhere(word, 0x7FFF)), odd)
    high = builder.lshr(carried, _everywhere(word, 16))
    known = builder.fcmp_ordered("ord", value, value)
    return builder.trunc(builder.select(known, high, _everywhere(word, _NAN)), _like(value, ir.IntType(16)))


def _load(_context: Any, value: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return widened(builder, arguments[0]) if value == types.uint16 else arguments[0]

    return (types.float32 if value == types.uint16 else value)(value), generate


def _store(_context: Any, value: Any, sample: Any) -> Any:
    packed = sample.dtype == types.uint16

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return rounded(builder, arguments[0]) if packed else arguments[0]

    return (types.uint16 if packed else value)(value, sample), generate


# `load(value)`: a stored number in the state's dtype.
load: Any = intrinsic(_load)
# `store(value, sample)`: a number of the state's dtype as the array `sample` stores it.
store: Any = intrinsic(_store)

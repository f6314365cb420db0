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
_UPPER = 0xFFFF0000


def _like(value: Any, lane: Any) -> Any:
    """The type of a lane, or of as many of them as an LLVM value has."""
    return ir.VectorType(lane, value.type.count) if isinstance(value.type, ir.VectorType) else lane


def _everywhere(kind: Any, number: int) -> Any:
    """A constant, the same in every lane."""
    return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)


def shuffled(builder: Any, a: Any, b: Any, order: list[int]) -> Any:
    """LLVM: a vector of lanes of a and, numbered on, of b."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order))


# Vectors change width by shuffles of 16-bit halves, the lower one first as on every machine that numba knows: one
# instruction for a register where conversions of integers and shifts take two or three.
def widened(builder: Any, stored: Any) -> Any:
    """LLVM: the float32 that one uint16, or each of a vector, stands for."""
    if isinstance(stored.type, ir.VectorType):
        count = stored.type.count
        order = [half * count + k for k in range(count) for half in range(2)]
        halves = shuffled(builder, ir.Constant(stored.type, None), stored, order)
        return builder.bitcast(halves, ir.VectorType(ir.FloatType(), count))
    word = ir.IntType(32)
    return builder.bitcast(builder.shl(builder.zext(stored, word), word(16)), ir.FloatType())


def rounded(builder: Any, value: Any) -> Any:
    """LLVM: the uint16 that stands for one float32, or for each of a vector."""
    word, half = _like(value, ir.IntType(32)), _like(value, ir.IntType(16))
    carried = _carried(builder, value, word)
    if isinstance(word, ir.VectorType):
        halves = builder.bitcast(carried, ir.VectorType(ir.IntType(16), 2 * word.count))
        high = shuffled(builder, halves, halves, list(range(1, 2 * word.count, 2)))
    else:
        high = builder.trunc(builder.lshr(carried, word(16)), half)
    known = builder.fcmp_ordered("ord", value, value)
    return builder.select(known, high, _everywhere(half, _NAN))


# Two bfloat16 that are the parts of a complex number, the real one in the lower half of a word, need no shuffle.
def widened_pairs(builder: Any, stored: Any) -> tuple[Any, Any]:
    """LLVM: the float32 real and imaginary parts of a vector of int32 pairs."""
    part = ir.VectorType(ir.FloatType(), stored.type.count)
    real = builder.shl(stored, _everywhere(stored.type, 16))
    imaginary = builder.and_(stored, _everywhere(stored.type, _UPPER))
    return builder.bitcast(real, part), builder.bitcast(imaginary, part)


def rounded_pairs(builder: Any, real: Any, imaginary: Any) -> Any:
    """LLVM: the int32 pairs of two vectors of float32."""
    low, high = _rounded_word(builder, real), _rounded_word(builder, imaginary)
    low = builder.lshr(low, _everywhere(low.type, 16))
    return builder.or_(low, builder.and_(high, _everywhere(high.type, _UPPER)))


def _rounded_word(builder: Any, value: Any) -> Any:
    """LLVM: words whose upper half is the bfloat16 of each float32."""
    word = _like(value, ir.IntType(32))
    known = builder.fcmp_ordered("ord", value, value)
    return builder.select(known, _carried(builder, value, word), _everywhere(word, _NAN << 16))


def _carried(builder: Any, value: Any, word: Any) -> Any:
    """LLVM: words whose upper half is the bfloat16 of each float32 that is not NaN."""
    bits = builder.bitcast(value, word)
    odd = builder.and_(builder.lshr(bits, _everywhere(word, 16)), _everywhere(word, 1))
    return builder.add(builder.add(bits, _everywhere(word, 0x7FFF)), odd)


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

"""Vectors inside compiled loops: neighbouring numbers that are loaded, computed and stored as one value.

Why not a loop over the numbers of a row? The compiler would have to check, at every row, that no two tensors overlap
before it vectorises. For short rows that costs more than the arithmetic. A vector needs no check. It may have any
number of lanes; the compiler cuts it into the machine's registers.

Arithmetic (`+ - * /`, unary `-`, `abs`, comparisons, `bits.choose`) works lane by lane, between vectors and with
scalars. Complex vectors know `+`, `*` and `conjugate`. Products and sums may be fused (`compiled.OPTIONS`).
bfloat16 is passed as uint16, and the two parts of a complex bfloat16 number as one int32 (`bfloat16.py`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from math import gcd
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typeconv.castgraph import Conversion
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, lower_cast, models, register_model

from cofm_triton.cpu.jit import bfloat16
from cofm_triton.cpu.jit.streams import VECTOR_BYTES, mark_streamed

REAL: dict[Any, Any] = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
# What else a vector may hold: truth values of comparisons, and the bits of floating-point numbers.
OTHER: dict[Any, Any] = {types.boolean: ir.IntType(1), types.int32: ir.IntType(32), types.int64: ir.IntType(64)}
LANES: dict[Any, Any] = {**REAL, **OTHER}
INTEGER_OF: dict[Any, Any] = {types.float32: types.int32, types.float64: types.int64}


class Vector(types.Type):
    """The type of a vector: what its lanes hold, and how many there are."""

    def __init__(self, element: Any, lanes: int) -> None:
        self.element, self.lanes = element, lanes
        super().__init__(name=f"Vector({element} x {lanes})")

    def can_convert_from(self, _context: Any, other: Any) -> Any:
        """A real number converts to a vector of it."""
        return Conversion.safe if isinstance(other, types.Number) and self.element in REAL else None


def value_type(vector: Vector) -> Any:
    """The LLVM type of a vector; a complex one is two vectors, real and imaginary parts."""
    if vector.element in types.complex_domain:
        part = ir.VectorType(REAL[vector.element.underlying_float], vector.lanes)
        return ir.LiteralStructType((part, part))
    return ir.VectorType(LANES[vector.element], vector.lanes)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, value_type(vector))


def splat(builder: Any, number: Any, vector: Any) -> Any:
    """An LLVM vector with the same number in every lane."""
    lane = builder.insert_element(ir.Constant(vector, ir.Undefined), number, ir.IntType(32)(0))
    return builder.shuffle_vector(lane, lane, ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None))


@lower_cast(types.Number, Vector)
def _number_to_vector(context: Any, builder: Any, number: Any, vector: Any, value: Any) -> Any:
    return splat(builder, context.cast(builder, value, number, vector.element), value_type(vector))


def _define(function: Any, arity: int, generate: Callable[..., Any], *, compares: bool = False) -> None:
    """Give an operator its meaning for vectors: `generate(builder, element, *values)` makes the instruction."""

    class Template(AbstractTemplate):
        def generic(self, arguments: Any, keywords: Any) -> Any:
            vector = next((argument for argument in arguments if isinstance(argument, Vector)), None)
            if vector is None or len(arguments) != arity:
                return None
            result = Vector(types.boolean, vector.lanes) if compares else vector
            return result(*(vector,) * arity)

    def lower(_context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return generate(builder, signature.args[0].element, *arguments)

    infer_global(function)(Template)
    lower_builtin(function, *(Vector,) * arity)(lower)


def _parts(builder: Any, value: Any) -> tuple[Any, Any]:
    return builder.extract_value(value, 0), builder.extract_value(value, 1)


def _complex(builder: Any, real: Any, imaginary: Any) -> Any:
    pair = ir.Constant(ir.LiteralStructType((real.type, imaginary.type)), ir.Undefined)
    return builder.insert_value(builder.insert_value(pair, real, 0), imaginary, 1)


def _add(builder: Any, element: Any, a: Any, b: Any) -> Any:
    if element in types.complex_domain:
        (a_re, a_im), (b_re, b_im) = _parts(builder, a), _parts(builder, b)
        return _complex(builder, builder.fadd(a_re, b_re), builder.fadd(a_im, b_im))
    return builder.fadd(a, b)


def fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c, rounded once where the machine can: so the compiler does not choose which of two products is fused."""
    bits = 32 if a.type.element == ir.FloatType() else 64
    function = ir.FunctionType(a.type, (a.type,) * 3)
    name = f"llvm.fmuladd.v{a.type.count}f{bits}"
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), (a, b, c))


def _multiply(builder: Any, element: Any, a: Any, b: Any) -> Any:
    if element in types.complex_domain:
        (a_re, a_im), (b_re, b_im) = _parts(builder, a), _parts(builder, b)
        real = fused(builder, a_re, b_re, builder.fneg(builder.fmul(a_im, b_im)))
        return _complex(builder, real, fused(builder, a_re, b_im, builder.fmul(a_im, b_re)))
    return builder.fmul(a, b)


def _subtract(builder: Any, _element: Any, a: Any, b: Any) -> Any:
    return builder.fsub(a, b)


def _divide(builder: Any, _element: Any, a: Any, b: Any) -> Any:
    return builder.fdiv(a, b)


def _negate(builder: Any, _element: Any, a: Any) -> Any:
    return builder.fneg(a)


def _absolute(builder: Any, element: Any, a: Any) -> Any:
    integer = ir.VectorType(LANES[INTEGER_OF[element]], a.type.count)
    magnitude = integer([2 ** (integer.element.width - 1) - 1] * integer.count)
    return builder.bitcast(builder.and_(builder.bitcast(a, integer), magnitude), a.type)


def _compare(sign: str, builder: Any, _element: Any, a: Any, b: Any) -> Any:
    return builder.fcmp_ordered(sign, a, b)


_define(operator.add, 2, _add)
_define(operator.mul, 2, _multiply)
_define(operator.sub, 2, _subtract)
_define(operator.truediv, 2, _divide)
_define(operator.neg, 1, _negate)
_define(abs, 1, _absolute)
_define(operator.lt, 2, partial(_compare, "<"), compares=True)
_define(operator.gt, 2, partial(_compare, ">"), compares=True)


def _state_type(stored: Any) -> Any:
    """The type in which a stored number is computed."""
    return {types.uint16: types.float32, types.int32: types.complex64}.get(stored, stored)


def _memory(context: Any, builder: Any, address: Any, stored: Any, lanes: int) -> Any:
    """A pointer to `lanes` numbers at an address; complex ones count twice."""
    is_complex = stored in types.complex_domain
    number = context.get_value_type(stored.underlying_float if is_complex else stored)
    vector = ir.VectorType(number, 2 * lanes if is_complex else lanes)
    return builder.inttoptr(address, vector.as_pointer()), vector


def _load(_context: Any, lanes: Any, address: Any, sample: Any) -> Any:
    vector, shared = Vector(_state_type(sample.dtype), lanes.count), sample.ndim == 0

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, memory = _memory(context, builder, arguments[1], sample.dtype, 1 if shared else vector.lanes)
        value = builder.load(pointer, align=_alignment(context, sample.dtype, memory))
        if sample.dtype in types.complex_domain:
            orders = (list(range(k, memory.count, 2)) for k in range(2))
            value = _complex(builder, *(bfloat16.shuffled(builder, value, value, order) for order in orders))
        elif sample.dtype == types.int32:
            value = _complex(builder, *bfloat16.widened_pairs(builder, value))
        elif sample.dtype == types.uint16:
            value = bfloat16.widened(builder, value)
        return _in_all_lanes(builder, value, vector) if shared else value

    return vector(lanes, address, sample), generate


def _size_of(_context: Any, sample: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.IntType(64)(context.get_abi_sizeof(context.get_data_type(sample.dtype)))

    return types.int64(sample), generate


def _alignment(context: Any, stored: Any, memory: Any) -> int:
    """Alignment of numbers in memory; a pair of bfloat16 needs that of one."""
    return 2 if stored == types.int32 else int(context.get_abi_sizeof(memory.element))


def _in_all_lanes(builder: Any, one: Any, vector: Vector) -> Any:
    """An LLVM vector with the only lane of another one in every lane."""
    if vector.element in types.complex_domain:
        part = Vector(vector.element.underlying_float, vector.lanes)
        return _complex(builder, *(_in_all_lanes(builder, value, part) for value in _parts(builder, one)))
    return bfloat16.shuffled(builder, one, one, [0] * vector.lanes)


def _store(_context: Any, value: Any, address: Any, sample: Any, streamed: Any) -> Any:
    stored = sample.dtype

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        numbers, address, _, streamed = arguments
        if stored in types.complex_domain:
            real, imaginary = _parts(builder, numbers)
            order = [k // 2 + k % 2 * value.lanes for k in range(2 * value.lanes)]
            numbers = bfloat16.shuffled(builder, real, imaginary, order)
        elif stored == types.int32:
            numbers = bfloat16.rounded_pairs(builder, *_parts(builder, numbers))
        elif stored == types.uint16:
            numbers = bfloat16.rounded(builder, numbers)
        pointer, memory = _memory(context, builder, address, stored, value.lanes)
        align, size = _alignment(context, stored, memory), context.get_abi_sizeof(memory.element)
        # Rows that are streamed begin at multiples of VECTOR_BYTES, and so does every vector of as many bytes in them.
        streamed_align = gcd(memory.count * size, VECTOR_BYTES)
        with builder.if_else(streamed) as (past_the_cache, through_the_cache):
            with past_the_cache:
                store = builder.store(numbers, pointer, align=streamed_align)
                if streamed_align > align:
                    mark_streamed(builder, store)
            with through_the_cache:
                builder.store(numbers, pointer, align=align)
        return context.get_dummy_value()

    return types.void(value, address, sample, types.boolean), generate


def _conjugate(_context: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if value.element not in types.complex_domain:
            return arguments[0]
        real, imaginary = _parts(builder, arguments[0])
        return _complex(builder, real, builder.fneg(imaginary))

    return value(value), generate


def _sum_of_products(_context: Any, a: Any, b: Any, c: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if a.element in types.complex_domain:
            a_times = [_multiply(builder, a.element, arguments[0], other) for other in arguments[1:]]
            return _add(builder, a.element, *a_times)
        return fused(builder, arguments[0], arguments[1], builder.fmul(arguments[0], arguments[2]))

    return a(a, a, a), generate


def _swap(_context: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # The vector of what blocks leave of a row has one lane where they leave nothing, and is not used.
        order = [k ^ 1 for k in range(value.lanes)] if value.lanes % 2 == 0 else list(range(value.lanes))
        return bfloat16.shuffled(builder, arguments[0], arguments[0], order)

    return value(value), generate


def _zeros(_context: Any, lanes: Any, sample: Any) -> Any:
    vector = Vector(_state_type(sample.dtype), lanes.count)

    def generate(_context: Any, _builder: Any, _signature: Any, _arguments: Any) -> Any:
        return ir.Constant(value_type(vector), None)

    return vector(lanes, sample), generate


def _total(_context: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if value.element in types.complex_domain:
            return _complex(builder, *(_halved(builder, part) for part in _parts(builder, arguments[0])))
        return _halved(builder, arguments[0])

    return Vector(value.element, 1)(value), generate


def _halved(builder: Any, value: Any) -> Any:
    """The sum of an LLVM vector's lanes, the upper half added to the lower one until there is one lane."""
    while (count := value.type.count) > 1:
        half = (count + 1) // 2
        nothing = ir.Constant(value.type, None)
        lower = bfloat16.shuffled(builder, value, nothing, list(range(half)))
        upper = bfloat16.shuffled(builder, value, nothing, list(range(half, 2 * half)))  # of an odd count, and a zero
        value = builder.fadd(lower, upper)
    return value


def _same(_context: Any, a: Any, b: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pairs = [arguments]
        if a.element in types.complex_domain:
            pairs = list(zip(*(_parts(builder, value) for value in arguments), strict=True))
        equal = ir.Constant(ir.IntType(1), 1)
        for one, other in pairs:
            element = one.type.element
            word = ir.VectorType(ir.IntType(64 if element == ir.DoubleType() else 32), a.lanes)
            lanes = builder.icmp_unsigned("==", builder.bitcast(one, word), builder.bitcast(other, word))
            mask = builder.bitcast(lanes, ir.IntType(a.lanes))
            equal = builder.and_(equal, builder.icmp_unsigned("==", mask, mask.type(-1)))
        return equal

    return types.boolean(a, a), generate


# `load(lanes, address, sample)`: the vector at an address, one lane for each entry of the tuple `lanes`, of numbers
# stored as in the array `sample`, in the state's dtype; with a sample of two axes, the number there in every lane.
load: Any = intrinsic(_load)
# `store(value, address, sample, streamed)`: a vector to an address, rounded as `sample` stores it, past the cache if
# `streamed`.
store: Any = intrinsic(_store)
# Bytes of a number as `sample` stores it: a constant, which the compiler builds addresses with.
size_of: Any = intrinsic(_size_of)
# The complex conjugate of a vector, real ones as they are.
conjugate: Any = intrinsic(_conjugate)
# `distribute(a, b, c)`: a b + a c, in which only the multiplication of b and one addition wait for b.
distribute: Any = intrinsic(_sum_of_products)
# A vector with lanes 2k and 2k + 1 exchanged.
swap: Any = intrinsic(_swap)
# `zeros(lanes, sample)`: a vector of zeros, as many as the tuple has entries, in the state's dtype.
zeros: Any = intrinsic(_zeros)
# The sum of a vector's lanes, a vector of one.
total: Any = intrinsic(_total)
# Whether two vectors are the same, bit for bit.
same: Any = intrinsic(_same)

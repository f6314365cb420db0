"""Single machine operations inside compiled loops, on numbers and on vectors of them.

A power of two from a float's bits, a sign, a square root, choice without a branch, constants.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cofm_triton.cpu.jit.vectors import INTEGER_OF, Vector, fused


def _each(change: Any, value: Any) -> Any:
    """The type of `value` with what it holds changed: a number's, or that of a vector's lanes."""
    return Vector(change(value.element), value.lanes) if isinstance(value, Vector) else change(value)


def _power(_context: Any, value: Any, shift: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integers = _each(INTEGER_OF.__getitem__, value)
        shifted = context.cast(builder, arguments[1], shift, integers)
        word = builder.bitcast(arguments[0], context.get_value_type(integers))
        return builder.bitcast(builder.shl(word, shifted), arguments[0].type)

    return value(value, shift), generate


def _signed(_context: Any, magnitude: Any, sign: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = context.get_value_type(magnitude)
        lanes = f"v{magnitude.lanes}" if isinstance(magnitude, Vector) else ""
        element = getattr(number, "element", number).intrinsic_name
        copysign = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(number, (number, number)), f"llvm.copysign.{lanes}{element}"
        )
        return builder.call(copysign, arguments)

    return magnitude(magnitude, sign), generate


def _choose(_context: Any, condition: Any, yes: Any, no: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        given, *options = arguments
        if not isinstance(condition, Vector):
            given = context.cast(builder, given, condition, types.boolean)
        return builder.select(given, *options)

    return no(condition, no, no), generate


def _like(_context: Any, value: Any, number: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.cast(builder, arguments[1], number, value)

    return value(value, number), generate


def _root(_context: Any, radicand: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = context.get_value_type(radicand)
        lanes = f"v{radicand.lanes}" if isinstance(radicand, Vector) else ""
        element = getattr(number, "element", number).intrinsic_name
        function = ir.FunctionType(number, (number,))
        return builder.call(
            cgutils.get_or_insert_function(builder.module, function, f"llvm.sqrt.{lanes}{element}"), arguments
        )

    return radicand(radicand), generate


def _fuse(_context: Any, a: Any, b: Any, c: Any) -> Any:
    if not isinstance(a, Vector):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return fused(builder, *arguments)

    return a(a, a, a), generate


# The float with the bits `bits(value) << shift`.
power: Any = intrinsic(_power)
# `magnitude` with the sign of `sign`, numbers or vectors of one type.
signed: Any = intrinsic(_signed)
# `yes if condition else no` of two numbers or vectors of one type, both computed: data that saturate at random defeat
# branch prediction, and a branch on them costs more than the arithmetic it saves.
choose: Any = intrinsic(_choose)
# `fuse(a, b, c)`: a b + c of vectors, rounded once where the machine can. The compiler fuses a product by itself unless
# it is used twice.
fuse: Any = intrinsic(_fuse)
# The square root, one instruction.
root: Any = intrinsic(_root)
# `number` in the type of `value`; in every lane of it if that is a vector.
like: Any = intrinsic(_like)

"""A linear recurrence over the rows in one vector, inside compiled loops.

A vector of `R D` lanes holds R rows, one after the other in memory. Narrow rows so fill whole registers in all that
does not wait for the state, and only the recurrence itself goes row by row, without leaving the registers.

    walk(a, b, held, cos, sin, turning)         y[k] = a[k] turn(y[k-1]) + b[k], y[-1] = held; (y, the last of them)
    walk_back(a, b, held, cos, sin, turning)    s[k] = turn(a[k+1] s[k+1] + b[k+1]), s[R-1] = held; (s, s[-1])

`turning` is a tuple: with an entry, turn(y) = cos y + sin swap(y), without one it is y. cos, sin and held are one row.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from cofm_triton.cpu.jit.bfloat16 import shuffled
from cofm_triton.cpu.jit.vectors import fused


def _walk(a: Any, held: Any, turning: Any, back: bool) -> Any:
    """The signature's result, and what generates the code."""
    rows, lanes = a.lanes // held.lanes, held.lanes
    result = types.Tuple((a, held))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, b, held, cos, sin, _ = arguments
        swapped = [k ^ 1 for k in range(lanes)] if lanes % 2 == 0 else list(range(lanes))

        def row(value: Any, k: int) -> Any:
            return value if rows == 1 else shuffled(builder, value, value, list(range(k * lanes, (k + 1) * lanes)))

        def turn(value: Any) -> Any:
            if len(turning) == 0:
                return value
            swap = shuffled(builder, value, value, swapped)
            return fused(builder, cos, value, builder.fmul(sin, swap))

        found: list[Any] = []
        for k in reversed(range(rows)) if back else range(rows):
            if back:
                found.insert(0, held)
                held = turn(fused(builder, row(a, k), held, row(b, k)))
            else:
                held = fused(builder, row(a, k), turn(held), row(b, k))
                found.append(held)
        return context.make_tuple(builder, result, (_joined(builder, found), held))

    return result, generate


def _joined(builder: Any, rows: list[Any]) -> Any:
    """LLVM: one vector of the lanes of all, joined in pairs."""
    while len(rows) > 1:
        pairs = [rows[k : k + 2] for k in range(0, len(rows), 2)]
        rows = [
            shuffled(builder, pair[0], _as_long(builder, pair), list(range(sum(value.type.count for value in pair))))
            if len(pair) == 2
            else pair[0]
            for pair in pairs
        ]
    return rows[0]


def _as_long(builder: Any, pair: list[Any]) -> Any:
    """LLVM: the second vector with as many lanes as the first one has; those that it lacks are its first."""
    first, second = (value.type.count for value in pair)
    if first == second:
        return pair[1]
    return shuffled(builder, pair[1], pair[1], [k if k < second else 0 for k in range(first)])


def _forward(_context: Any, a: Any, b: Any, held: Any, cos: Any, sin: Any, turning: Any) -> Any:
    result, generate = _walk(a, held, turning, False)
    return result(a, b, held, cos, sin, turning), generate


def _backward(_context: Any, a: Any, b: Any, held: Any, cos: Any, sin: Any, turning: Any) -> Any:
    result, generate = _walk(a, held, turning, True)
    return result(a, b, held, cos, sin, turning), generate


walk: Any = intrinsic(_forward)
walk_back: Any = intrinsic(_backward)

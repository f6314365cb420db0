"""Parallel regions inside compiled code: `each(entry, first, threads, count, function, arguments)`.

Calls `function(i, *arguments)` for every i in range(count), and returns when all calls have. The function is one that
is compiled already, with no result; a call must not depend on another one's. No Python runs in between: threads that
take turns at the interpreter would lose more time than short sequences take.

With `entry` the address of `GOMP_parallel` (`threads.openmp`), as many threads as asked for, or fewer, take indices
from a common counter. With 0 the calling thread does every `threads`-th index from `first` on.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_ADDRESS, _WORD, _UNSIGNED = ir.IntType(8).as_pointer(), ir.IntType(64), ir.IntType(32)
_BODY = ir.FunctionType(ir.VoidType(), (_ADDRESS,))
# GOMP_parallel(body, data, threads, flags): runs `body(data)` on every thread.
_ENTRY = ir.FunctionType(ir.VoidType(), (_BODY.as_pointer(), _ADDRESS, _UNSIGNED, _UNSIGNED))


def _each(typing: Any, entry: Any, first: Any, threads: Any, count: Any, function: Any, arguments: Any) -> Any:
    if not isinstance(arguments, (types.Tuple, types.UniTuple)):
        return None
    call = function.get_call_type(typing, (types.int64, *arguments.types), {})
    compiled = function.dispatcher.get_compile_result(call)

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        context.add_linking_libs([compiled.library])
        entry, first, threads, count = (
            context.cast(builder, value, kind, types.int64)
            for value, kind in zip(given[:4], signature.args[:4], strict=True)
        )
        values = cgutils.unpack_tuple(builder, given[5])
        shared = cgutils.alloca_once(builder, ir.LiteralStructType((_WORD, _WORD, *(value.type for value in values))))

        def field(at: Any, pointer: Any, k: int) -> Any:
            return at.gep(pointer, [_UNSIGNED(0), _UNSIGNED(k)], inbounds=True)

        for k, value in enumerate((_WORD(0), count, *values)):
            builder.store(value, field(builder, shared, k))

        def run(at: Any, pointer: Any, index: Any) -> None:
            loaded = [at.load(field(at, pointer, k + 2)) for k in range(len(values))]
            context.call_internal_no_propagate(at, compiled.fndesc, call, [index, *loaded])

        body = _new_body(builder)
        inside = ir.IRBuilder(body.append_basic_block("entry"))
        data = inside.bitcast(body.args[0], shared.type)
        loop, work, done = (body.append_basic_block(name) for name in ("loop", "work", "done"))
        inside.branch(loop)
        inside.position_at_end(loop)
        index = inside.atomic_rmw("add", field(inside, data, 0), _WORD(1), "monotonic")
        inside.cbranch(inside.icmp_signed("<", index, inside.load(field(inside, data, 1))), work, done)
        inside.position_at_end(work)
        run(inside, data, index)
        inside.branch(loop)
        inside.position_at_end(done)
        inside.ret_void()

        with builder.if_else(builder.icmp_signed("!=", entry, _WORD(0))) as (together, alone):
            with together:
                enter = builder.inttoptr(entry, _ENTRY.as_pointer())
                number = builder.trunc(threads, _UNSIGNED)
                builder.call(enter, (body, builder.bitcast(shared, _ADDRESS), number, _UNSIGNED(0)))
            with alone, cgutils.for_range_slice(builder, first, count, threads) as (index, _):
                run(builder, shared, index)
        return context.get_dummy_value()

    return types.void(entry, first, threads, count, function, arguments), generate


def _new_body(builder: Any) -> Any:
    """A function of the module for the threads of a region, which nothing outside it can name."""
    name = builder.module.get_unique_name(f"{builder.function.name}.region")
    body = ir.Function(builder.module, _BODY, name)
    body.linkage = "internal"
    return body


each: Any = intrinsic(_each)

"""Streaming stores, which go past the cache: for results that would leave it before anybody reads them.

An ordinary store first fetches the cache line that it overwrites: one more read for every write of a scan. A streaming
store of whole vectors does not.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

# The alignment that rows need to be streamed.
VECTOR_BYTES = 32
# Of memory in a cache.
LINE_BYTES = 64
# Results larger than this have left a core's share of the last-level cache before anybody reads them.
MIN_BYTES = 2**23


def mark_streamed(builder: Any, store: Any) -> None:
    """Make a store instruction one that goes past the cache."""
    store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))


def _fence_after(_context: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        builder.fence("seq_cst")
        _align_stack(builder)
        return context.get_dummy_value()

    return types.void(), generate


def _align_stack(builder: Any) -> None:
    """Let a function keep vectors that find no register at cache lines of the stack.

    The compiler thinks of it too late by itself: then where they lie depends on the caller, and a loop whose vectors
    lie across two lines takes up to three times as long.
    """
    place = cgutils.alloca_once(builder, ir.IntType(64))
    place.align = LINE_BYTES
    nothing = ir.FunctionType(ir.VoidType(), (place.type,))
    builder.asm(nothing, "", "r", (place,), True)  # no instruction, but the compiler keeps what it might read


# Ends a function that loops over a part. Streaming stores are not ordered with others: what follows sees them done.
fence: Any = intrinsic(_fence_after)


def streams(rows: Any) -> bool:
    """Whether results in these rows (`Rows`) are large enough to be streamed, and aligned for it."""
    if rows.tensor.nbytes < MIN_BYTES:
        return False
    return all(place % VECTOR_BYTES == 0 for place in (rows.base, rows.stride_b, rows.step))

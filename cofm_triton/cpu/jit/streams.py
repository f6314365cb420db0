"""Stores that go past the cache: for results too large to be read again before they have left it.

An ordinary store first fetches the line it will overwrite, a third read for every write of a scan. A streaming store of
whole vectors does not. Values are gathered in a block that stays in the cache and leave from there.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# What one store writes, and the alignment that it needs. Compilers break it up where vectors are shorter.
VECTOR_BYTES = 32
# Results larger than this have left a core's share of the last-level cache before anybody reads them.
MIN_BYTES = 2**23


def _stream_to(_context: Any, target: Any, source: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(ir.IntType(32), VECTOR_BYTES // 4).as_pointer()
        value = builder.load(builder.inttoptr(arguments[1], vector), align=4)
        instruction = builder.store(value, builder.inttoptr(arguments[0], vector), align=VECTOR_BYTES)
        instruction.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


def _fence_after(_context: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


# VECTOR_BYTES from an address that is a multiple of 4 to one that is a multiple of VECTOR_BYTES.
_stream: Any = intrinsic(_stream_to)
# Streaming stores are not ordered with others: what follows the fence sees them done.
fence: Any = intrinsic(_fence_after)


@njit(forceinline=True, fastmath={"contract"}, error_model="numpy")
def stream(block: Any, target: int) -> None:
    """Copy a contiguous block, a multiple of VECTOR_BYTES long, to an aligned address."""
    source = block.ctypes.data
    for i in range(0, block.size * block.itemsize, VECTOR_BYTES):
        _stream(target + i, source + i)


def streams(rows: Any) -> bool:
    """Whether results in these rows (`Rows`) are large enough to be streamed, and aligned for it."""
    size = rows.tensor.numel() * rows.tensor.element_size()
    aligned = all(place % VECTOR_BYTES == 0 for place in (rows.base, rows.stride_b, rows.step))
    return size >= MIN_BYTES and aligned

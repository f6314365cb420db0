"""Products of a few rows with a matrix that stays in the cache, inside compiled loops.

    out[r, j] = sum_k rows[r, k] * matrix[k, j]

The matrix is cut into panels of as many columns as a cache line holds, each panel contiguous. A tile of `TILE_ROWS`
rows by one panel is summed in registers, two vectors of 32 bytes a row: enough independent chains to keep the
multipliers busy, few enough to leave registers for the panel and for the number that multiplies it.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from cofm_triton.cpu.jit.compiled import entry

PANEL_BYTES = 64
TILE_ROWS = 4


def panels(matrix: Tensor) -> Tensor:
    """(..., K, N) matrices as (..., panels, K, columns of a panel), the last panel filled up with zeros."""
    columns = PANEL_BYTES // matrix.element_size()
    padded = F.pad(matrix, (0, -matrix.shape[-1] % columns))
    return padded.unflatten(-1, (-1, columns)).transpose(-3, -2).contiguous()


def _tile_product(_context: Any, rows: Any, panel: Any, out: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        rows, panel, out = (
            context.make_array(kind)(context, builder, value)
            for kind, value in zip(signature.args, arguments, strict=True)
        )
        number = context.get_value_type(signature.args[0].dtype)
        size = context.get_abi_sizeof(number)
        vector = ir.VectorType(number, PANEL_BYTES // size)
        terms = cgutils.unpack_tuple(builder, panel.shape)[0]
        index = terms.type
        row_size, out_size = (
            builder.sdiv(cgutils.unpack_tuple(builder, array.strides)[0], index(size)) for array in (rows, out)
        )

        entry, zero = builder.block, ir.Constant(vector, [0.0] * vector.count)
        loop, done = builder.append_basic_block("terms"), builder.append_basic_block("tile")
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(index)
        k.add_incoming(index(0), entry)
        sums = [builder.phi(vector) for _ in range(TILE_ROWS)]
        columns = builder.gep(panel.data, [builder.mul(k, index(vector.count))])
        factors = builder.load(builder.bitcast(columns, vector.as_pointer()), align=size)
        for r, total in enumerate(sums):
            value = builder.load(builder.gep(rows.data, [builder.add(builder.mul(row_size, index(r)), k)]))
            lane = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.IntType(32)(0))
            spread = builder.shuffle_vector(lane, lane, ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None))
            total.add_incoming(zero, entry)
            product = builder.fmul(spread, factors, flags=("contract",))  # fused with the sum below
            total.add_incoming(builder.fadd(total, product, flags=("contract",)), loop)
        following = builder.add(k, index(1))
        k.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, terms), loop, done)
        builder.position_at_end(done)
        for r, total in enumerate(sums):
            place = builder.gep(out.data, [builder.mul(out_size, index(r))])
            result = next(value for value, block in total.incomings if block is loop)
            builder.store(result, builder.bitcast(place, vector.as_pointer()), align=size)

    return types.void(rows, panel, out), generate


# `out[:, :columns] = rows @ panel` for the first TILE_ROWS rows of arrays whose columns lie next to each other, and a
# panel (K, columns) with K >= 1.
_tile: Any = intrinsic(_tile_product)


@entry
def multiply(rows: Any, matrix: Any, out: Any) -> None:
    """`out = rows @ matrix`: rows (R, K) and out (R, panels * columns), R a multiple of TILE_ROWS, matrix in panels."""
    columns = matrix.shape[2]
    for p in range(matrix.shape[0]):
        for r in range(0, rows.shape[0], TILE_ROWS):
            _tile(rows[r:], matrix[p], out[r:, p * columns :])

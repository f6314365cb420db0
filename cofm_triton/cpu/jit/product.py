"""Products of a few rows with a matrix that stays in the cache, inside compiled loops.

    out[r, j] = sum_k rows[r, k] * matrix[k, j]

The matrix is cut into panels of as many columns as a cache line holds, each panel contiguous. A tile of `TILE_ROWS`
rows by one panel is summed in registers, two vectors of 32 bytes a row: enough independent chains to keep the
multipliers busy, few enough to leave registers for the panel and for the number that multiplies it.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from numba.extending import overload
from torch import Tensor

from cofm_triton.cpu.jit.compiled import INLINED, entry
from cofm_triton.cpu.jit.vectors import load, store, zeros

PANEL_BYTES = 64
TILE_ROWS = 4


def panels(matrix: Tensor) -> Tensor:
    """(..., K, N) matrices as (..., panels, K, columns of a panel), the last panel filled up with zeros."""
    columns = PANEL_BYTES // matrix.element_size()
    padded = F.pad(matrix, (0, -matrix.shape[-1] % columns))
    return padded.unflatten(-1, (-1, columns)).transpose(-3, -2).contiguous()


def _tile(rows: Any, panel: Any, out: Any) -> None:
    """`out[:, :columns] = rows @ panel` for the first TILE_ROWS rows, and a panel (K, columns)."""
    raise TypeError("compiled code only")


@overload(_tile, jit_options=INLINED)
def _tile_of(rows: Any, panel: Any, out: Any) -> Any:
    lanes = (0,) * (8 * PANEL_BYTES // panel.dtype.bitwidth)

    def tile(rows: Any, panel: Any, out: Any) -> None:
        s0, s1, s2, s3 = zeros(lanes, panel), zeros(lanes, panel), zeros(lanes, panel), zeros(lanes, panel)
        for k in range(panel.shape[0]):
            factors = load(lanes, panel.ctypes.data + k * PANEL_BYTES, panel)
            s0 = s0 + rows[0, k] * factors
            s1 = s1 + rows[1, k] * factors
            s2 = s2 + rows[2, k] * factors
            s3 = s3 + rows[3, k] * factors
        store(s0, out.ctypes.data, out, False)
        store(s1, out.ctypes.data + out.strides[0], out, False)
        store(s2, out.ctypes.data + 2 * out.strides[0], out, False)
        store(s3, out.ctypes.data + 3 * out.strides[0], out, False)

    return tile


@entry
def multiply(rows: Any, matrix: Any, out: Any) -> None:
    """`out = rows @ matrix`: rows (R, K) and out (R, panels * columns), R a multiple of TILE_ROWS, matrix in panels."""
    columns = matrix.shape[2]
    for p in range(matrix.shape[0]):
        for r in range(0, rows.shape[0], TILE_ROWS):
            _tile(rows[r:], matrix[p], out[r:, p * columns :])

"""Launches of the linear scan: gated or not, real, complex and in pairs of real channels, aligned rows and others,
whole and split in time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from cofm_triton.evidence.compilation.launches import SPLIT, WHOLE, Operator, Options, meta, sequence
from cofm_triton.ops.dtypes import complex_state_dtype, state_dtype
from cofm_triton.ops.linear_scan import traffic

# 512 channels fill programs with aligned rows; 500 leave rows unaligned and the last program partly empty.
EVEN, RAGGED, FEW = 512, 500, 3
# Bytes of a row that keeps 132 multiprocessors busy in blocks of half or a quarter of the full width.
HALF_BYTES, QUARTER_BYTES = 132 * 256, 132 * 128
# Bytes of a row of which 16 chunks keep them busy, and of one that takes many, whose carries are not folded.
FOLDED_BYTES, MANY_BYTES = 2048, 256


def launch(
    dtype: torch.dtype = torch.float32, gated: bool = False, reverse: bool = False, packed: bool = False,
    states: bool = True, length: int = 4096, width: int = EVEN, num_sms: int = WHOLE, sliced: bool = False,
    transposed: bool = False, shared: bool = False, pairs: bool = False,
) -> None:  # fmt: skip
    """Both passes; `pairs` of real channels have complex decays."""
    from triton.runtime import driver

    from cofm_triton.kernels import linear_scan

    state = state_dtype(dtype)
    x = sequence(length, width, dtype, sliced, transposed)
    decay = x if gated else meta(width, dtype=state)
    if pairs:
        channels, complex_state = width // 2, complex_state_dtype(dtype)
        decay = meta(*((1, length, channels) if gated else (channels,)), dtype=complex_state)
    if shared:
        decay = meta(1, length, 1, dtype=decay.dtype)
    seq_starts = meta(4, dtype=torch.int64) if packed else None
    h0 = meta(4 if packed else 1, width, dtype=state) if states else None
    warp = driver.active.get_current_target().warp_size
    options: dict[str, Any] = dict(reverse=reverse, state_dtype=state, num_sms=num_sms, lanes=warp)
    linear_scan.forward(x, decay, h0, seq_starts, **options)
    h = meta(*x.shape, dtype=dtype)
    linear_scan.backward(x, h0, decay, h, h0, seq_starts, **options)


def bytes_per_element(kernel: str, constants: Options, options: Options) -> float | None:
    """Per real number; None for summaries, which are a part of a pass."""
    if constants["SUMMARY"]:
        return None
    dtype, backward = options.get("dtype", torch.float32), "backward" in kernel
    itemsize = dtype.itemsize // (2 if dtype.is_complex else 1)
    moved = traffic(1, 1, 1, itemsize, gated=constants["GATED"], backward=backward)
    if constants["GATED"] and options.get("pairs"):  # gates, and what is their gradient, are in the state's dtype
        moved += (state_dtype(dtype).itemsize - itemsize) * (2 if backward else 1)
    return moved


def _others() -> Iterator[Options]:
    for gated in (False, True):
        yield dict(dtype=torch.float64, gated=gated)
        for dtype in (torch.float32, torch.bfloat16):
            yield dict(dtype=dtype, gated=gated, width=RAGGED, packed=True)
        yield dict(gated=gated, width=RAGGED, reverse=True, states=False)
        yield dict(gated=gated, width=RAGGED)
        yield dict(gated=gated, sliced=True)
        yield dict(dtype=torch.bfloat16, gated=gated, sliced=True, num_sms=SPLIT)
        yield dict(gated=gated, transposed=True)
        for dtype in (torch.float32, torch.bfloat16, torch.complex64):
            for row_bytes in (HALF_BYTES, QUARTER_BYTES, FOLDED_BYTES, MANY_BYTES):
                yield dict(dtype=dtype, gated=gated, width=row_bytes // dtype.itemsize, num_sms=SPLIT)
            yield dict(dtype=dtype, gated=gated, width=16, num_sms=SPLIT)
        yield dict(dtype=torch.float32, gated=gated, width=32, num_sms=SPLIT)
        yield dict(dtype=torch.float64, gated=gated, width=64, num_sms=SPLIT)
        for dtype in (torch.float32, torch.complex64, torch.complex128):
            yield dict(dtype=dtype, gated=gated, width=FEW, num_sms=SPLIT)
        yield dict(dtype=torch.complex64, gated=gated, width=RAGGED)
    for dtype, num_sms in ((torch.float32, WHOLE), (torch.bfloat16, WHOLE), (torch.float32, SPLIT)):
        yield dict(dtype=dtype, gated=True, shared=True, num_sms=num_sms)
    yield dict(gated=True, shared=True, width=RAGGED)
    for dtype in (torch.float32, torch.bfloat16):
        for row_bytes in (HALF_BYTES, QUARTER_BYTES, FOLDED_BYTES, MANY_BYTES):
            yield dict(dtype=dtype, pairs=True, width=row_bytes // dtype.itemsize, num_sms=SPLIT)
        yield dict(dtype=dtype, pairs=True, width=RAGGED, packed=True)
        yield dict(dtype=dtype, pairs=True, transposed=True)
        yield dict(dtype=dtype, pairs=True, gated=True)
        yield dict(dtype=dtype, pairs=True, gated=True, width=RAGGED, num_sms=SPLIT)
        yield dict(dtype=dtype, pairs=True, gated=True, shared=True)
    yield dict(dtype=torch.float16, pairs=True, reverse=True)
    yield dict(dtype=torch.float64, pairs=True)
    yield dict(dtype=torch.complex64, gated=True, shared=True)
    yield dict(dtype=torch.complex64, gated=True, shared=True, width=RAGGED, num_sms=SPLIT)
    yield dict(dtype=torch.complex64, gated=True)
    yield dict(dtype=torch.complex64, sliced=True)
    yield dict(width=FEW)


OPERATOR = Operator(
    name="linear_scan",
    launch=launch,
    usual=[
        dict(dtype=torch.float32),
        dict(dtype=torch.bfloat16),
        dict(dtype=torch.float32, gated=True),
        dict(dtype=torch.bfloat16, gated=True),
        dict(dtype=torch.complex64),
        dict(dtype=torch.float32, pairs=True),
        dict(dtype=torch.bfloat16, pairs=True),
    ],
    others=list(_others()),
    bytes_per_element=bytes_per_element,
)

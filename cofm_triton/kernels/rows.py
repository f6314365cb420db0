"""Rows in flight: the pieces that every scan along time is built from.

A program walks the time axis in blocks of ROWS rows. It loads all rows of a block before it uses the first, or each row
a block ahead. The compiler cannot hoist a load above a store that may alias, so kernels issue their loads early; a
chain along time waits for nothing else.

Names: `*_ptr` is a tensor's first element, `*_row` one row of BLOCK_D channels, `*_step` the signed distance to the
next row of the walk, `stride_*` a tensor's stride. Masked lanes (MASKED: channels from D on) load 0, compute with it,
and are not stored.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_row(ptr, mask, MASKED: tl.constexpr):
    """One row of channels, 0 in masked lanes."""
    if MASKED:
        row = tl.load(ptr, mask=mask, other=0.0)
    else:
        row = tl.load(ptr)
    return row


@triton.jit
def across_lanes(d, pid, ALIGNED: tl.constexpr, COMPLEX: tl.constexpr):
    """The channels d as offsets in rows; unless all rows are ALIGNED, in a form that hides their alignment from Triton.

    Triton gives a lane as many numbers of a row as it can move at once. Without aligned rows, that differs between
    tensors, and between the rows of a block: numbers would move from lane to lane in every step. Hidden, all rows are
    laid out alike. The parts of a COMPLEX number stay neighbours.

    It costs nothing in the loop: the factor `one` is 1, which later compilers see, as pid is not negative.
    """
    if not ALIGNED:
        one = (1 - tl.minimum(pid, 0)).to(tl.int64)
        if COMPLEX:
            d = d // 2 * (2 * one) + d % 2
        else:
            d = d * one
    return d


@triton.jit
def load_rows(ptr, stride, mask, ROWS: tl.constexpr, MASKED: tl.constexpr):
    """The ROWS rows at `ptr`, `ptr + stride`, ...: a tuple of row vectors in the dtype of the tensor."""
    rows = ()
    for j in tl.static_range(ROWS):
        rows = rows + (load_row(ptr + j * stride, mask, MASKED=MASKED),)
    return rows


@triton.jit
def store_row(ptr, value, mask, MASKED: tl.constexpr):
    """Write one row of channels, rounded to the dtype of the tensor."""
    if MASKED:
        tl.store(ptr, value.to(ptr.dtype.element_ty), mask=mask)
    else:
        tl.store(ptr, value.to(ptr.dtype.element_ty))


@triton.jit
def live_row(d, D, j, rest):
    """Mask of row j of a partial block: channels d < D if j < rest, otherwise none."""
    return d < tl.where(rest > j, D, 0)


@triton.jit
def load_last_rows(ptr, stride, d, D, rest, ROWS: tl.constexpr):
    """As `load_rows`; rows from `rest` on hold 0 and are to be skipped.

    For `rest = n % m`, ROWS must be m - 1 at most. Row m - 1 is never live, which Triton 3.9 proves for AMD: it folds
    the mask to a constant, and then reads freed memory (TritonAMDFoldTrueCmpI).
    """
    rows = ()
    for j in tl.static_range(ROWS):
        rows = rows + (tl.load(ptr + j * stride, mask=live_row(d, D, j, rest), other=0.0),)
    return rows


@triton.jit
def chunk_rows(starts_ptr, sequence, num_sequences, T, begin, end, chunk, chunk_length, REVERSE: tl.constexpr):
    """`(entry, skipped, n, batch)` of a chunk: the row it starts on, steps before it, its steps, its batch index.

    Steps are counted along the recurrence: REVERSE, step 0 is on the last row. Chunks tile the steps [begin, end).

    A sequence is a batch entry of T rows. With `starts_ptr`, it is the rows from one start index to the next, of the
    only batch entry. The host cannot check start indices without waiting for the device. So indices outside [0, T] or
    out of order make shorter sequences here, and never an address outside the tensor.
    """
    low = tl.full((), 0, tl.int64)
    high = low + T
    batch = sequence.to(tl.int64)
    if starts_ptr is not None:
        batch = low
        low = tl.minimum(tl.maximum(tl.load(starts_ptr + sequence).to(tl.int64), 0), T)
        if sequence + 1 < num_sequences:
            high = tl.minimum(tl.load(starts_ptr + sequence + 1).to(tl.int64), T)
        high = tl.maximum(high, low)
    end = tl.minimum(high - low, end)
    skipped = tl.minimum(begin + chunk * chunk_length, end)
    n = tl.minimum(end - skipped, chunk_length).to(tl.int32)
    if REVERSE:
        entry = high - 1 - skipped
    else:
        entry = low + skipped
    return entry, skipped, n, batch

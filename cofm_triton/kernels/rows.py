"""Rows in flight: the pieces that every scan along time is built from.

A program walks the time axis in blocks of ROWS rows. Loads are written long before their rows are used, all of a block
before its first row or each a block ahead: a store through one pointer may alias a load through another for all the
compiler knows, so that it moves no load up past a store, and a chain along time is bound by exactly that latency.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_row(ptr, mask, MASKED: tl.constexpr):
    """One row of channels; masked lanes hold 0, and nothing computed in them is ever stored."""
    if MASKED:
        row = tl.load(ptr, mask=mask, other=0.0)
    else:
        row = tl.load(ptr)
    return row


@triton.jit
def across_lanes(d, pid, ALIGNED: tl.constexpr, COMPLEX: tl.constexpr):
    """The channels d as offsets in rows. Unless all rows are ALIGNED, in a form that does not show what lies next to
    what, but for the two parts of a complex number.

    Triton lays a row across the lanes by how many of its numbers a lane can move at once. That differs between tensors
    and, with T a multiple of 16, between the rows of a block, where some are aligned and others are not: numbers would
    move from lane to lane in every step. All rows are laid out in one way if none of them shows how it is aligned.
    It costs nothing in the loop: compilers know that pid, the number of a program, is not negative, Triton does not.
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
        rows = rows + (load_row(ptr + j * stride, mask, MASKED),)
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
    """Mask of row j of a partial block: the channels d < D if j < rest, otherwise none."""
    return d < tl.where(rest > j, D, 0)


@triton.jit
def load_last_rows(ptr, stride, d, D, rest, ROWS: tl.constexpr):
    """The `rest` <= ROWS rows that are left, still all in flight together; the others hold 0 and are to be skipped.

    `rest = n % m` takes ROWS = m - 1: Triton 3.9 proves for AMD that row m - 1 is never live, folds its mask to a
    constant, and looks that up among what it knew of values since freed (in TritonAMDFoldTrueCmpI; it may assert).
    """
    rows = ()
    for j in tl.static_range(ROWS):
        rows = rows + (tl.load(ptr + j * stride, mask=live_row(d, D, j, rest), other=0.0),)
    return rows


@triton.jit
def load_gates(
    ptr, stride, mask, ROWS: tl.constexpr, MASKED: tl.constexpr, SHARED: tl.constexpr, COMPLEX: tl.constexpr
):  # fmt: skip
    """As `load_rows`; SHARED, `ptr` points to one number, the gate of all channels, and the tuple holds numbers, of
    COMPLEX ones both parts.
    """
    gates = ()
    if SHARED and COMPLEX:
        for j in tl.static_range(ROWS):
            gates = gates + ((tl.load(ptr + j * stride), tl.load(ptr + j * stride + 1)),)
    else:
        gates = load_rows(ptr, stride, mask, ROWS, MASKED and not SHARED)
    return gates


@triton.jit
def load_last_gates(ptr, stride, d, D, rest, ROWS: tl.constexpr, SHARED: tl.constexpr, COMPLEX: tl.constexpr):
    """As `load_last_rows`, of `load_gates`."""
    gates = ()
    if SHARED and COMPLEX:
        for j in tl.static_range(ROWS):
            real = tl.load(ptr + j * stride, mask=rest > j, other=0.0)
            gates = gates + ((real, tl.load(ptr + j * stride + 1, mask=rest > j, other=0.0)),)
    elif SHARED:
        for j in tl.static_range(ROWS):
            gates = gates + (tl.load(ptr + j * stride, mask=rest > j, other=0.0),)
    else:
        gates = load_last_rows(ptr, stride, d, D, rest, ROWS)
    return gates


@triton.jit
def gate_row(gate, row, SHARED: tl.constexpr, COMPLEX: tl.constexpr):
    """A loaded gate for every channel of a row, in the row's dtype."""
    if SHARED and COMPLEX:
        real, imaginary = gate
        half: tl.constexpr = row.shape[0] // 2
        result = tl.interleave(tl.full((half,), real, row.dtype), tl.full((half,), imaginary, row.dtype))
    elif SHARED:
        result = tl.full(row.shape, gate.to(row.dtype), row.dtype)
    else:
        result = gate.to(row.dtype)
    return result


@triton.jit
def chunk_rows(
    starts_ptr, sequence, num_sequences, T, begin, end, chunk, chunk_length,
    PACKED: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """`(entry, skipped, n, batch)` of a chunk: the row it starts on, steps before it, its steps, its batch index.

    Steps are counted along the recurrence, so that REVERSE runs step 0 on the last row; chunks tile the steps
    [begin, end). A sequence is a batch entry of T rows, or, PACKED, the rows between two start indices of the only
    batch entry. Start indices outside [0, T] or out of order give shorter sequences, never an index outside the
    tensor: their values live on the device, where the caller cannot check them without waiting for it.
    """
    low = tl.full((), 0, tl.int64)
    high = low + T
    batch = sequence.to(tl.int64)
    if PACKED:
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

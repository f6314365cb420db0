"""Linear scan, forward rows: `h[t] = decay[t] * h[t-1] + x[t]`.

Indices: b batch, s sequence, t time, d channel; x and h are (B, T, D). The decay is (D,) and stays in registers, or,
GATED, (B, T, D); SHARED, one number per step for all channels. COMPLEX, channels (2k, 2k + 1) are the parts of one
number. The state is in STATE: float32, for float64 input float64. Masked lanes hold 0 and are not stored.

A program owns BLOCK_D channels of one chunk of one sequence and walks it tile by tile, see `linear_scan_tile.py`. Whole
sequences are one chunk. Chunk 0 starts from `start`; a later one folds the summaries of those before it. With resets,
a step where they are True goes on from `start`, FROM_START, or from 0.

Traffic in elements per element: 2 (read x, write h); GATED 3.
Source: arXiv 2305.19190, Eq. (1) for linear sigma; defined in `reference/linear_scan.py`.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from cofm_triton.kernels.interleaved import in_pairs, multiply_add
from cofm_triton.kernels.launch import FOLD_ROWS, Tiles, forward_rows, has_shared_gates, state_type
from cofm_triton.kernels.launches import launch
from cofm_triton.kernels.linear_scan_tile import (
    exchange,
    fold_summaries,
    gate_row,
    is_reset,
    load_gates,
    load_resets,
    load_tile,
    reset_bits,
    segment_rows,
    store_tile_row,
    walk_segments,
)
from cofm_triton.kernels.rows import across_lanes, chunk_rows, load_row


@triton.jit
def forward_tile(
    state, decay, anew, x_row, x_step, a_row, a_step, reset, h_row, h_step, mask, segment, rest,
    LAST: tl.constexpr, ROWS: tl.constexpr, GATED: tl.constexpr, SHARED: tl.constexpr, CUT: tl.constexpr,
    RESET_STEP: tl.constexpr, COMPLEX: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """The state after a tile, whose rows are written; LAST, after `rest` rows."""
    SEGMENTS: tl.constexpr = state.shape[0]
    first, count = segment * ROWS, segment
    if LAST:
        first, count = segment_rows(segment, rest, SEGMENTS=SEGMENTS)
    limit = tl.where(mask, count, 0) if MASKED else count
    first = first.to(tl.int64)
    # Load
    WIDTH: tl.constexpr = state.shape[1] // (2 if COMPLEX else 1) if SEGMENTS > 1 else 32
    bits = ()
    if CUT:
        bits = load_resets(reset + first * RESET_STEP, count, STEP=RESET_STEP, ROWS=ROWS, WIDTH=WIDTH, LAST=LAST)
    xs = load_tile(x_row + first * x_step, x_step, mask, limit, ROWS=ROWS, LAST=LAST, MASKED=MASKED)
    gates = ()
    if GATED:
        gates = load_gates(
            a_row + first * a_step, a_step, mask, limit, count,
            ROWS=ROWS, LAST=LAST, MASKED=MASKED, SHARED=SHARED, COMPLEX=COMPLEX,
        )  # fmt: skip
    # Compute: the state before every segment
    if CUT:
        bits = reset_bits(bits, ROWS=ROWS, WIDTH=WIDTH)
    h = state
    if SEGMENTS > 1:
        ends, products = walk_segments(
            decay, xs, gates, bits, anew, limit, state,
            LAST=LAST, ROWS=ROWS, GATED=GATED, SHARED=SHARED, CUT=CUT, ADJOINT=False, COMPLEX=COMPLEX,
        )  # fmt: skip
        h, state, _ = exchange(state, ends, products, segment, COMPLEX=COMPLEX, CUT=CUT)
    # Compute and store, row by row
    h_row += first * h_step
    for j in tl.static_range(ROWS):
        if GATED:
            decay = gate_row(gates, j, h, SHARED=SHARED, COMPLEX=COMPLEX)
        if CUT:
            h = tl.where(is_reset(bits, j), anew, h)
        after = multiply_add(decay, h, xs[j].to(h.dtype), COMPLEX=COMPLEX)
        h = tl.where(limit > j, after, h) if LAST else after
        store_tile_row(h_row + j * h_step, h, mask, limit, j, LAST=LAST, MASKED=MASKED)
    return h if SEGMENTS == 1 else state


# Kernels are not compiled anew for a single block of channels: knowing that there is one, Triton keeps the distance of
# every row in flight in scalar registers, of which gfx942 has too few.
@triton.jit(do_not_specialize=["num_blocks"])
def linear_scan_forward_kernel(
    x_ptr,  # (B, T, D)
    decay_ptr,  # (D,); GATED (B, T, D); SHARED (B, T, 1)
    start_ptr,  # (S, D), state before step 0, contiguous; None: 0
    ends_ptr,  # (S, num_chunks - 1, D), E of all chunks but the last; None: there is one chunk
    products_ptr,  # GATED, or with resets, like ends: A
    resets_ptr,  # (B, T), contiguous, bool; None: nothing resets
    starts_ptr,  # (S,), first rows of packed sequences; None: S = B sequences of T rows
    h_ptr,  # out: (B, T, D), contiguous
    last_ptr,  # out: (S, D), state after step T - 1
    T: tl.int64, D: tl.int64, num_blocks, num_chunks, num_sequences, chunk_length: tl.int64,
    stride_xb: tl.int64, stride_xt: tl.int64, stride_xd,
    stride_ab: tl.int64, stride_at: tl.int64, stride_ad,
    GATED: tl.constexpr, SHARED: tl.constexpr, COMPLEX: tl.constexpr, REVERSE: tl.constexpr, FROM_START: tl.constexpr,
    ALIGNED: tl.constexpr, MASKED: tl.constexpr, STATE: tl.constexpr,
    BLOCK_D: tl.constexpr, SEGMENTS: tl.constexpr, ROWS: tl.constexpr, SHORT: tl.constexpr, FOLD: tl.constexpr,
):  # fmt: skip
    """Rows of all steps, and the state after them."""
    if COMPLEX:
        D, stride_xb, stride_xt = in_pairs(D), in_pairs(stride_xb), in_pairs(stride_xt)
        stride_ab, stride_at = in_pairs(stride_ab), in_pairs(stride_at)
    TILE: tl.constexpr = SEGMENTS * ROWS
    CUT: tl.constexpr = resets_ptr is not None
    pid = tl.program_id(0)
    chunk = (pid // num_blocks) % num_chunks
    sequence = pid // num_blocks // num_chunks
    segment = tl.arange(0, SEGMENTS)[:, None]
    d = ((pid % num_blocks).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D))[None, :]
    mask = d < D
    c = across_lanes(d, pid, ALIGNED=ALIGNED, COMPLEX=COMPLEX)
    entry, _skipped, n, batch = chunk_rows(
        starts_ptr, sequence, num_sequences, T, 0, T, chunk, chunk_length, REVERSE=REVERSE
    )
    SIGN: tl.constexpr = -1 if REVERSE else 1
    x_step = SIGN * stride_xt
    a_step = SIGN * stride_at
    h_step = SIGN * D
    x_row = x_ptr + batch * stride_xb + entry * stride_xt + c * stride_xd
    h_row = h_ptr + (batch * T + entry) * D + c
    reset = resets_ptr + (batch * T + entry) if CUT else 0
    a_row = decay_ptr + c
    if GATED:
        a_row = decay_ptr + batch * stride_ab + entry * stride_at
        if not SHARED:
            a_row += c * stride_ad

    # Load: the decay, and the state that the chunk starts from
    state = tl.zeros((SEGMENTS, BLOCK_D), STATE)
    decay, anew = state, state
    if not GATED:
        decay += load_row(a_row, mask, MASKED=MASKED).to(STATE)
    if CUT and FROM_START:
        anew += load_row(start_ptr + sequence.to(tl.int64) * D + c, mask, MASKED=MASKED).to(STATE)
    if start_ptr is not None:
        if chunk == 0:
            state += load_row(start_ptr + sequence.to(tl.int64) * D + c, mask, MASKED=MASKED).to(STATE)
    if ends_ptr is not None:
        if chunk > 0:
            first_end = sequence.to(tl.int64) * (num_chunks - 1) * D + c
            state = fold_summaries(
                ends_ptr + first_end, products_ptr + first_end if GATED or CUT else ends_ptr, D, decay, chunk_length,
                mask, segment, chunk, GATED=GATED, CUT=CUT, COMPLEX=COMPLEX, MASKED=MASKED, FOLD=FOLD,
            )  # fmt: skip

    for _ in range(n // TILE):
        state = forward_tile(
            state, decay, anew, x_row, x_step, a_row, a_step, reset, h_row, h_step, mask, segment, ROWS,
            LAST=False, ROWS=ROWS, GATED=GATED, SHARED=SHARED, CUT=CUT, RESET_STEP=SIGN, COMPLEX=COMPLEX,
            MASKED=MASKED,
        )  # fmt: skip
        x_row += TILE * x_step
        h_row += TILE * h_step
        if GATED:
            a_row += TILE * a_step
        if CUT:
            reset += TILE * SIGN
    rest = n % TILE
    for _ in range(tl.cdiv(rest, SEGMENTS * SHORT)):
        state = forward_tile(
            state, decay, anew, x_row, x_step, a_row, a_step, reset, h_row, h_step, mask, segment,
            tl.minimum(rest, SEGMENTS * SHORT),
            LAST=True, ROWS=SHORT, GATED=GATED, SHARED=SHARED, CUT=CUT, RESET_STEP=SIGN, COMPLEX=COMPLEX,
            MASKED=MASKED,
        )  # fmt: skip
        x_row += SEGMENTS * SHORT * x_step
        h_row += SEGMENTS * SHORT * h_step
        if GATED:
            a_row += SEGMENTS * SHORT * a_step
        if CUT:
            reset += SEGMENTS * SHORT * SIGN
        rest -= SEGMENTS * SHORT

    # Store
    if chunk == num_chunks - 1:
        last_row = last_ptr + sequence.to(tl.int64) * D + c + tl.zeros((SEGMENTS, 1), tl.int32)
        tl.store(last_row, state, mask=mask & (segment == 0))


def launch_forward(
    x: Any, decay: Any, start: Any, ends: Any, products: Any, resets: Any, seq_starts: Any, h: Any, last: Any, *,
    tiles: Tiles, reverse: bool, from_start: bool, is_complex: bool, aligned: bool,
) -> None:  # fmt: skip
    """Rows of all steps, one program per block of channels, chunk and sequence; arguments as the kernel's."""
    num_sequences = last.shape[0]
    gated, shared = decay.ndim == 3, has_shared_gates(decay, x)
    rows = forward_rows(
        tiles, gates=gated + (shared and is_complex), is_complex=is_complex, with_resets=resets is not None
    )
    launch(linear_scan_forward_kernel, (tiles.num_blocks * tiles.num_chunks * num_sequences,))(
        x, decay, start, ends, products, resets, seq_starts, h, last,
        x.shape[1], x.shape[2], tiles.num_blocks, tiles.num_chunks, num_sequences, tiles.chunk_length,
        *x.stride(),
        *(decay.stride() if gated else (0, 0, 0)),
        GATED=gated, SHARED=shared, COMPLEX=is_complex, REVERSE=reverse, FROM_START=from_start,
        ALIGNED=aligned, MASKED=tiles.masked, STATE=state_type(last), BLOCK_D=tiles.block_d, SEGMENTS=tiles.segments,
        FOLD=FOLD_ROWS, num_warps=tiles.num_warps, **rows,
    )  # fmt: skip

"""Summaries of the chunks of a scan whose time is split: the state after each chunk from a zero start.

    forward    h[t] = decay[t] * h[t-1] + x[t],                    E[c] = h after chunk c's last step
    adjoint    mu[t-1] = conj(decay[t]) * (g[t] + mu[t]),          E[c] = mu before chunk c's first step

and, GATED or with resets, A[c], the product of the chunk's decays, ADJOINT of their conjugates; 0 if one resets.
Indices, layouts, the state's dtype and programs as in `linear_scan_forward.py`; x stands for g if ADJOINT.
`linear_scan_tile.fold_summaries` makes a chunk's state of them.

Forward, the last chunk needs no summary, and chunk 0 starts from `start`. ADJOINT, the first chunk needs none, and the
last starts from the adjoint of the state after it.

Traffic in elements per element: 1 (read x), which the kernel of the rows reads again; GATED 2.
Source: the first phase of a scan in chunks, see `linear_scan_tile.py`.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from cofm_triton.kernels.interleaved import in_pairs, one
from cofm_triton.kernels.launch import Tiles, forward_rows, has_shared_gates, state_type
from cofm_triton.kernels.launches import launch
from cofm_triton.kernels.linear_scan_tile import (
    exchange,
    load_gates,
    load_resets,
    load_tile,
    next_product,
    reset_bits,
    segment_rows,
    walk_segments,
)
from cofm_triton.kernels.rows import across_lanes, chunk_rows, load_row


@triton.jit
def summary_tile(
    state, product, decay, anew, x_row, x_step, a_row, a_step, reset, mask, segment, rest,
    LAST: tl.constexpr, ROWS: tl.constexpr, GATED: tl.constexpr, SHARED: tl.constexpr, CUT: tl.constexpr,
    RESET_STEP: tl.constexpr, ADJOINT: tl.constexpr, COMPLEX: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """`(state, product)` after a tile; LAST, after `rest` rows."""
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
    # Compute
    if CUT:
        bits = reset_bits(bits, ROWS=ROWS, WIDTH=WIDTH)
    ends, products = walk_segments(
        decay, xs, gates, bits, anew, limit, state,
        LAST=LAST, ROWS=ROWS, GATED=GATED, SHARED=SHARED, CUT=CUT, ADJOINT=ADJOINT, COMPLEX=COMPLEX,
    )  # fmt: skip
    _, state, products = exchange(state, ends, products, segment, COMPLEX=COMPLEX, CUT=CUT)
    return state, next_product(product, products, COMPLEX=COMPLEX, CUT=CUT)


@triton.jit(do_not_specialize=["num_blocks"])  # see `linear_scan_forward.py`
def linear_scan_summary_kernel(
    x_ptr,  # (B, T, D)
    decay_ptr,  # (D,); GATED (B, T, D); SHARED (B, T, 1)
    start_ptr,  # (S, D), contiguous, state that the walk of a sequence starts from; None: 0
    resets_ptr,  # (B, T), contiguous, bool; None: nothing resets
    ends_ptr,  # out: (S, num_summaries, D), E
    products_ptr,  # out if GATED, or with resets: (S, num_summaries, D), A
    T: tl.int64, D: tl.int64, num_blocks, num_summaries, num_sequences, chunk_length: tl.int64,
    stride_xb: tl.int64, stride_xt: tl.int64, stride_xd,
    stride_ab: tl.int64, stride_at: tl.int64, stride_ad,
    GATED: tl.constexpr, SHARED: tl.constexpr, COMPLEX: tl.constexpr, REVERSE: tl.constexpr, ADJOINT: tl.constexpr,
    FROM_START: tl.constexpr, ALIGNED: tl.constexpr, MASKED: tl.constexpr, STATE: tl.constexpr,
    BLOCK_D: tl.constexpr, SEGMENTS: tl.constexpr, ROWS: tl.constexpr, SHORT: tl.constexpr,
):  # fmt: skip
    """Summaries of all chunks but the last, or, ADJOINT, but the first."""
    if COMPLEX:
        D, stride_xb, stride_xt = in_pairs(D), in_pairs(stride_xb), in_pairs(stride_xt)
        stride_ab, stride_at = in_pairs(stride_ab), in_pairs(stride_at)
    TILE: tl.constexpr = SEGMENTS * ROWS
    CUT: tl.constexpr = resets_ptr is not None
    pid = tl.program_id(0)
    summary = (pid // num_blocks) % num_summaries
    chunk = summary + 1 if ADJOINT else summary
    first_chunk = num_summaries if ADJOINT else 0  # of the walk
    sequence = pid // num_blocks // num_summaries
    segment = tl.arange(0, SEGMENTS)[:, None]
    d = ((pid % num_blocks).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D))[None, :]
    mask = d < D
    c = across_lanes(d, pid, ALIGNED=ALIGNED, COMPLEX=COMPLEX)
    row, _skipped, n, batch = chunk_rows(None, sequence, num_sequences, T, 0, T, chunk, chunk_length, REVERSE=REVERSE)
    SIGN: tl.constexpr = -1 if REVERSE else 1
    WALK: tl.constexpr = -SIGN if ADJOINT else SIGN
    if ADJOINT:
        row += SIGN * (n - 1)
    x_step = WALK * stride_xt
    a_step = WALK * stride_at
    x_row = x_ptr + batch * stride_xb + row * stride_xt + c * stride_xd
    reset = resets_ptr + (batch * T + row) if CUT else 0
    a_row = decay_ptr + c
    if GATED:
        a_row = decay_ptr + batch * stride_ab + row * stride_at
        if not SHARED:
            a_row += c * stride_ad

    # Load: the decay, and the state that the first chunk starts from
    state = tl.zeros((SEGMENTS, BLOCK_D), STATE)
    product = one((SEGMENTS, BLOCK_D), DTYPE=STATE, COMPLEX=COMPLEX)
    decay, anew = state, state
    if not GATED:
        decay += load_row(a_row, mask, MASKED=MASKED).to(STATE)
    if CUT and FROM_START and not ADJOINT:
        anew += load_row(start_ptr + sequence.to(tl.int64) * D + c, mask, MASKED=MASKED).to(STATE)
    if start_ptr is not None:
        if chunk == first_chunk:
            state += load_row(start_ptr + sequence.to(tl.int64) * D + c, mask, MASKED=MASKED).to(STATE)

    for _ in range(n // TILE):
        state, product = summary_tile(
            state, product, decay, anew, x_row, x_step, a_row, a_step, reset, mask, segment, TILE,
            LAST=False, ROWS=ROWS, GATED=GATED, SHARED=SHARED, CUT=CUT, RESET_STEP=WALK, ADJOINT=ADJOINT,
            COMPLEX=COMPLEX, MASKED=MASKED,
        )  # fmt: skip
        x_row += TILE * x_step
        if GATED:
            a_row += TILE * a_step
        if CUT:
            reset += TILE * WALK
    rest = n % TILE
    for _ in range(tl.cdiv(rest, SEGMENTS * SHORT)):
        state, product = summary_tile(
            state, product, decay, anew, x_row, x_step, a_row, a_step, reset, mask, segment,
            tl.minimum(rest, SEGMENTS * SHORT),
            LAST=True, ROWS=SHORT, GATED=GATED, SHARED=SHARED, CUT=CUT, RESET_STEP=WALK, ADJOINT=ADJOINT,
            COMPLEX=COMPLEX, MASKED=MASKED,
        )  # fmt: skip
        x_row += SEGMENTS * SHORT * x_step
        if GATED:
            a_row += SEGMENTS * SHORT * a_step
        if CUT:
            reset += SEGMENTS * SHORT * WALK
        rest -= SEGMENTS * SHORT

    # Store
    place = (sequence.to(tl.int64) * num_summaries + summary) * D + c + tl.zeros((SEGMENTS, 1), tl.int32)
    tl.store(ends_ptr + place, state, mask=mask & (segment == 0))
    if GATED or CUT:
        tl.store(products_ptr + place, product, mask=mask & (segment == 0))


def launch_summary(
    x: Any, decay: Any, start: Any, resets: Any, ends: Any, products: Any, *,
    tiles: Tiles, reverse: bool, from_start: bool, is_complex: bool, aligned: bool, adjoint: bool,
) -> None:  # fmt: skip
    """Summaries, one program per block of channels, chunk and sequence; arguments as the kernel's."""
    num_sequences, num_summaries = ends.shape[:2]
    gated, shared = decay.ndim == 3, has_shared_gates(decay, x)
    rows = forward_rows(
        tiles, gates=gated + (shared and is_complex), is_complex=is_complex, with_resets=resets is not None
    )
    launch(linear_scan_summary_kernel, (tiles.num_blocks * num_summaries * num_sequences,))(
        x, decay, start, resets, ends, products,
        x.shape[1], x.shape[2], tiles.num_blocks, num_summaries, num_sequences, tiles.chunk_length,
        *x.stride(),
        *(decay.stride() if gated else (0, 0, 0)),
        GATED=gated, SHARED=shared, COMPLEX=is_complex, REVERSE=reverse, ADJOINT=adjoint, FROM_START=from_start,
        ALIGNED=aligned, MASKED=tiles.masked, STATE=state_type(ends), BLOCK_D=tiles.block_d, SEGMENTS=tiles.segments,
        num_warps=tiles.num_warps, **rows,
    )  # fmt: skip

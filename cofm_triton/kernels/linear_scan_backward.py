"""Linear scan, backward rows: the adjoint of `h[t] = decay[t] * h[t-1] + x[t]`.

With g = dL/dh, and mu the adjoint arriving from later steps (mu = dL/dh_last after the last):

    lambda[t] = g[t] + mu[t],      dx[t] = lambda[t],   ddecay[t] = conj(h[t-1]) * lambda[t]
    mu[t-1] = conj(decay[t]) * lambda[t],               dh0 = mu[-1]

Indices, layouts, the state's dtype, masked lanes and programs as in `linear_scan_forward.py`; rows are walked from the
last to the first. The last chunk starts from `grad_end`; an earlier one folds the summaries of those behind it.

With resets, nothing arrives before a step where they are True, and its h[t-1] is h0, FROM_START, or 0. FROM_START, the
adjoint that would have arrived is summed, since it is h0's.

A decay per channel has a gradient that is summed over the chunk in registers and leaves as one row per program. The
caller adds the rows up in a fixed order: no atomics, bitwise reproducible.

Traffic in elements per element: 3 (read g and h, write dx); GATED 5; SHARED 4.
Source: adjoint of arXiv 2305.19190, Eq. (1) for linear sigma; defined in `reference/linear_scan.py`.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from cofm_triton.kernels.interleaved import (
    add_products,
    conjugate,
    in_pairs,
    multiply_conj,
    multiply_conj_add,
    sum_conj,
)
from cofm_triton.kernels.launch import FOLD_ROWS, Tiles, backward_rows, has_shared_gates, state_type
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
from cofm_triton.kernels.rows import across_lanes, chunk_rows, load_row, store_row


@triton.jit
def backward_tile(
    state, grad_decay, grad_start, decay, h0, anew, g_row, g_step, before_row, a_row, a_step, reset, dx_row,
    da_row, h_step, mask, segment, rest, with_before,
    LAST: tl.constexpr, ROWS: tl.constexpr, GATED: tl.constexpr, SHARED: tl.constexpr, CUT: tl.constexpr,
    RESET_STEP: tl.constexpr, FROM_START: tl.constexpr, COMPLEX: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """`(mu, grad_decay, grad_start)` before a tile, whose rows are written; LAST, before `rest` rows.

    Rows from `with_before` on have no row before them: their h[t-1] is h0.
    """
    SEGMENTS: tl.constexpr = state.shape[0]
    first, count = segment * ROWS, segment
    if LAST:
        first, count = segment_rows(segment, rest, SEGMENTS=SEGMENTS)
    with_before = tl.minimum(with_before - first, count)  # of each segment
    limit = tl.where(mask, count, 0) if MASKED else count
    limit_before = tl.where(mask, with_before, 0) if MASKED else with_before
    first = first.to(tl.int64)
    # Load
    WIDTH: tl.constexpr = state.shape[1] // (2 if COMPLEX else 1) if SEGMENTS > 1 else 32
    bits = ()
    if CUT:
        bits = load_resets(reset + first * RESET_STEP, count, STEP=RESET_STEP, ROWS=ROWS, WIDTH=WIDTH, LAST=LAST)
    gs = load_tile(g_row + first * g_step, g_step, mask, limit, ROWS=ROWS, LAST=LAST, MASKED=MASKED)
    hs = load_tile(before_row + first * h_step, h_step, mask, limit_before, ROWS=ROWS, LAST=LAST, MASKED=MASKED)
    gates = ()
    if GATED:
        gates = load_gates(
            a_row + first * a_step, a_step, mask, limit, count,
            ROWS=ROWS, LAST=LAST, MASKED=MASKED, SHARED=SHARED, COMPLEX=COMPLEX,
        )  # fmt: skip
    # Compute: the state before every segment
    if CUT:
        bits = reset_bits(bits, ROWS=ROWS, WIDTH=WIDTH)
    mu = state
    if SEGMENTS > 1:
        ends, products = walk_segments(
            decay, gs, gates, bits, anew, limit, state,
            LAST=LAST, ROWS=ROWS, GATED=GATED, SHARED=SHARED, CUT=CUT, ADJOINT=True, COMPLEX=COMPLEX,
        )  # fmt: skip
        mu, state, _ = exchange(state, ends, products, segment, COMPLEX=COMPLEX, CUT=CUT)
    # Compute and store, row by row
    dx_row += first * h_step
    da_row += first * h_step
    FUSED: tl.constexpr = COMPLEX and not (LAST or CUT)  # g + mu in one: nothing stops mu between rows
    adjoint = mu
    for j in tl.static_range(ROWS):
        if FUSED and j > 0:
            adjoint = multiply_conj_add(decay, adjoint, gs[j].to(mu.dtype))  # decay of row j - 1
        else:
            adjoint = gs[j].to(mu.dtype) + mu
        if GATED:
            decay = gate_row(gates, j, mu, SHARED=SHARED, COMPLEX=COMPLEX)
        if not FUSED or j == ROWS - 1:
            after = multiply_conj(decay, adjoint, COMPLEX=COMPLEX)
        before = hs[j].to(mu.dtype)
        if LAST:
            before = tl.where(with_before > j, before, h0)
        if CUT:
            if FROM_START:
                grad_start += tl.where(is_reset(bits, j), after, 0.0)
            before = tl.where(is_reset(bits, j), anew, before)
            after = tl.where(is_reset(bits, j), 0.0, after)
        if LAST:
            after = tl.where(limit > j, after, mu)
        if not FUSED or j == ROWS - 1:
            mu = after
        store_tile_row(dx_row + j * h_step, adjoint, mask, limit, j, LAST=LAST, MASKED=MASKED)
        if GATED:
            by_decay = multiply_conj(before, adjoint, COMPLEX=COMPLEX)
            store_tile_row(da_row + j * h_step, by_decay, mask, limit, j, LAST=LAST, MASKED=MASKED)
        else:
            sums = add_products(grad_decay, before, adjoint, COMPLEX=COMPLEX)
            if LAST:
                alike = tl.where(limit > j, sums[0], grad_decay[0])
                sums = alike, tl.where(limit > j, sums[1], grad_decay[1])
            grad_decay = sums
    return mu if SEGMENTS == 1 else state, grad_decay, grad_start


@triton.jit(do_not_specialize=["num_blocks"])  # see `linear_scan_forward.py`
def linear_scan_backward_kernel(
    grad_h_ptr,  # (B, T, D), g
    h_ptr,  # (B, T, D), contiguous
    decay_ptr,  # (D,); GATED (B, T, D); SHARED (B, T, 1)
    h0_ptr,  # (S, D), contiguous, state before step 0; None: 0
    grad_end_ptr,  # (S, D), contiguous, mu after step T - 1; None: 0
    ends_ptr,  # (S, num_chunks - 1, D), E of all chunks but the first; None: there is one chunk
    products_ptr,  # GATED, or with resets, like ends: A, of conjugate decays
    resets_ptr,  # (B, T), contiguous, bool; None: nothing resets
    starts_ptr,  # (S,), first rows of packed sequences; None: S = B sequences of T rows
    grad_x_ptr,  # out: (B, T, D), contiguous
    grad_decay_ptr,  # out: (S, num_chunks, D), sums over a chunk; GATED (B, T, D), contiguous
    grad_start_ptr,  # out: (S, D), mu before step 0; FROM_START (S, num_chunks, D), sums over a chunk
    T: tl.int64, D: tl.int64, num_blocks, num_chunks, num_sequences, chunk_length: tl.int64,
    stride_gb: tl.int64, stride_gt: tl.int64, stride_gd,
    stride_ab: tl.int64, stride_at: tl.int64, stride_ad,
    GATED: tl.constexpr, SHARED: tl.constexpr, COMPLEX: tl.constexpr, REVERSE: tl.constexpr, FROM_START: tl.constexpr,
    ALIGNED: tl.constexpr, MASKED: tl.constexpr, STATE: tl.constexpr,
    BLOCK_D: tl.constexpr, SEGMENTS: tl.constexpr, ROWS: tl.constexpr, SHORT: tl.constexpr, FOLD: tl.constexpr,
):  # fmt: skip
    """Gradients of all steps, and the adjoint of the state before them."""
    if COMPLEX:
        D, stride_gb, stride_gt = in_pairs(D), in_pairs(stride_gb), in_pairs(stride_gt)
        stride_ab, stride_at = in_pairs(stride_ab), in_pairs(stride_at)
    TILE: tl.constexpr = SEGMENTS * ROWS
    CUT: tl.constexpr = resets_ptr is not None
    pid = tl.program_id(0)
    chunk = (pid // num_blocks) % num_chunks
    later_chunks = num_chunks - 1 - chunk
    sequence = pid // num_blocks // num_chunks
    segment = tl.arange(0, SEGMENTS)[:, None]
    d = ((pid % num_blocks).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D))[None, :]
    mask = d < D
    c = across_lanes(d, pid, ALIGNED=ALIGNED, COMPLEX=COMPLEX)
    entry, skipped, n, batch = chunk_rows(
        starts_ptr, sequence, num_sequences, T, 0, T, chunk, chunk_length, REVERSE=REVERSE
    )
    SIGN: tl.constexpr = -1 if REVERSE else 1
    # The walk is against the recurrence: from the chunk's last row down to its first.
    last = entry + SIGN * (n - 1)
    g_step = -SIGN * stride_gt
    a_step = -SIGN * stride_at
    h_step = -SIGN * D
    g_row = grad_h_ptr + batch * stride_gb + last * stride_gt + c * stride_gd
    dense_row = (batch * T + last) * D + c
    dx_row = grad_x_ptr + dense_row
    before_row = h_ptr + dense_row + h_step
    da_row = grad_decay_ptr + dense_row
    reset = resets_ptr + (batch * T + last) if CUT else 0
    a_row = decay_ptr + c
    if GATED:
        a_row = decay_ptr + batch * stride_ab + last * stride_at
        if not SHARED:
            a_row += c * stride_ad

    # Load: the decay, and the adjoint that the chunk starts from
    state = tl.zeros((SEGMENTS, BLOCK_D), STATE)
    decay, grad_decay, grad_start, h0, anew = state, (state, state), state, state, state
    if not GATED:
        decay += load_row(a_row, mask, MASKED=MASKED).to(STATE)
    if CUT and FROM_START:
        anew += load_row(h0_ptr + sequence.to(tl.int64) * D + c, mask, MASKED=MASKED).to(STATE)
    if grad_end_ptr is not None:
        if later_chunks == 0:
            state += load_row(grad_end_ptr + sequence.to(tl.int64) * D + c, mask, MASKED=MASKED).to(STATE)
    if ends_ptr is not None:
        if later_chunks > 0:
            last_end = ((sequence + 1).to(tl.int64) * (num_chunks - 1) - 1) * D + c
            state = fold_summaries(
                ends_ptr + last_end, products_ptr + last_end if GATED or CUT else ends_ptr, -D,
                conjugate(decay, COMPLEX=COMPLEX), chunk_length, mask, segment, later_chunks,
                GATED=GATED, CUT=CUT, COMPLEX=COMPLEX, MASKED=MASKED, FOLD=FOLD,
            )  # fmt: skip

    # The first row of a sequence has no row before it: its h[t-1] is h0. It belongs to the last tile.
    whole = n // TILE
    if skipped == 0:
        whole = tl.maximum(n - 1, 0) // TILE
    for _ in range(whole):
        state, grad_decay, grad_start = backward_tile(
            state, grad_decay, grad_start, decay, h0, anew, g_row, g_step, before_row, a_row, a_step, reset,
            dx_row, da_row, h_step, mask, segment, TILE, TILE,
            LAST=False, ROWS=ROWS, GATED=GATED, SHARED=SHARED, CUT=CUT, RESET_STEP=-SIGN, FROM_START=FROM_START,
            COMPLEX=COMPLEX, MASKED=MASKED,
        )  # fmt: skip
        g_row += TILE * g_step
        dx_row += TILE * h_step
        da_row += TILE * h_step
        before_row += TILE * h_step
        if GATED:
            a_row += TILE * a_step
        if CUT:
            reset -= TILE * SIGN

    rest = n - whole * TILE
    with_before = rest
    if skipped == 0:
        with_before = rest - 1
        if h0_ptr is not None:
            h0 += load_row(h0_ptr + sequence.to(tl.int64) * D + c, mask, MASKED=MASKED).to(STATE)
    for _ in range(tl.cdiv(rest, SEGMENTS * SHORT)):
        state, grad_decay, grad_start = backward_tile(
            state, grad_decay, grad_start, decay, h0, anew, g_row, g_step, before_row, a_row, a_step, reset,
            dx_row, da_row, h_step, mask, segment, tl.minimum(rest, SEGMENTS * SHORT), with_before,
            LAST=True, ROWS=SHORT, GATED=GATED, SHARED=SHARED, CUT=CUT, RESET_STEP=-SIGN, FROM_START=FROM_START,
            COMPLEX=COMPLEX, MASKED=MASKED,
        )  # fmt: skip
        g_row += SEGMENTS * SHORT * g_step
        dx_row += SEGMENTS * SHORT * h_step
        da_row += SEGMENTS * SHORT * h_step
        before_row += SEGMENTS * SHORT * h_step
        if GATED:
            a_row += SEGMENTS * SHORT * a_step
        if CUT:
            reset -= SEGMENTS * SHORT * SIGN
        rest -= SEGMENTS * SHORT
        with_before -= SEGMENTS * SHORT

    # Store
    chunk_row = (sequence.to(tl.int64) * num_chunks + chunk) * D + c
    if FROM_START:
        if chunk == 0:
            grad_start += tl.where(segment == 0, state, 0.0)
        store_row(grad_start_ptr + chunk_row, tl.sum(grad_start, 0, keep_dims=True), mask, MASKED=MASKED)
    elif chunk == 0:
        first_row = grad_start_ptr + sequence.to(tl.int64) * D + c + tl.zeros((SEGMENTS, 1), tl.int32)
        tl.store(first_row, state, mask=mask & (segment == 0))
    if not GATED:
        total = sum_conj(grad_decay, COMPLEX=COMPLEX)
        store_row(grad_decay_ptr + chunk_row, tl.sum(total, 0, keep_dims=True), mask, MASKED=MASKED)


def launch_backward(
    grad_h: Any, h: Any, decay: Any, h0: Any, grad_end: Any, ends: Any, products: Any, resets: Any, seq_starts: Any,
    grad_x: Any, grad_decay: Any, grad_start: Any, *,
    tiles: Tiles, reverse: bool, from_start: bool, is_complex: bool, aligned: bool,
) -> None:  # fmt: skip
    """Gradients of all steps, one program per block of channels, chunk and sequence; arguments as the kernel's."""
    num_sequences = grad_start.shape[0]
    gated, shared = decay.ndim == 3, has_shared_gates(decay, grad_h)
    reads = gated + (shared and is_complex)
    rows = backward_rows(tiles, gates=reads, is_complex=is_complex, with_resets=resets is not None)
    launch(linear_scan_backward_kernel, (tiles.num_blocks * tiles.num_chunks * num_sequences,))(
        grad_h, h, decay, h0, grad_end, ends, products, resets, seq_starts, grad_x, grad_decay, grad_start,
        grad_h.shape[1], grad_h.shape[2], tiles.num_blocks, tiles.num_chunks, num_sequences, tiles.chunk_length,
        *grad_h.stride(),
        *(decay.stride() if gated else (0, 0, 0)),
        GATED=gated, SHARED=shared, COMPLEX=is_complex, REVERSE=reverse, FROM_START=from_start,
        ALIGNED=aligned, MASKED=tiles.masked, STATE=state_type(grad_start), BLOCK_D=tiles.block_d,
        SEGMENTS=tiles.segments, FOLD=FOLD_ROWS, num_warps=tiles.num_warps, **rows,
    )  # fmt: skip

"""Linear scan, forward rows: `h[t] = decay[t] * h[t-1] + x[t]`, from the carry into each chunk.

Indices: b batch, s sequence, c chunk, t time, d channel; x and h are (B, T, D). The decay is (D,) and stays in
registers, or, GATED, (B, T, D); SHARED, one number per step for all channels. COMPLEX, channels (2k, 2k + 1) are the
parts of one number. The state is in STATE: float32, for float64 input float64. Masked lanes hold 0 and are not stored.

A program owns BLOCK_D channels of one chunk of one sequence and walks its rows, ROWS loads in flight. Whole sequences
are one chunk. Chunk 0 starts from `start`; a later chunk starts from its carry H (see `linear_scan_carry.py`), which it
reads, or folds from the summaries before it.

Traffic in elements per element: 2 (read x, write h); GATED 3.
Source: arXiv 2305.19190, Eq. (1) for linear sigma; defined in `reference/linear_scan.py`.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from cofm_triton.kernels.interleaved import in_pairs
from cofm_triton.kernels.launch import NUM_WARPS, Channels, Span, forward_rows, has_shared_gates, state_type
from cofm_triton.kernels.launches import launch
from cofm_triton.kernels.linear_scan_carry import fold_summaries, next_state
from cofm_triton.kernels.rows import (
    across_lanes,
    chunk_rows,
    gate_row,
    live_row,
    load_gates,
    load_last_gates,
    load_last_rows,
    load_row,
    load_rows,
    store_row,
)


@triton.jit
def walk_last_rows(
    h, decay, x_row, x_step, a_row, a_step, h_row, h_step, d, D, rest,
    GATED: tl.constexpr, SHARED: tl.constexpr, SUMMED: tl.constexpr, COMPLEX: tl.constexpr, STATE: tl.constexpr,
    SHORT: tl.constexpr,
):  # fmt: skip
    """The state after the first SHORT of the `rest` rows that are left; rows from `rest` on change nothing."""
    xs = load_last_rows(x_row, x_step, d, D, rest, ROWS=SHORT)
    gates = ()
    if GATED:
        gates = load_last_gates(a_row, a_step, d, D, rest, ROWS=SHORT, SHARED=SHARED, COMPLEX=COMPLEX)

    for j in tl.static_range(SHORT):
        live = live_row(d, D, j, rest)
        if GATED:
            decay = gate_row(gates[j], h, SHARED=SHARED, COMPLEX=COMPLEX)
        h = tl.where(live, next_state(h, decay, xs[j].to(STATE), SUMMED=SUMMED, COMPLEX=COMPLEX), h)
        store_row(h_row + j * h_step, h, live, MASKED=True)
    return h


# Kernels are not compiled anew for a single block of channels: knowing that there is one, Triton keeps the distance of
# every row in flight in scalar registers, of which gfx942 has too few.
@triton.jit(do_not_specialize=["num_blocks"])
def linear_scan_forward_kernel(
    x_ptr,  # (B, T, D)
    decay_ptr,  # (D,); GATED (B, T, D); SHARED (B, T, 1)
    start_ptr,  # (S, D), state before step `begin`; None: 0
    carry_ptr,  # (S, num_chunks - 1, D), H, or, FOLD > 0, the summaries E; None: there is one chunk
    product_ptr,  # (D,), GATED like carry: A, read if FOLD > 0
    starts_ptr,  # (S,), first rows of packed sequences; None: S = B sequences of T rows
    h_ptr,  # out: (B, T, D), contiguous
    last_ptr,  # out: (S, D), state after step `end - 1`
    T: tl.int64, D: tl.int64, num_blocks, num_chunks, num_sequences,
    begin: tl.int64, end: tl.int64, chunk_length: tl.int64,  # steps, along the recurrence
    stride_s: tl.int64,
    stride_xb: tl.int64, stride_xt: tl.int64, stride_xd,
    stride_ab: tl.int64, stride_at: tl.int64, stride_ad,
    GATED: tl.constexpr, SHARED: tl.constexpr, COMPLEX: tl.constexpr, REVERSE: tl.constexpr,
    SUMMED: tl.constexpr,  # x and decay are E and A: this is a scan over chunks
    FOLD: tl.constexpr,  # most summaries that a program folds; 0: it reads its carry
    ALIGNED: tl.constexpr, MASKED: tl.constexpr, STATE: tl.constexpr,
    BLOCK_D: tl.constexpr, ROWS: tl.constexpr, SHORT: tl.constexpr,
):  # fmt: skip
    """Rows of the steps [begin, end), and the state after them."""
    if COMPLEX:
        D, stride_s, stride_xb, stride_xt = in_pairs(D), in_pairs(stride_s), in_pairs(stride_xb), in_pairs(stride_xt)
        stride_ab, stride_at = in_pairs(stride_ab), in_pairs(stride_at)
    pid = tl.program_id(0)
    chunk = (pid // num_blocks) % num_chunks
    sequence = pid // num_blocks // num_chunks
    d = (pid % num_blocks).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = d < D
    c = across_lanes(d, pid, ALIGNED=ALIGNED, COMPLEX=COMPLEX)
    entry, _skipped, n, batch = chunk_rows(
        starts_ptr, sequence, num_sequences, T, begin, end, chunk, chunk_length, REVERSE=REVERSE
    )
    SIGN: tl.constexpr = -1 if REVERSE else 1
    x_step = SIGN * stride_xt
    a_step = SIGN * stride_at
    h_step = SIGN * D
    x_row = x_ptr + batch * stride_xb + entry * stride_xt + c * stride_xd
    h_row = h_ptr + (batch * T + entry) * D + c
    a_row = decay_ptr + c
    if GATED:
        a_row = decay_ptr + batch * stride_ab + entry * stride_at
        if not SHARED:
            a_row += c * stride_ad

    # Load: the decay, and the state that the chunk starts from
    decay = tl.zeros((BLOCK_D,), STATE)
    if not GATED:
        decay = load_row(a_row, mask, MASKED=MASKED).to(STATE)
    h = tl.zeros((BLOCK_D,), STATE)
    if start_ptr is not None:
        if chunk == 0:
            h = load_row(start_ptr + sequence.to(tl.int64) * stride_s + c, mask, MASKED=MASKED).to(STATE)
    if carry_ptr is not None:
        if chunk > 0:
            first_carry = sequence.to(tl.int64) * (num_chunks - 1) * D + c
            if FOLD > 0:
                h = fold_summaries(
                    carry_ptr + first_carry, product_ptr + (first_carry if GATED else c), D, d, D, chunk,
                    GATED=GATED, COMPLEX=COMPLEX, STATE=STATE, FOLD=FOLD,
                )  # fmt: skip
            else:
                h = load_row(carry_ptr + first_carry + (chunk - 1) * D, mask, MASKED=MASKED).to(STATE)

    for _ in range(n // ROWS):
        # Load
        xs = load_rows(x_row, x_step, mask, ROWS=ROWS, MASKED=MASKED)
        gates = ()
        if GATED:
            gates = load_gates(a_row, a_step, mask, ROWS=ROWS, MASKED=MASKED, SHARED=SHARED, COMPLEX=COMPLEX)
            a_row += ROWS * a_step
        # Compute and store, row by row
        for j in tl.static_range(ROWS):
            if GATED:
                decay = gate_row(gates[j], h, SHARED=SHARED, COMPLEX=COMPLEX)
            h = next_state(h, decay, xs[j].to(STATE), SUMMED=SUMMED, COMPLEX=COMPLEX)
            store_row(h_row + j * h_step, h, mask, MASKED=MASKED)
        x_row += ROWS * x_step
        h_row += ROWS * h_step

    rest = n % ROWS
    for _ in range(tl.cdiv(rest, SHORT)):
        h = walk_last_rows(
            h, decay, x_row, x_step, a_row, a_step, h_row, h_step, d, D, rest,
            GATED=GATED, SHARED=SHARED, SUMMED=SUMMED, COMPLEX=COMPLEX, STATE=STATE, SHORT=SHORT,
        )  # fmt: skip
        x_row += SHORT * x_step
        h_row += SHORT * h_step
        if GATED:
            a_row += SHORT * a_step
        rest -= SHORT

    # Store
    if chunk == num_chunks - 1:
        store_row(last_ptr + sequence.to(tl.int64) * D + c, h, mask, MASKED=MASKED)


def launch_forward(
    x: Any, decay: Any, start: Any, carry: Any, product: Any, seq_starts: Any, h: Any, last: Any, *,
    span: Span, block: Channels, reverse: bool, is_complex: bool, aligned: bool, summed: bool = False, fold: int = 0,
) -> None:  # fmt: skip
    """Rows of the steps of `span`, one program per block of channels, chunk and sequence; arguments as the kernel's.

    Only pointers and strides of the tensors are used.
    """
    num_sequences, gated = last.shape[0], decay.ndim == 3
    launch(linear_scan_forward_kernel, (block.num_blocks * span.num_chunks * num_sequences,))(
        x, decay, start, carry, product, seq_starts, h, last,
        x.shape[1], x.shape[2], block.num_blocks, span.num_chunks, num_sequences,
        *span,
        0 if start is None else start.stride(0),
        *x.stride(),
        *(decay.stride() if gated else (0, 0, 0)),
        GATED=gated, SHARED=has_shared_gates(decay, x), COMPLEX=is_complex, REVERSE=reverse, SUMMED=summed, FOLD=fold,
        ALIGNED=aligned, MASKED=block.masked, STATE=state_type(last), BLOCK_D=block.block_d, num_warps=NUM_WARPS,
        **forward_rows(block, span.chunk_length, gated=gated, is_complex=is_complex, summed=summed),
    )  # fmt: skip

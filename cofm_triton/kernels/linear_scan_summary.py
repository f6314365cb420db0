"""Summaries of the chunks of a scan whose time is split: the state after each chunk from a zero start.

    forward    h[t] = decay[t] * h[t-1] + x[t],                    E[c] = h after chunk c's last step
    adjoint    mu[t-1] = conj(decay[t]) * (g[t] + mu[t]),          E[c] = mu before chunk c's first step

and, GATED, A[c], the product of the chunk's decays. Indices, layouts and the state's dtype as in
`linear_scan_forward.py`; x stands for g if ADJOINT. `linear_scan_carry.py` says how E and A make carries.

A program owns BLOCK_D channels of one chunk of one sequence. Forward, the last chunk needs no summary, and chunk 0
starts from `start`. ADJOINT, the first chunk needs none, and the last starts from the adjoint of the state after it.

Traffic in elements per element: 1 (read x), which the kernel of the rows reads again, from L2; GATED 2.
Source: the first phase of a scan in chunks, see `linear_scan_carry.py`.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from cofm_triton.kernels.interleaved import in_pairs, multiply_conj, one
from cofm_triton.kernels.launch import NUM_WARPS, Channels, Span, forward_rows, has_shared_gates, state_type
from cofm_triton.kernels.launches import launch
from cofm_triton.kernels.linear_scan_carry import next_product, next_state
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
def walk(state, decay, x, ADJOINT: tl.constexpr, SUMMED: tl.constexpr, COMPLEX: tl.constexpr):
    """One step of the recurrence, or, ADJOINT, against it."""
    if ADJOINT:
        result = multiply_conj(decay, x + state, COMPLEX=COMPLEX)
    else:
        result = next_state(state, decay, x, SUMMED=SUMMED, COMPLEX=COMPLEX)
    return result


@triton.jit
def walk_last_rows(
    state, product, decay, x_row, x_step, a_row, a_step, d, D, rest,
    GATED: tl.constexpr, SHARED: tl.constexpr, ADJOINT: tl.constexpr, SUMMED: tl.constexpr, COMPLEX: tl.constexpr,
    STATE: tl.constexpr, SHORT: tl.constexpr,
):  # fmt: skip
    """`(state, product)` after the first SHORT of the `rest` rows that are left; rows from `rest` on change nothing."""
    xs = load_last_rows(x_row, x_step, d, D, rest, ROWS=SHORT)
    gates = ()
    if GATED:
        gates = load_last_gates(a_row, a_step, d, D, rest, ROWS=SHORT, SHARED=SHARED, COMPLEX=COMPLEX)

    for j in tl.static_range(SHORT):
        live = live_row(d, D, j, rest)
        if GATED:
            decay = gate_row(gates[j], state, SHARED=SHARED, COMPLEX=COMPLEX)
            product = tl.where(live, next_product(product, decay, COMPLEX=COMPLEX), product)
        after = walk(state, decay, xs[j].to(STATE), ADJOINT=ADJOINT, SUMMED=SUMMED, COMPLEX=COMPLEX)
        state = tl.where(live, after, state)
    return state, product


@triton.jit(do_not_specialize=["num_blocks"])  # see `linear_scan_forward.py`
def linear_scan_summary_kernel(
    x_ptr,  # (B, T, D)
    decay_ptr,  # (D,); GATED (B, T, D); SHARED (B, T, 1)
    start_ptr,  # (S, D), state that the walk of a sequence starts from; None: 0
    ends_ptr,  # out: (S, num_summaries, D), E
    product_ptr,  # out if GATED: (S, num_summaries, D), A
    T: tl.int64, D: tl.int64, num_blocks, num_summaries, num_sequences,
    begin: tl.int64, end: tl.int64, chunk_length: tl.int64,  # steps, along the recurrence
    stride_s: tl.int64,
    stride_xb: tl.int64, stride_xt: tl.int64, stride_xd,
    stride_ab: tl.int64, stride_at: tl.int64, stride_ad,
    GATED: tl.constexpr, SHARED: tl.constexpr, COMPLEX: tl.constexpr, REVERSE: tl.constexpr, ADJOINT: tl.constexpr,
    SUMMED: tl.constexpr,  # x and decay are E and A: this is a scan over chunks
    ALIGNED: tl.constexpr, MASKED: tl.constexpr, STATE: tl.constexpr,
    BLOCK_D: tl.constexpr, ROWS: tl.constexpr, SHORT: tl.constexpr,
):  # fmt: skip
    """Summaries of all chunks of the steps [begin, end) but the last, or, ADJOINT, but the first."""
    if COMPLEX:
        D, stride_s, stride_xb, stride_xt = in_pairs(D), in_pairs(stride_s), in_pairs(stride_xb), in_pairs(stride_xt)
        stride_ab, stride_at = in_pairs(stride_ab), in_pairs(stride_at)
    pid = tl.program_id(0)
    summary = (pid // num_blocks) % num_summaries
    chunk = summary + 1 if ADJOINT else summary
    first_chunk = num_summaries if ADJOINT else 0  # of the walk
    sequence = pid // num_blocks // num_summaries
    d = (pid % num_blocks).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = d < D
    c = across_lanes(d, pid, ALIGNED=ALIGNED, COMPLEX=COMPLEX)
    row, _skipped, n, batch = chunk_rows(
        None, sequence, num_sequences, T, begin, end, chunk, chunk_length, REVERSE=REVERSE
    )
    SIGN: tl.constexpr = -1 if REVERSE else 1
    WALK: tl.constexpr = -SIGN if ADJOINT else SIGN
    if ADJOINT:
        row += SIGN * (n - 1)
    x_step = WALK * stride_xt
    a_step = WALK * stride_at
    x_row = x_ptr + batch * stride_xb + row * stride_xt + c * stride_xd
    a_row = decay_ptr + c
    if GATED:
        a_row = decay_ptr + batch * stride_ab + row * stride_at
        if not SHARED:
            a_row += c * stride_ad

    # Load: the decay, and the state that the first chunk starts from
    decay = tl.zeros((BLOCK_D,), STATE)
    if not GATED:
        decay = load_row(a_row, mask, MASKED=MASKED).to(STATE)
    state = tl.zeros((BLOCK_D,), STATE)
    if start_ptr is not None:
        if chunk == first_chunk:
            state = load_row(start_ptr + sequence.to(tl.int64) * stride_s + c, mask, MASKED=MASKED).to(STATE)
    product = one(BLOCK_D=BLOCK_D, DTYPE=STATE, COMPLEX=COMPLEX)

    for _ in range(n // ROWS):
        # Load
        xs = load_rows(x_row, x_step, mask, ROWS=ROWS, MASKED=MASKED)
        gates = ()
        if GATED:
            gates = load_gates(a_row, a_step, mask, ROWS=ROWS, MASKED=MASKED, SHARED=SHARED, COMPLEX=COMPLEX)
            a_row += ROWS * a_step
        # Compute
        for j in tl.static_range(ROWS):
            if GATED:
                decay = gate_row(gates[j], state, SHARED=SHARED, COMPLEX=COMPLEX)
                product = next_product(product, decay, COMPLEX=COMPLEX)
            state = walk(state, decay, xs[j].to(STATE), ADJOINT=ADJOINT, SUMMED=SUMMED, COMPLEX=COMPLEX)
        x_row += ROWS * x_step

    rest = n % ROWS
    for _ in range(tl.cdiv(rest, SHORT)):
        state, product = walk_last_rows(
            state, product, decay, x_row, x_step, a_row, a_step, d, D, rest,
            GATED=GATED, SHARED=SHARED, ADJOINT=ADJOINT, SUMMED=SUMMED, COMPLEX=COMPLEX, STATE=STATE, SHORT=SHORT,
        )  # fmt: skip
        x_row += SHORT * x_step
        if GATED:
            a_row += SHORT * a_step
        rest -= SHORT

    # Store
    place = (sequence.to(tl.int64) * num_summaries + summary) * D + c
    store_row(ends_ptr + place, state, mask, MASKED=MASKED)
    if GATED:
        store_row(product_ptr + place, product, mask, MASKED=MASKED)


def launch_summary(
    x: Any, decay: Any, start: Any, ends: Any, product: Any, *,
    span: Span, block: Channels, reverse: bool, is_complex: bool, aligned: bool, adjoint: bool = False,
    summed: bool = False,
) -> None:  # fmt: skip
    """Summaries, one program per block of channels, chunk and sequence; arguments as the kernel's."""
    num_sequences, num_summaries = ends.shape[:2]
    gated = decay.ndim == 3
    launch(linear_scan_summary_kernel, (block.num_blocks * num_summaries * num_sequences,))(
        x, decay, start, ends, product,
        x.shape[1], x.shape[2], block.num_blocks, num_summaries, num_sequences,
        *span,
        0 if start is None else start.stride(0),
        *x.stride(),
        *(decay.stride() if gated else (0, 0, 0)),
        GATED=gated, SHARED=has_shared_gates(decay, x), COMPLEX=is_complex, REVERSE=reverse, ADJOINT=adjoint,
        SUMMED=summed,
        ALIGNED=aligned, MASKED=block.masked, STATE=state_type(ends), BLOCK_D=block.block_d, num_warps=NUM_WARPS,
        **forward_rows(block, span.chunk_length, gated=gated, is_complex=is_complex, summed=summed),
    )  # fmt: skip

"""Linear scan, backward rows: the adjoint of `h[t] = decay[t] * h[t-1] + x[t]`.

With g = dL/dh, and mu the adjoint arriving from later steps (mu = dL/dh_last after the last):

    lambda[t] = g[t] + mu[t],      dx[t] = lambda[t],   ddecay[t] = conj(h[t-1]) * lambda[t]
    mu[t-1] = conj(decay[t]) * lambda[t],               dh0 = mu[-1]

Indices, layouts, the state's dtype and masked lanes as in `linear_scan_forward.py`. A program owns BLOCK_D channels of
one chunk of one sequence and walks its rows from the last to the first. The last chunk starts from `grad_end`; an
earlier one from its carry: mu after it, which it reads, or folds from the summaries behind it.

A decay per channel has a gradient that is summed over the chunk in registers and leaves as one row per program. The
caller adds the rows up in a fixed order: no atomics, bitwise reproducible.

Traffic in elements per element: 3 (read g and h, write dx); GATED 5; SHARED 4.
Source: adjoint of arXiv 2305.19190, Eq. (1) for linear sigma; defined in `reference/linear_scan.py`.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from cofm_triton.kernels.interleaved import in_pairs, multiply_conj
from cofm_triton.kernels.launch import NUM_WARPS, Channels, Span, backward_rows, has_shared_gates, state_type
from cofm_triton.kernels.launches import launch
from cofm_triton.kernels.linear_scan_carry import fold_summaries
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
    mu, decay, grad_decay, h0, g_row, g_step, before_row, a_row, a_step, dx_row, da_row, h_step, d, D,
    rest, with_before,
    GATED: tl.constexpr, SHARED: tl.constexpr, COMPLEX: tl.constexpr, STATE: tl.constexpr, SHORT: tl.constexpr,
):  # fmt: skip
    """`(mu, grad_decay)` after the first SHORT of the `rest` rows that are left; rows from `rest` on change nothing.

    Rows from `with_before` on have no row before them: their h[t-1] is h0.
    """
    gs = load_last_rows(g_row, g_step, d, D, rest, ROWS=SHORT)
    hs = load_last_rows(before_row, h_step, d, D, with_before, ROWS=SHORT)
    gates = ()
    if GATED:
        gates = load_last_gates(a_row, a_step, d, D, rest, ROWS=SHORT, SHARED=SHARED, COMPLEX=COMPLEX)

    for j in tl.static_range(SHORT):
        live = live_row(d, D, j, rest)
        if GATED:
            decay = gate_row(gates[j], mu, SHARED=SHARED, COMPLEX=COMPLEX)
        adjoint = gs[j].to(STATE) + mu
        mu = tl.where(live, multiply_conj(decay, adjoint, COMPLEX=COMPLEX), mu)
        before = tl.where(with_before > j, hs[j].to(STATE), h0)
        store_row(dx_row + j * h_step, adjoint, live, MASKED=True)
        by_decay = multiply_conj(before, adjoint, COMPLEX=COMPLEX)
        if GATED:
            store_row(da_row + j * h_step, by_decay, live, MASKED=True)
        else:
            grad_decay += tl.where(live, by_decay, 0.0)
    return mu, grad_decay


@triton.jit(do_not_specialize=["num_blocks"])  # see `linear_scan_forward.py`
def linear_scan_backward_kernel(
    grad_h_ptr,  # (B, T, D), g
    h_ptr,  # (B, T, D), contiguous
    decay_ptr,  # (D,); GATED (B, T, D); SHARED (B, T, 1)
    h0_ptr,  # (S, D), contiguous, state before step 0; None: 0
    grad_end_ptr,  # (S, D), mu after step `end - 1`; None: 0
    carry_ptr,  # (S, num_chunks - 1, D), mu after each chunk, or, FOLD > 0, the summaries E; None: there is one chunk
    product_ptr,  # (D,), GATED like carry: A, conjugate, read if FOLD > 0
    starts_ptr,  # (S,), first rows of packed sequences; None: S = B sequences of T rows
    grad_x_ptr,  # out: (B, T, D), contiguous
    grad_decay_ptr,  # out: (S, num_chunks, D), sums over a chunk; GATED (B, T, D), contiguous
    grad_start_ptr,  # out: (S, D), mu before step `begin`
    T: tl.int64, D: tl.int64, num_blocks, num_chunks, num_sequences,
    begin: tl.int64, end: tl.int64, chunk_length: tl.int64,  # steps, along the recurrence
    stride_s: tl.int64,
    stride_gb: tl.int64, stride_gt: tl.int64, stride_gd,
    stride_ab: tl.int64, stride_at: tl.int64, stride_ad,
    GATED: tl.constexpr, SHARED: tl.constexpr, COMPLEX: tl.constexpr, REVERSE: tl.constexpr,
    FOLD: tl.constexpr,  # most summaries that a program folds; 0: it reads its carry
    ALIGNED: tl.constexpr, MASKED: tl.constexpr, STATE: tl.constexpr,
    BLOCK_D: tl.constexpr, ROWS: tl.constexpr, SHORT: tl.constexpr,
):  # fmt: skip
    """Gradients of the steps [begin, end), and the adjoint of the state before them."""
    if COMPLEX:
        D, stride_s, stride_gb, stride_gt = in_pairs(D), in_pairs(stride_s), in_pairs(stride_gb), in_pairs(stride_gt)
        stride_ab, stride_at = in_pairs(stride_ab), in_pairs(stride_at)
    pid = tl.program_id(0)
    chunk = (pid // num_blocks) % num_chunks
    later_chunks = num_chunks - 1 - chunk
    sequence = pid // num_blocks // num_chunks
    d = (pid % num_blocks).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = d < D
    c = across_lanes(d, pid, ALIGNED=ALIGNED, COMPLEX=COMPLEX)
    entry, skipped, n, batch = chunk_rows(
        starts_ptr, sequence, num_sequences, T, begin, end, chunk, chunk_length, REVERSE=REVERSE
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
    a_row = decay_ptr + c
    if GATED:
        a_row = decay_ptr + batch * stride_ab + last * stride_at
        if not SHARED:
            a_row += c * stride_ad
    chunk_row = (sequence.to(tl.int64) * num_chunks + chunk) * D + c

    # Load: the adjoint that the chunk starts from, and the decay
    mu = tl.zeros((BLOCK_D,), STATE)
    if carry_ptr is not None:
        if later_chunks > 0:
            carries = sequence.to(tl.int64) * (num_chunks - 1)
            if FOLD > 0:
                last_carry = (carries + num_chunks - 2) * D + c
                mu = fold_summaries(
                    carry_ptr + last_carry, product_ptr + (last_carry if GATED else c), -D, d, D, later_chunks,
                    GATED=GATED, COMPLEX=COMPLEX, STATE=STATE, FOLD=FOLD,
                )  # fmt: skip
            else:
                mu = load_row(carry_ptr + (carries + chunk) * D + c, mask, MASKED=MASKED).to(STATE)
    if grad_end_ptr is not None:
        if later_chunks == 0:
            mu = load_row(grad_end_ptr + sequence.to(tl.int64) * stride_s + c, mask, MASKED=MASKED).to(STATE)
    decay = tl.zeros((BLOCK_D,), STATE)
    if not GATED:
        decay = load_row(a_row, mask, MASKED=MASKED).to(STATE)
    grad_decay = tl.zeros((BLOCK_D,), STATE)

    # The first row of a sequence has no row before it: its h[t-1] is h0. It belongs to the last, partial block.
    whole = n // ROWS
    if skipped == 0:
        whole = tl.maximum(n - 1, 0) // ROWS
    for _ in range(whole):
        # Load
        gs = load_rows(g_row, g_step, mask, ROWS=ROWS, MASKED=MASKED)
        hs = load_rows(before_row, h_step, mask, ROWS=ROWS, MASKED=MASKED)
        gates = ()
        if GATED:
            gates = load_gates(a_row, a_step, mask, ROWS=ROWS, MASKED=MASKED, SHARED=SHARED, COMPLEX=COMPLEX)
            a_row += ROWS * a_step
        # Compute and store, row by row
        for j in tl.static_range(ROWS):
            if GATED:
                decay = gate_row(gates[j], mu, SHARED=SHARED, COMPLEX=COMPLEX)
            adjoint = gs[j].to(STATE) + mu
            mu = multiply_conj(decay, adjoint, COMPLEX=COMPLEX)
            store_row(dx_row + j * h_step, adjoint, mask, MASKED=MASKED)
            by_decay = multiply_conj(hs[j].to(STATE), adjoint, COMPLEX=COMPLEX)
            if GATED:
                store_row(da_row + j * h_step, by_decay, mask, MASKED=MASKED)
            else:
                grad_decay += by_decay
        g_row += ROWS * g_step
        dx_row += ROWS * h_step
        da_row += ROWS * h_step
        before_row += ROWS * h_step

    rest = n - whole * ROWS
    with_before = rest
    h0 = tl.zeros((BLOCK_D,), STATE)
    if skipped == 0:
        with_before = rest - 1
        if h0_ptr is not None:
            h0 = load_row(h0_ptr + sequence.to(tl.int64) * D + c, mask, MASKED=MASKED).to(STATE)
    if SHORT == ROWS:  # a loop of one turn would keep more pointers in registers
        if rest > 0:
            mu, grad_decay = walk_last_rows(
                mu, decay, grad_decay, h0, g_row, g_step, before_row, a_row, a_step, dx_row, da_row, h_step, d, D,
                rest, with_before, GATED=GATED, SHARED=SHARED, COMPLEX=COMPLEX, STATE=STATE, SHORT=SHORT,
            )  # fmt: skip
    else:
        for _ in range(tl.cdiv(rest, SHORT)):
            mu, grad_decay = walk_last_rows(
                mu, decay, grad_decay, h0, g_row, g_step, before_row, a_row, a_step, dx_row, da_row, h_step, d, D,
                rest, with_before, GATED=GATED, SHARED=SHARED, COMPLEX=COMPLEX, STATE=STATE, SHORT=SHORT,
            )  # fmt: skip
            g_row += SHORT * g_step
            dx_row += SHORT * h_step
            da_row += SHORT * h_step
            before_row += SHORT * h_step
            if GATED:
                a_row += SHORT * a_step
            rest -= SHORT
            with_before -= SHORT

    # Store
    if chunk == 0:
        store_row(grad_start_ptr + sequence.to(tl.int64) * D + c, mu, mask, MASKED=MASKED)
    if not GATED:
        store_row(grad_decay_ptr + chunk_row, grad_decay, mask, MASKED=MASKED)


def launch_backward(
    grad_h: Any, h: Any, decay: Any, h0: Any, grad_end: Any, carry: Any, product: Any, seq_starts: Any,
    grad_x: Any, grad_decay: Any, grad_start: Any, *,
    span: Span, block: Channels, reverse: bool, is_complex: bool, aligned: bool, fold: int = 0,
) -> None:  # fmt: skip
    """Gradients of the steps of `span`, one program per block of channels, chunk and sequence.

    Arguments as the kernel's.
    """
    num_sequences, gated = grad_start.shape[0], decay.ndim == 3
    launch(linear_scan_backward_kernel, (block.num_blocks * span.num_chunks * num_sequences,))(
        grad_h, h, decay, h0, grad_end, carry, product, seq_starts, grad_x, grad_decay, grad_start,
        grad_h.shape[1], grad_h.shape[2], block.num_blocks, span.num_chunks, num_sequences,
        *span,
        0 if grad_end is None else grad_end.stride(0),
        *grad_h.stride(),
        *(decay.stride() if gated else (0, 0, 0)),
        GATED=gated, SHARED=has_shared_gates(decay, grad_h), COMPLEX=is_complex, REVERSE=reverse, FOLD=fold,
        ALIGNED=aligned, MASKED=block.masked, STATE=state_type(grad_start), BLOCK_D=block.block_d,
        num_warps=NUM_WARPS, **backward_rows(block, span.chunk_length, gated=gated, is_complex=is_complex),
    )  # fmt: skip

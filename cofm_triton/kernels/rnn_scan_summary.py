"""The adjoint of the nonlinear recurrence parallel in time: summaries of chunks, and adjoints carried through them.

The adjoint is affine. So what a chunk makes of the adjoint mu that arrives from later steps is known beforehand:

    mu before the chunk = end + own * mu + other * swap(mu)

A first launch finds `end`, `own` and, if PAIRED, `other` for every chunk but chunk 0. In the second, the backward
kernel of `rnn_scan.py`, a program takes the last adjoint through the summaries of all chunks after its own, and then
walks its rows. There is no guess and no repair: it holds for every act and every rate, and its sums are the same in
every run. Rounding differs from the sequential walk's.

Chains as in the forward pass would be slower: their warm-ups are longer than a chunk, and a gradient that enters at the
last step alone underflows before a guess from zero is right.

Traffic of the first launch in elements per element: 2 + 1 / ROWS.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cofm_triton.kernels.interleaved import in_pairs, swap
from cofm_triton.kernels.launch import CARRY_ROWS
from cofm_triton.kernels.rnn_scan_walk import bytes_at, coefficients, first_state, start_after_cuts, walk_back
from cofm_triton.kernels.rows import across_lanes, chunk_rows, load_last_rows, store_row

_CARRY_ROWS = tl.constexpr(CARRY_ROWS)


@triton.jit
def passed(factor, mu):
    """factor * mu, where 0 stays 0 however large the factor is: over a chunk it may overflow."""
    return tl.where(mu == 0.0, 0.0, factor * mu)


@triton.jit
def carried(mu, last_row, plane, left, d, D, PAIRED: tl.constexpr):
    """The adjoint mu, back through the summaries of `left` chunks.

    `last_row` is the end of the last chunk, its factors lie a `plane` further each.
    """
    row = last_row
    for _ in range(tl.cdiv(left, _CARRY_ROWS)):
        ends = load_last_rows(row, -D, d, D, left, ROWS=_CARRY_ROWS)
        owns = load_last_rows(row + plane, -D, d, D, left, ROWS=_CARRY_ROWS)
        others = owns
        if PAIRED:
            others = load_last_rows(row + 2 * plane, -D, d, D, left, ROWS=_CARRY_ROWS)
        for j in tl.static_range(_CARRY_ROWS):
            before = ends[j] + passed(owns[j], mu)
            if PAIRED:
                before += passed(others[j], swap(mu))
            mu = tl.where(left > j, before, mu)
        row -= _CARRY_ROWS * D
        left -= _CARRY_ROWS
    return mu


@triton.jit
def rnn_scan_backward_summary_kernel(
    grad_h_ptr,  # (B, T, D), g
    x_ptr,  # (B, T, D)
    w_ptr,  # (D,), raw rates, STATE; GATED: (B, T, D), rates
    turn_ptr,  # (D,), STATE, read if PAIRED
    h_ptr,  # (B, T, D), contiguous
    h0_ptr,  # (S, D), contiguous, read if TO_H0
    starts_ptr,  # (S,), first rows of packed sequences; None: S = B sequences of T rows
    resets_ptr,  # (B, T), contiguous, a byte per step: not 0 where a sequence is cut; None: nowhere
    summary_ptr,  # out: (2, S, C, D), if PAIRED (3, S, C, D): end, own, other; of chunk 0 nothing
    T: tl.int64, D: tl.int64, num_blocks, num_sequences, num_chunks, length: tl.int64, dt: tl.float64,
    stride_gb: tl.int64, stride_gt: tl.int64, stride_gd,
    stride_xb: tl.int64, stride_xt: tl.int64, stride_xd,
    stride_wb: tl.int64, stride_wt: tl.int64, stride_wd,
    NONLINEARITY: tl.constexpr, PARAMETERIZATION: tl.constexpr, EXACT: tl.constexpr, GATED: tl.constexpr,
    PAIRED: tl.constexpr, TO_H0: tl.constexpr, ALIGNED: tl.constexpr, MASKED: tl.constexpr, STATE: tl.constexpr,
    BLOCK_D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """What every chunk makes of the adjoint after it; nothing for chunks after the end of their sequence."""
    if PAIRED:
        D, stride_gb, stride_gt = in_pairs(D), in_pairs(stride_gb), in_pairs(stride_gt)
        stride_xb, stride_xt = in_pairs(stride_xb), in_pairs(stride_xt)
    pid = tl.program_id(0)
    sequence = pid // num_blocks % num_sequences
    chunk = 1 + pid // (num_blocks * num_sequences)
    d = (pid % num_blocks).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = d < D
    c = across_lanes(d, pid, ALIGNED=ALIGNED, COMPLEX=PAIRED)
    entry, begin, n, batch = chunk_rows(starts_ptr, sequence, num_sequences, T, 0, T, chunk, length, REVERSE=False)
    if n > 0:
        top = entry + n // ROWS * ROWS
        dense_row = (batch * T + top) * D + c
        chunk_row = (sequence.to(tl.int64) * num_chunks + chunk) * D + c
        plane = D * num_sequences * num_chunks

        # Load: coefficients; the rate as in the forward kernel
        dt_state = tl.full((), dt, STATE)
        pull, turn, rate_row = coefficients(
            w_ptr, turn_ptr, batch, top, stride_wb, stride_wt, stride_wd, c, mask, dt,
            PARAMETERIZATION=PARAMETERIZATION, EXACT=EXACT, GATED=GATED, PAIRED=PAIRED, STATE=STATE, MASKED=MASKED,
        )  # fmt: skip
        nothing = tl.zeros((BLOCK_D,), STATE)
        h0 = nothing
        if TO_H0:
            h0 = first_state(h0_ptr, sequence.to(tl.int64) * D + c, mask, BLOCK_D=BLOCK_D, STATE=STATE, MASKED=MASKED)
        reset_row = None if resets_ptr is None else bytes_at(resets_ptr, batch * T + top)
        start = start_after_cuts(h0, TO_H0=TO_H0)
        end, own, other, _ = walk_back(
            grad_h_ptr + batch * stride_gb + top * stride_gt + c * stride_gd,
            x_ptr + batch * stride_xb + top * stride_xt + c * stride_xd, rate_row, reset_row,
            h_ptr + dense_row - D, None, None, nothing, start, nothing, pull, turn, dt_state,
            (begin // ROWS).to(tl.int32), n, stride_gt, stride_xt, stride_wt, d, D, mask,
            NONLINEARITY=NONLINEARITY, GATED=GATED, PAIRED=PAIRED, STATE=STATE, ROWS=ROWS, SUMMARY=True, MASKED=MASKED,
        )  # fmt: skip

        # Store
        store_row(summary_ptr + chunk_row, end, mask, MASKED=MASKED)
        store_row(summary_ptr + plane + chunk_row, own, mask, MASKED=MASKED)
        if PAIRED:
            store_row(summary_ptr + 2 * plane + chunk_row, other, mask, MASKED=MASKED)

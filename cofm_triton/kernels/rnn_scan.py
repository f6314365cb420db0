"""Diagonal nonlinear recurrence, `h[t] = h[t-1] + dt * act(x[t] - rate * h[t-1])`: forward and backward Triton kernels.

Indices: b batch, s sequence, t time, d channel; tensors are (B, T, D), states (S, D). The rates come out of a raw
parameter w, (D,), inside the kernel (`kernels/parameterization.py`; parameterisation "direct" without EXACT: w itself).
The state is in STATE: float32, for float64 input float64. Masked lanes hold 0 and are not stored.

A program owns BLOCK_D channels of one sequence, several per lane unless they are few (`launch.chains`), and walks all
its rows. ROWS loads are always in flight. Where such programs are few and rows are many, a program walks a chunk of C:
forward in chains from guesses (`rnn_scan_chains.py`), back after summaries (`rnn_scan_summary.py`).

Backward, with g = dL/dh, z[t] = x[t] - rate * h[t-1], s[t] = act'(z[t]) and mu the adjoint arriving from later steps:

    lambda[t] = g[t] + mu[t],          dx[t] = dt * s[t] * lambda[t]
    mu[t-1] = lambda[t] - rate * dx[t],   drate -= dx[t] * h[t-1],   dh0 = mu[-1],   dw = (rate by w) * drate

h is recomputed block by block, from the stored row before the block and with the forward pass's arithmetic: slopes
from differences of a rounded h would mistake saturated steps for linear ones. `drate` is summed over time in registers,
chained to dw, and leaves as one row per sequence and chunk: no atomics.

PAIRED, channels (2k, 2k + 1) of one lane also turn: `z[t] = x[t] - rate * h[t-1] + turn * swap(h[t-1])`. swap exchanges
the two; turn has opposite signs in them. Backward, `mu[t-1]` has the term `- turn * swap(dx[t])`, and
`dturn += dx[t] * swap(h[t-1])`. The launchers are in `paired_rnn_scan.py`.

GATED, the rates are (B, T, D), read as x is, and their gradient is stored as dx is. With resets, a byte per step, the
state before a step whose byte is not 0 is the start, h0 (TO_H0) or 0; mu goes to it there, and no further back.

Traffic in elements per element: forward 2, backward 3 + 1 / ROWS, and one block of rows of a sequence read again. GATED
3 and 5 + 1 / ROWS.
Source: Eq. (1) of arXiv 2305.19190 in discrete time and its adjoint; defined in `reference/rnn_scan.py`.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from cofm_triton.kernels import rnn_scan_chains
from cofm_triton.kernels.interleaved import in_pairs
from cofm_triton.kernels.launch import (
    NUM_WARPS,
    RNN_BACKWARD_ROWS,
    RNN_FORWARD_ROWS,
    RNN_GATED_BACKWARD_ROWS,
    RNN_GATED_FORWARD_ROWS,
    Channels,
    chains,
    chunk_length,
    forward_chains,
    has_aligned_rows,
    rnn_rows,
    state_type,
)
from cofm_triton.kernels.launches import launch
from cofm_triton.kernels.parameterization import step_rate_slope
from cofm_triton.kernels.rnn_scan_summary import carried, rnn_scan_backward_summary_kernel
from cofm_triton.kernels.rnn_scan_walk import bytes_at, coefficients, first_state, start_after_cuts, walk, walk_back
from cofm_triton.kernels.rows import across_lanes, chunk_rows, load_row, store_row


@triton.jit
def rnn_scan_forward_kernel(
    x_ptr,  # (B, T, D)
    w_ptr,  # (D,), raw rates, STATE; GATED: (B, T, D), rates
    turn_ptr,  # (D,), STATE, read if PAIRED
    h0_ptr,  # (S, D), contiguous; None: 0
    starts_ptr,  # (S,), first rows of packed sequences; None: S = B sequences of T rows
    resets_ptr,  # (B, T), contiguous, a byte per step: not 0 where a sequence is cut; None: nowhere
    h_ptr,  # out: (B, T, D), contiguous
    last_ptr,  # out: (S, D), final states
    T: tl.int64, D: tl.int64, num_blocks, num_sequences, dt: tl.float64,
    stride_xb: tl.int64, stride_xt: tl.int64, stride_xd,
    stride_wb: tl.int64, stride_wt: tl.int64, stride_wd,
    NONLINEARITY: tl.constexpr, PARAMETERIZATION: tl.constexpr, EXACT: tl.constexpr, GATED: tl.constexpr,
    PAIRED: tl.constexpr, TO_H0: tl.constexpr, ALIGNED: tl.constexpr, MASKED: tl.constexpr, STATE: tl.constexpr,
    BLOCK_D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """All rows of h, and the final states."""
    if PAIRED:
        D, stride_xb, stride_xt = in_pairs(D), in_pairs(stride_xb), in_pairs(stride_xt)
    pid = tl.program_id(0)
    sequence = pid // num_blocks
    d = (pid % num_blocks).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = d < D
    c = across_lanes(d, pid, ALIGNED=ALIGNED, COMPLEX=PAIRED)
    entry, _skipped, n, batch = chunk_rows(starts_ptr, sequence, num_sequences, T, 0, T, 0, T, REVERSE=False)
    x_row = x_ptr + batch * stride_xb + entry * stride_xt + c * stride_xd
    h_row = h_ptr + (batch * T + entry) * D + c
    sequence_row = sequence.to(tl.int64) * D + c

    # Load: coefficients and the state. The rate is subtracted from zero: a mere change of sign would move into the loop
    # and be paid there once per state.
    dt_state = tl.full((), dt, STATE)
    pull, turn, rate_row = coefficients(
        w_ptr, turn_ptr, batch, entry, stride_wb, stride_wt, stride_wd, c, mask, dt,
        PARAMETERIZATION=PARAMETERIZATION, EXACT=EXACT, GATED=GATED, PAIRED=PAIRED, STATE=STATE, MASKED=MASKED,
    )  # fmt: skip
    h = first_state(h0_ptr, sequence_row, mask, BLOCK_D=BLOCK_D, STATE=STATE, MASKED=MASKED)
    reset_row = None if resets_ptr is None else bytes_at(resets_ptr, batch * T + entry)
    start = start_after_cuts(h, TO_H0=TO_H0)

    h, _ = walk(
        x_row, rate_row, reset_row, h_row, h, start, pull, turn, dt_state, n, 0, stride_xt, stride_wt, d, D, mask,
        NONLINEARITY=NONLINEARITY, GATED=GATED, PAIRED=PAIRED, STATE=STATE, ROWS=ROWS, WARMS_UP=False, MASKED=MASKED,
    )  # fmt: skip

    # Store
    store_row(last_ptr + sequence_row, h, mask, MASKED=MASKED)


@triton.jit
def rnn_scan_backward_kernel(
    grad_h_ptr,  # (B, T, D), g
    x_ptr,  # (B, T, D)
    w_ptr,  # (D,), raw rates, STATE; GATED: (B, T, D), rates
    turn_ptr,  # (D,), STATE, read if PAIRED
    h_ptr,  # (B, T, D), contiguous
    h0_ptr,  # (S, D), contiguous; None: 0
    grad_last_ptr,  # (S, D), contiguous, mu after the last step; None: 0
    starts_ptr,  # (S,), first rows of packed sequences; None: S = B sequences of T rows
    resets_ptr,  # (B, T), contiguous, a byte per step: not 0 where a sequence is cut; None: nowhere
    summary_ptr,  # (2, S, C, D), if PAIRED (3, S, C, D), what chunks do to an adjoint; None: C = 1
    grad_x_ptr,  # out: (B, T, D), contiguous
    grad_w_ptr,  # out: (S, C, D); GATED: (B, T, D), contiguous
    grad_turn_ptr,  # out if PAIRED: (S, C, D)
    grad_start_ptr,  # out if TO_H0: (S, C, D), of h0 as the start after cuts
    grad_h0_ptr,  # out: (S, D), of h0 as the first state
    T: tl.int64, D: tl.int64, num_blocks, num_sequences, num_chunks, length: tl.int64, dt: tl.float64,
    stride_gb: tl.int64, stride_gt: tl.int64, stride_gd,
    stride_xb: tl.int64, stride_xt: tl.int64, stride_xd,
    stride_wb: tl.int64, stride_wt: tl.int64, stride_wd,
    NONLINEARITY: tl.constexpr, PARAMETERIZATION: tl.constexpr, EXACT: tl.constexpr, GATED: tl.constexpr,
    PAIRED: tl.constexpr, TO_H0: tl.constexpr, ALIGNED: tl.constexpr, MASKED: tl.constexpr, STATE: tl.constexpr,
    BLOCK_D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """All rows of grad_x, and gradients of coefficients and initial states, one row per chunk and sequence."""
    if PAIRED:
        D, stride_gb, stride_gt = in_pairs(D), in_pairs(stride_gb), in_pairs(stride_gt)
        stride_xb, stride_xt = in_pairs(stride_xb), in_pairs(stride_xt)
    pid = tl.program_id(0)
    chunk = 0
    sequence = pid // num_blocks
    if summary_ptr is not None:
        sequence = sequence % num_sequences
        chunk = pid // (num_blocks * num_sequences)
    d = (pid % num_blocks).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = d < D
    c = across_lanes(d, pid, ALIGNED=ALIGNED, COMPLEX=PAIRED)
    entry, begin, n, batch = chunk_rows(starts_ptr, sequence, num_sequences, T, 0, T, chunk, length, REVERSE=False)
    # Blocks are counted from the sequence's first row, the walk starts at the last of them, which may be partial.
    block = n // ROWS
    top = entry + block * ROWS
    g_row = grad_h_ptr + batch * stride_gb + top * stride_gt + c * stride_gd
    x_row = x_ptr + batch * stride_xb + top * stride_xt + c * stride_xd
    dense_row = (batch * T + top) * D + c
    dx_row = grad_x_ptr + dense_row
    drate_row = grad_w_ptr + dense_row if GATED else None
    before_row = h_ptr + dense_row - D  # the row before a block
    sequence_row = sequence.to(tl.int64) * D + c

    # Load: coefficients, the first state and the last adjoint; the rate as in the forward kernel
    dt_state = tl.full((), dt, STATE)
    pull, turn, rate_row = coefficients(
        w_ptr, turn_ptr, batch, top, stride_wb, stride_wt, stride_wd, c, mask, dt,
        PARAMETERIZATION=PARAMETERIZATION, EXACT=EXACT, GATED=GATED, PAIRED=PAIRED, STATE=STATE, MASKED=MASKED,
    )  # fmt: skip
    h0 = first_state(h0_ptr, sequence_row, mask, BLOCK_D=BLOCK_D, STATE=STATE, MASKED=MASKED)
    reset_row = None if resets_ptr is None else bytes_at(resets_ptr, batch * T + top)
    start = start_after_cuts(h0, TO_H0=TO_H0)
    mu = first_state(grad_last_ptr, sequence_row, mask, BLOCK_D=BLOCK_D, STATE=STATE, MASKED=MASKED)
    chunk_row = sequence_row
    first = 0
    if summary_ptr is not None:
        _, _, steps, _ = chunk_rows(starts_ptr, sequence, num_sequences, T, 0, T, 0, T, REVERSE=False)
        last_row = (sequence.to(tl.int64) * num_chunks + tl.cdiv(steps, length) - 1) * D + c
        left = tl.cdiv(steps, length) - 1 - chunk
        mu = carried(mu, summary_ptr + last_row, D * num_sequences * num_chunks, left, d, D, PAIRED=PAIRED)
        chunk_row = (sequence.to(tl.int64) * num_chunks + chunk) * D + c
        first = (begin // ROWS).to(tl.int32)

    mu, grad_pull, grad_turn, grad_start = walk_back(
        g_row, x_row, rate_row, reset_row, before_row, dx_row, drate_row, h0, start, mu, pull, turn, dt_state, first, n,
        stride_gt, stride_xt, stride_wt, d, D, mask,
        NONLINEARITY=NONLINEARITY, GATED=GATED, PAIRED=PAIRED, STATE=STATE, ROWS=ROWS, SUMMARY=False, MASKED=MASKED,
    )  # fmt: skip

    # Store
    if not GATED:
        w = load_row(w_ptr + c, mask, MASKED=MASKED)  # once more: kept, it would take registers in the loop
        slope = step_rate_slope(w, dt, PARAMETERIZATION=PARAMETERIZATION, EXACT=EXACT)
        store_row(grad_w_ptr + chunk_row, -slope * grad_pull, mask, MASKED=MASKED)
    if TO_H0:
        store_row(grad_start_ptr + chunk_row, grad_start, mask, MASKED=MASKED)
    if PAIRED:
        store_row(grad_turn_ptr + chunk_row, grad_turn, mask, MASKED=MASKED)
    if chunk == 0:
        store_row(grad_h0_ptr + sequence_row, mu, mask, MASKED=MASKED)


def forward(
    x: Any, w: Any, h0: Any, seq_starts: Any, *,
    dt: float, nonlinearity: str, parameterization: str, discretization: str, state_dtype: Any, num_sms: int,
    sequential: bool = False, resets: Any = None, reset_to: str = "h0",
) -> tuple[Any, Any]:  # fmt: skip
    """`(h, h_last)` with T >= 1: h (B, T, D) in x's dtype, h_last (S, D) in the state's, which is that of a (D,) w."""
    h, last, block, shape = buffers([x, w] if w.ndim == 3 else [x], seq_starts, state_dtype, num_sms)
    walk_forward(
        x, w, None, h0, seq_starts, resets, h, last, block, num_sms, sequential, dt=dt, NONLINEARITY=nonlinearity,
        PARAMETERIZATION=parameterization, EXACT=discretization == "exact",
        TO_H0=starts_from_h0(h0, resets, reset_to), **shape,
    )  # fmt: skip
    return h, last


def walk_forward(
    x: Any, w: Any, turn: Any, h0: Any, seq_starts: Any, resets: Any, h: Any, last: Any, block: Channels, num_sms: int,
    sequential: bool, *, dt: float, **options: Any,
) -> None:  # fmt: skip
    """Fill h and last, of units and of pairs: in chains where that pays, unless `sequential` or rates vary in time."""
    nonlinearity, sequences, gated = options["NONLINEARITY"], last.shape[0], w.ndim == 3
    rows = x.shape[1] if seq_starts is None else x.shape[1] // max(1, sequences)
    flags = dict(paired=options["PAIRED"], resets=resets is not None)
    chains = forward_chains(rows, sequences, block, x.element_size(), nonlinearity, num_sms, **flags)
    if chains is not None and not sequential and not gated:
        options.update(ROWS=chains.rows)
        rnn_scan_chains.forward(x, w, turn, h0, seq_starts, resets, h, last, block.num_blocks, chains, dt=dt, **options)
        return
    full = (RNN_GATED_FORWARD_ROWS if gated else RNN_FORWARD_ROWS)[last.element_size()]
    options.update(ROWS=rnn_rows(full, block, nonlinearity, **flags))
    launch(rnn_scan_forward_kernel, (block.num_blocks * sequences,))(
        x, w, turn, h0, seq_starts, resets, h, last, x.shape[1], x.shape[2], block.num_blocks, sequences, dt,
        *x.stride(), *_strides(w), GATED=gated, **options,
    )  # fmt: skip


def starts_from_h0(h0: Any, resets: Any, reset_to: str) -> bool:
    """Whether resets mean the numbers of h0: none stand for zeros."""
    return resets is not None and h0 is not None and reset_to == "h0"


def _strides(w: Any) -> tuple[int, int, int]:
    """Of rates that vary in time."""
    return w.stride() if w.ndim == 3 else (0, 0, 0)


def backward(
    grad_h: Any, grad_last: Any, x: Any, w: Any, h: Any, h0: Any, seq_starts: Any, *,
    dt: float, nonlinearity: str, parameterization: str, discretization: str, state_dtype: Any, num_sms: int,
    resets: Any = None, reset_to: str = "h0", summed: bool = True,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """`(grad_x, grad_w, grad_h0)` with T >= 1: grad_w like w, or in pieces; grad_h0 (S, D) in the state's dtype."""
    read = [x, grad_h, w] if w.ndim == 3 else [x, grad_h]
    grad_x, grad_h0, block, shape = buffers(read, seq_starts, state_dtype, num_sms)
    grad_w, _, grad_h0 = walk_backward(
        grad_h, grad_last, x, w, None, h, h0, seq_starts, resets, grad_x, grad_h0, block, num_sms, summed, dt=dt,
        NONLINEARITY=nonlinearity, PARAMETERIZATION=parameterization, EXACT=discretization == "exact",
        TO_H0=starts_from_h0(h0, resets, reset_to), **shape,
    )  # fmt: skip
    return grad_x, grad_w, grad_h0


def walk_backward(
    grad_h: Any, grad_last: Any, x: Any, w: Any, turn: Any, h: Any, h0: Any, seq_starts: Any, resets: Any, grad_x: Any,
    grad_h0: Any, block: Channels, num_sms: int, summed: bool = True, *, dt: float, **options: Any,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Fill grad_x, of units and of pairs; `(grad_w, grad_turn, grad_h0)`, grad_turn None without turn. Not `summed`,
    gradients of coefficients that do not change in time are in (S, chunks, D) pieces.
    """
    (_, rows, channels), sequences, summary, gated = x.shape, grad_h0.shape[0], None, w.ndim == 3
    full = (RNN_GATED_BACKWARD_ROWS if gated else RNN_BACKWARD_ROWS)[grad_h0.element_size()]
    cut = dict(resets=resets is not None, paired=options["PAIRED"])
    options.update(ROWS=rnn_rows(full, block, options["NONLINEARITY"], **cut), GATED=gated)
    length = chunk_length(rows if seq_starts is None else rows // max(1, sequences), sequences, block, num_sms)
    length = triton.cdiv(length, options["ROWS"]) * options["ROWS"] if length else rows
    chunks, programs = triton.cdiv(rows, length), block.num_blocks * sequences
    sizes = rows, channels, block.num_blocks, sequences, chunks, length, dt, *grad_h.stride(), *x.stride(), *_strides(w)
    if chunks > 1:
        summary = grad_h0.new_empty((2 if turn is None else 3, sequences, chunks, channels))
        launch(rnn_scan_backward_summary_kernel, (programs * (chunks - 1),))(
            grad_h,
            x,
            w,
            turn,
            h,
            h0,
            seq_starts,
            resets,
            summary,
            *sizes,
            **{**options, "ROWS": min(full, options["ROWS"])},
        )  # twice the rows spill on gfx942
    # One row per sequence and chunk: of coefficients that do not change in time, and of the start after cuts.
    planes = [not gated, turn is not None, options["TO_H0"]]
    kept = iter(grad_h0.new_empty((sum(planes), sequences, chunks, channels)).unbind())
    by_w, by_turn, by_start = (next(kept) if plane else None for plane in planes)
    grad_w: Any = w.new_empty(x.shape) if gated else by_w
    launch(rnn_scan_backward_kernel, (programs * chunks,))(
        grad_h, x, w, turn, h, h0, grad_last, seq_starts, resets, summary, grad_x, grad_w, by_turn, by_start, grad_h0,
        *sizes, **options,
    )  # fmt: skip
    if by_start is not None:
        grad_h0 = grad_h0 + by_start.sum(1)
    if summed:
        grad_w = grad_w if gated else grad_w.sum((0, 1))
        by_turn = None if by_turn is None else by_turn.sum((0, 1))
    return grad_w, by_turn, grad_h0


def buffers(
    read: list[Any], seq_starts: Any, state_dtype: Any, num_sms: int, *, pair_lanes: int = 0
) -> tuple[Any, Any, Channels, dict[str, Any]]:
    """A tensor like x (the first of those that are `read`), a state per sequence, and what both launches share."""
    x = read[0]
    sequences = x.shape[0] if seq_starts is None else seq_starts.shape[0]
    states = x.new_empty((sequences, x.shape[2]), dtype=state_dtype)
    aligned = all(map(has_aligned_rows, read))
    block = chains(x.shape[2], sequences, x.element_size(), num_sms, pair_lanes=pair_lanes, aligned=aligned)
    shape = dict(
        PAIRED=pair_lanes > 0, ALIGNED=aligned, MASKED=block.masked, STATE=state_type(states), BLOCK_D=block.block_d,
        num_warps=NUM_WARPS,
    )  # fmt: skip
    return x.new_empty(x.shape), states, block, shape

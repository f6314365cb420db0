"""Gated linear recurrence, `h[t] = decay[t] * v[t] + gain[t] * x[t]`: forward and backward Triton kernels.

Indices: b batch, s sequence, t time, d channel; tensors are (B, T, D), states (S, D). v[t] is h[t-1], or, TURNING, its
channels (2k, 2k + 1) turned: `cos h[t-1] + sin swap(h[t-1])`, sin with opposite signs in the two. Decay and gain are
formed of the logits p and q and of the rate (D,), see `gates.py`. All is in STATE: float32, for float64 input float64.
Masked lanes hold 0 and are not stored.

A program owns BLOCK_D channels of one sequence and walks all its rows, ROWS at a time: gates do not wait for the state,
so that their arithmetic hides in the loads of other programs.

Backward, with g = dL/dh and mu the adjoint arriving from later steps:

    lambda[t] = g[t] + mu[t],            dx[t] = gain[t] lambda[t],       dgain[t] = x[t] lambda[t]
    mu[t-1] = R^T (decay[t] lambda[t]),  ddecay[t] = v[t] lambda[t],      dh0 = mu[-1]

With resets, a step where they are True has h0, FROM_START, or 0 in place of h[t-1], and nothing arrives before it.

`gates.pulled` makes gradients of p, q and the rate of those by decay and gain. h is formed again block by block,
from the stored row before the block. What is summed over time (rate, angle) is summed in registers and leaves as one
row per sequence: no atomics.

Traffic in elements per element, with one logit, or two: forward 3 or 4, backward 5 or 7, and 1 / ROWS for h.
Source: arXiv 2402.19427, eq 1-4; arXiv 2410.01201; defined in `reference/gated_rnn.py`.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from cofm_triton.kernels.gates import formed, pulled
from cofm_triton.kernels.interleaved import in_pairs, swap
from cofm_triton.kernels.launch import (
    GATED_BACKWARD_LANE,
    GATED_FORWARD_LANE,
    GATED_FORWARD_ROWS,
    LANES,
    NUM_WARPS,
    Channels,
    chains,
    gated_backward_rows,
    has_aligned_rows,
    state_type,
)
from cofm_triton.kernels.launches import launch
from cofm_triton.kernels.rows import across_lanes, chunk_rows, live_row, load_last_rows, load_row, load_rows, store_row


@triton.jit
def turned(h, cos, sin, TURNING: tl.constexpr):
    """v, what decays."""
    v = h
    if TURNING:
        v = cos * h + sin * swap(h)
    return v


@triton.jit
def load_resets(ptr, rest, ROWS: tl.constexpr, CUT: tl.constexpr):
    """The resets of ROWS steps, of which `rest` are there; without resets, nothing."""
    resets = ()
    if CUT:
        for j in tl.static_range(ROWS):
            resets = resets + (tl.load(ptr + j, mask=rest > j, other=0),)
    return resets


@triton.jit
def load_second(q_row, step, ps, d, D, rest, TWO: tl.constexpr, ROWS: tl.constexpr):
    """Rows of q; of p where q does not count, which nothing reads then."""
    qs = ps
    if TWO:
        qs = load_last_rows(q_row, step, d, D, rest, ROWS=ROWS)
    return qs


@triton.jit
def gated_rnn_forward_kernel(
    x_ptr,  # (B, T, D)
    p_ptr,  # (B, T, D)
    q_ptr,  # (B, T, D), read if TWO
    rate_ptr,  # (D,), STATE
    turn_ptr,  # (2, D), STATE: cos and sin, read if TURNING
    h0_ptr,  # (S, D), contiguous; None: 0
    resets_ptr,  # (B, T), contiguous, bool; None: nothing resets
    starts_ptr,  # (S,), first rows of packed sequences; None: S = B sequences of T rows
    h_ptr,  # out: (B, T, D), contiguous
    last_ptr,  # out: (S, D), final states
    T: tl.int64, D: tl.int64, num_blocks, num_sequences,
    stride_xb: tl.int64, stride_xt: tl.int64, stride_xd,
    stride_pb: tl.int64, stride_pt: tl.int64, stride_pd,
    stride_qb: tl.int64, stride_qt: tl.int64, stride_qd,
    STRENGTH: tl.constexpr, GAIN: tl.constexpr, TWO: tl.constexpr, TURNING: tl.constexpr,
    FROM_START: tl.constexpr, ALIGNED: tl.constexpr, MASKED: tl.constexpr, STATE: tl.constexpr,
    BLOCK_D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """All rows of h, and the final states."""
    if TURNING:
        D, stride_xb, stride_xt = in_pairs(D), in_pairs(stride_xb), in_pairs(stride_xt)
        stride_pb, stride_pt = in_pairs(stride_pb), in_pairs(stride_pt)
        stride_qb, stride_qt = in_pairs(stride_qb), in_pairs(stride_qt)
    CUT: tl.constexpr = resets_ptr is not None
    pid = tl.program_id(0)
    sequence = pid // num_blocks
    d = (pid % num_blocks).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = d < D
    c = across_lanes(d, pid, ALIGNED=ALIGNED, COMPLEX=TURNING)
    entry, _skipped, n, batch = chunk_rows(starts_ptr, sequence, num_sequences, T, 0, T, 0, T, REVERSE=False)
    x_row = x_ptr + batch * stride_xb + entry * stride_xt + c * stride_xd
    p_row = p_ptr + batch * stride_pb + entry * stride_pt + c * stride_pd
    q_row = p_row
    if TWO:
        q_row = q_ptr + batch * stride_qb + entry * stride_qt + c * stride_qd
    reset = resets_ptr + (batch * T + entry) if CUT else 0
    h_row = h_ptr + (batch * T + entry) * D + c
    sequence_row = sequence.to(tl.int64) * D + c

    # Load: coefficients and the state
    rate = load_row(rate_ptr + c, mask, MASKED=MASKED)
    cos = load_row(turn_ptr + c, mask, MASKED=MASKED) if TURNING else rate
    sin = load_row(turn_ptr + D + c, mask, MASKED=MASKED) if TURNING else rate
    h = tl.zeros((BLOCK_D,), STATE)
    if h0_ptr is not None:
        h = load_row(h0_ptr + sequence_row, mask, MASKED=MASKED).to(STATE)
    anew = h if FROM_START else tl.zeros((BLOCK_D,), STATE)

    for _ in range(n // ROWS):
        # Load
        xs = load_rows(x_row, stride_xt, mask, ROWS=ROWS, MASKED=MASKED)
        ps = load_rows(p_row, stride_pt, mask, ROWS=ROWS, MASKED=MASKED)
        qs = load_rows(q_row, stride_qt, mask, ROWS=ROWS, MASKED=MASKED) if TWO else ps
        resets = load_resets(reset, ROWS, ROWS=ROWS, CUT=CUT)
        # Compute and store, row by row
        for j in tl.static_range(ROWS):
            decay, gain = formed(rate, ps[j].to(STATE), qs[j].to(STATE), STRENGTH=STRENGTH, GAIN=GAIN)
            if CUT:
                h = tl.where(resets[j], anew, h)
            h = decay * turned(h, cos, sin, TURNING=TURNING) + gain * xs[j].to(STATE)
            store_row(h_row + j * D, h, mask, MASKED=MASKED)
        x_row += ROWS * stride_xt
        p_row += ROWS * stride_pt
        q_row += ROWS * stride_qt
        h_row += ROWS * D
        if CUT:
            reset += ROWS
    for j in range(n % ROWS):  # the rows that are left, one at a time
        x = load_row(x_row + j * stride_xt, mask, MASKED=MASKED)
        p = load_row(p_row + j * stride_pt, mask, MASKED=MASKED)
        q = load_row(q_row + j * stride_qt, mask, MASKED=MASKED) if TWO else p
        decay, gain = formed(rate, p.to(STATE), q.to(STATE), STRENGTH=STRENGTH, GAIN=GAIN)
        if CUT:
            h = tl.where(tl.load(reset + j), anew, h)
        h = decay * turned(h, cos, sin, TURNING=TURNING) + gain * x.to(STATE)
        store_row(h_row + j * D, h, mask, MASKED=MASKED)

    # Store
    store_row(last_ptr + sequence_row, h, mask, MASKED=MASKED)


@triton.jit
def gated_rnn_backward_kernel(
    grad_h_ptr,  # (B, T, D), g
    x_ptr,  # (B, T, D)
    p_ptr,  # (B, T, D)
    q_ptr,  # (B, T, D), read if TWO
    rate_ptr,  # (D,), STATE
    turn_ptr,  # (2, D), STATE: cos and sin, read if TURNING
    h_ptr,  # (B, T, D), contiguous
    h0_ptr,  # (S, D), contiguous; None: 0
    grad_last_ptr,  # (S, D), contiguous, mu after the last step; None: 0
    resets_ptr,  # (B, T), contiguous, bool; None: nothing resets
    starts_ptr,  # (S,), first rows of packed sequences; None: S = B sequences of T rows
    grad_x_ptr,  # out: (B, T, D), contiguous
    grad_p_ptr,  # out: (B, T, D), contiguous
    grad_q_ptr,  # out if TWO: (B, T, D), contiguous
    grad_rate_ptr,  # out: (S, D)
    grad_angle_ptr,  # out if TURNING: (S, D)
    grad_h0_ptr,  # out: (S, D)
    T: tl.int64, D: tl.int64, num_blocks, num_sequences,
    stride_gb: tl.int64, stride_gt: tl.int64, stride_gd,
    stride_xb: tl.int64, stride_xt: tl.int64, stride_xd,
    stride_pb: tl.int64, stride_pt: tl.int64, stride_pd,
    stride_qb: tl.int64, stride_qt: tl.int64, stride_qd,
    STRENGTH: tl.constexpr, GAIN: tl.constexpr, TWO: tl.constexpr, TURNING: tl.constexpr,
    FROM_START: tl.constexpr, ALIGNED: tl.constexpr, MASKED: tl.constexpr, STATE: tl.constexpr,
    BLOCK_D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Rows of all gradients, and what is summed over time, one row per sequence."""
    if TURNING:
        D, stride_gb, stride_gt = in_pairs(D), in_pairs(stride_gb), in_pairs(stride_gt)
        stride_xb, stride_xt = in_pairs(stride_xb), in_pairs(stride_xt)
        stride_pb, stride_pt = in_pairs(stride_pb), in_pairs(stride_pt)
        stride_qb, stride_qt = in_pairs(stride_qb), in_pairs(stride_qt)
    CUT: tl.constexpr = resets_ptr is not None
    pid = tl.program_id(0)
    sequence = pid // num_blocks
    d = (pid % num_blocks).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = d < D
    c = across_lanes(d, pid, ALIGNED=ALIGNED, COMPLEX=TURNING)
    entry, _skipped, n, batch = chunk_rows(starts_ptr, sequence, num_sequences, T, 0, T, 0, T, REVERSE=False)
    # Blocks are counted from the sequence's first row; the walk starts at the last of them, which may be partial.
    blocks = tl.cdiv(n, ROWS)
    top = entry + blocks.to(tl.int64) * ROWS
    g_row = grad_h_ptr + batch * stride_gb + top * stride_gt + c * stride_gd
    x_row = x_ptr + batch * stride_xb + top * stride_xt + c * stride_xd
    p_row = p_ptr + batch * stride_pb + top * stride_pt + c * stride_pd
    q_row = p_row
    if TWO:
        q_row = q_ptr + batch * stride_qb + top * stride_qt + c * stride_qd
    reset = resets_ptr + (batch * T + top) if CUT else 0
    dense_row = (batch * T + top) * D + c
    sequence_row = sequence.to(tl.int64) * D + c

    # Load: coefficients, the first state and the last adjoint
    rate = load_row(rate_ptr + c, mask, MASKED=MASKED)
    cos = load_row(turn_ptr + c, mask, MASKED=MASKED) if TURNING else rate
    sin = load_row(turn_ptr + D + c, mask, MASKED=MASKED) if TURNING else rate
    h0 = tl.zeros((BLOCK_D,), STATE)
    if h0_ptr is not None:
        h0 = load_row(h0_ptr + sequence_row, mask, MASKED=MASKED).to(STATE)
    mu = tl.zeros((BLOCK_D,), STATE)
    if grad_last_ptr is not None:
        mu = load_row(grad_last_ptr + sequence_row, mask, MASKED=MASKED).to(STATE)
    grad_rate = tl.zeros((BLOCK_D,), STATE)
    grad_angle = tl.zeros((BLOCK_D,), STATE)
    grad_start = tl.zeros((BLOCK_D,), STATE)
    anew = h0 if FROM_START else tl.zeros((BLOCK_D,), STATE)

    rest = n - (blocks - 1) * ROWS  # rows of the last block
    for i in range(blocks):
        block = blocks - 1 - i
        g_row -= ROWS * stride_gt
        x_row -= ROWS * stride_xt
        p_row -= ROWS * stride_pt
        q_row -= ROWS * stride_qt
        dense_row -= ROWS * D
        if CUT:
            reset -= ROWS
        live = tl.where(i == 0, rest, ROWS)
        # Load
        xs = load_last_rows(x_row, stride_xt, d, D, live, ROWS=ROWS)
        ps = load_last_rows(p_row, stride_pt, d, D, live, ROWS=ROWS)
        qs = load_second(q_row, stride_qt, ps, d, D, live, TWO=TWO, ROWS=ROWS)
        gs = load_last_rows(g_row, stride_gt, d, D, live, ROWS=ROWS)
        resets = load_resets(reset, live, ROWS=ROWS, CUT=CUT)
        before = tl.load(h_ptr + dense_row - D, mask=live_row(d, D, 0, block), other=0.0).to(STATE)
        # The states of the block once more
        h = tl.where(block > 0, before, h0)
        if CUT:
            h = tl.where(resets[0], anew, h)
        v = turned(h, cos, sin, TURNING=TURNING)
        vs = (v,)
        for j in tl.static_range(ROWS - 1):
            decay, gain = formed(rate, ps[j].to(STATE), qs[j].to(STATE), STRENGTH=STRENGTH, GAIN=GAIN)
            h = decay * v + gain * xs[j].to(STATE)
            if CUT:
                h = tl.where(resets[j + 1], anew, h)
            v = turned(h, cos, sin, TURNING=TURNING)
            vs = vs + (v,)
        # Gradients, from the last row to the first
        for j in tl.static_range(ROWS - 1, -1, -1):
            alive = live_row(d, D, j, live)
            adjoint = gs[j].to(STATE) + mu
            decay, gain, grad_p, grad_q, by_rate = pulled(
                rate, ps[j].to(STATE), qs[j].to(STATE), adjoint * vs[j], adjoint * xs[j].to(STATE),
                STRENGTH=STRENGTH, GAIN=GAIN,
            )  # fmt: skip
            store_row(grad_x_ptr + dense_row + j * D, gain * adjoint, alive, MASKED=True)
            store_row(grad_p_ptr + dense_row + j * D, grad_p, alive, MASKED=True)
            if TWO:
                store_row(grad_q_ptr + dense_row + j * D, grad_q, alive, MASKED=True)
            grad_rate += tl.where(alive, by_rate, 0.0)
            decayed = decay * adjoint
            back = decayed
            if TURNING:
                grad_angle += tl.where(alive, decayed * swap(vs[j]), 0.0)
                back = cos * decayed + swap(sin * decayed)
            if CUT:
                if FROM_START:
                    grad_start += tl.where(resets[j], back, 0.0)
                back = tl.where(resets[j], 0.0, back)
            mu = tl.where(alive, back, mu)

    # Store
    store_row(grad_rate_ptr + sequence_row, grad_rate, mask, MASKED=MASKED)
    if TURNING:
        store_row(grad_angle_ptr + sequence_row, grad_angle, mask, MASKED=MASKED)
    store_row(grad_h0_ptr + sequence_row, mu + grad_start if FROM_START else mu, mask, MASKED=MASKED)


def forward(
    x: Any, p: Any, q: Any, rate: Any, turn: Any, h0: Any, seq_starts: Any, *,
    gates: Any, state_dtype: Any, num_sms: int, lanes: int, resets: Any = None, reset_to: str = "h0",
) -> tuple[Any, Any]:  # fmt: skip
    """`(h, h_last)` with T >= 1: h (B, T, D) in x's dtype, h_last (S, D) in the state's, which is also the rate's."""
    read = [x, p, *([] if q is None else [q])]
    last, block, shape = _layout(read, turn, seq_starts, state_dtype, num_sms, lanes, GATED_FORWARD_LANE)
    h = x.new_empty(x.shape)
    launch(gated_rnn_forward_kernel, (block.num_blocks * last.shape[0],))(
        x, p, q, rate, turn, h0, resets, seq_starts, h, last,
        x.shape[1], x.shape[2], block.num_blocks, last.shape[0],
        *x.stride(), *p.stride(), *(p if q is None else q).stride(),
        STRENGTH=gates.strength, GAIN=gates.gain, TWO=q is not None, ROWS=GATED_FORWARD_ROWS[last.element_size()],
        FROM_START=resets is not None and reset_to == "h0" and h0 is not None, **shape,
    )  # fmt: skip
    return h, last


def backward(
    grad_h: Any, grad_last: Any, x: Any, p: Any, q: Any, rate: Any, turn: Any, h: Any, h0: Any, seq_starts: Any, *,
    gates: Any, state_dtype: Any, num_sms: int, lanes: int, resets: Any = None, reset_to: str = "h0",
) -> tuple[Any, Any, Any, Any, Any, Any]:  # fmt: skip
    """`(grad_x, grad_p, grad_q, grad_rate, grad_angle, grad_h0)` with T >= 1, see `ops/gated_rnn.py`."""
    read = [x, p, grad_h, *([] if q is None else [q])]
    grad_h0, block, shape = _layout(read, turn, seq_starts, state_dtype, num_sms, lanes, GATED_BACKWARD_LANE)
    grad_x, grad_p, grad_rate = x.new_empty(x.shape), x.new_empty(x.shape), grad_h0.new_empty(grad_h0.shape)
    grad_q = None if q is None else x.new_empty(x.shape)
    grad_angle = None if turn is None else grad_h0.new_empty(grad_h0.shape)
    share, turning = gates.strength == "share", turn is not None
    launch(gated_rnn_backward_kernel, (block.num_blocks * grad_h0.shape[0],))(
        grad_h, x, p, q, rate, turn, h, h0, grad_last, resets, seq_starts, grad_x, grad_p, grad_q, grad_rate,
        grad_angle, grad_h0, x.shape[1], x.shape[2], block.num_blocks, grad_h0.shape[0],
        *grad_h.stride(), *x.stride(), *p.stride(), *(p if q is None else q).stride(),
        STRENGTH=gates.strength, GAIN=gates.gain, TWO=q is not None,
        ROWS=gated_backward_rows(
            grad_h0.element_size(), lanes, share=share, turning=turning, resets=resets is not None
        ),
        FROM_START=resets is not None and reset_to == "h0" and h0 is not None,
        **shape,
    )  # fmt: skip
    if grad_angle is not None:
        grad_angle = grad_angle.sum(0)
        grad_angle[0::2].neg_()
    return grad_x, grad_p, grad_q, grad_rate.sum(0), grad_angle, grad_h0


def _layout(
    read: list[Any], turn: Any, seq_starts: Any, state_dtype: Any, num_sms: int, lanes: int, per_lane: int
) -> tuple[Any, Channels, dict[str, Any]]:
    """A state per sequence, the blocks of channels, and what both launches share, from the tensors that are read."""
    x = read[0]
    sequences = x.shape[0] if seq_starts is None else seq_starts.shape[0]
    states = x.new_empty((sequences, x.shape[2]), dtype=state_dtype)
    aligned, pair_lanes = all(map(has_aligned_rows, read)), 0 if turn is None else lanes
    block = chains(x.shape[2], sequences, x.element_size(), num_sms, pair_lanes=pair_lanes, aligned=aligned)
    block_d = min(block.block_d, per_lane * max(LANES, pair_lanes))
    block = Channels(block_d, triton.cdiv(x.shape[2], block_d), x.shape[2] % block_d != 0)
    shape = dict(
        TURNING=turn is not None, ALIGNED=aligned, MASKED=block.masked, STATE=state_type(states),
        BLOCK_D=block.block_d, num_warps=NUM_WARPS,
    )  # fmt: skip
    return states, block, shape

"""Diagonal nonlinear recurrence, `h[t] = h[t-1] + dt * act(x[t] - rate * h[t-1])`: forward and backward Triton kernels.

Indices: b sequence, t time, d channel; tensors are (B, T, D). The rates come out of a raw parameter w, (D,), inside
the kernel (`kernels/parameterization.py`; parameterisation "direct" without EXACT: the rates themselves). The state
lives in registers in STATE (float32, float64 for float64 input). A program owns BLOCK_D channels of one sequence,
several per thread unless they are few (`launch.chains`). ROWS rows are always in flight: the register of a row that has
been used takes the row that lies ROWS further on.

Backward, with g = dL/dh, z[t] = x[t] - rate * h[t-1], s[t] = act'(z[t]) and mu the adjoint arriving from later steps:

    lambda[t] = g[t] + mu[t],          dx[t] = dt * s[t] * lambda[t]
    mu[t-1] = lambda[t] - rate * dx[t],   drate -= dx[t] * h[t-1],   dh0 = mu[-1],   dw = (rate by w) * drate

h is recomputed block by block from its last stored value, with the arithmetic of the forward pass, so that x, g and one
row of h in ROWS are read: act' from differences of a rounded h would mistake saturated steps for linear ones.
`drate` is summed over time in registers, chained to dw in STATE and leaves the kernel as one row per sequence: no
atomics.

PAIRED, channels (2k, 2k + 1) of one thread also turn: `z[t] = x[t] - rate * h[t-1] + turn * swap(h[t-1])`, swap
exchanges the two, turn has opposite signs in them. Then `mu[t-1]` has `- turn * swap(dx[t])` and
`dturn += dx[t] * swap(h[t-1])`; the launchers are in `paired_rnn_scan.py`.

Traffic in elements per element: forward 2, backward 3 + 1 / ROWS, and one block of rows of a sequence read again.
Source: Eq. (1) of arXiv 2305.19190 in discrete time and its adjoint; defined in `reference/rnn_scan.py`.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from cofm_triton.kernels.interleaved import in_pairs, swap
from cofm_triton.kernels.launch import NUM_WARPS, Channels, chains, has_aligned_rows
from cofm_triton.kernels.nonlinearity import act, act_derivative
from cofm_triton.kernels.parameterization import step_rate, step_rate_slope
from cofm_triton.kernels.rows import (
    across_lanes,
    chunk_rows,
    live_row,
    load_last_rows,
    load_row,
    store_row,
)

# Rows in flight, twice as many in narrow blocks. Not of tanh: a step of it takes so long that its rows arrive in time,
# and twice as many would take a minute to compile. Nor where rows are masked, which takes more scalar registers than
# gfx942 has. Backward holds x, g, and the recomputed h and act' of a block in registers; by the size of the state.
FORWARD_ROWS = {4: 12, 8: 8}
BACKWARD_ROWS = {4: 7, 8: 4}


@triton.jit
def pulled(x, pull, turn, h, PAIRED: tl.constexpr):
    """z = x + pull * h + turn * swap(h); `pull` is the rate subtracted from zero, `turn` unused unless PAIRED."""
    z = x + pull * h
    if PAIRED:
        z += turn * swap(h)
    return z


@triton.jit
def rnn_scan_forward_kernel(
    x_ptr, w_ptr, turn_ptr, h0_ptr, starts_ptr, h_ptr, last_ptr,
    T: tl.int64, D: tl.int64, num_blocks, num_sequences, dt: tl.float64,
    stride_xb: tl.int64, stride_xt: tl.int64, stride_xd,
    NONLINEARITY: tl.constexpr, PARAMETERIZATION: tl.constexpr, EXACT: tl.constexpr, HAS_H0: tl.constexpr,
    PACKED: tl.constexpr, PAIRED: tl.constexpr,
    ALIGNED: tl.constexpr, STATE: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Writes h (B, T, D), contiguous, and last (S, D), the final state; S = B unless PACKED."""
    if PAIRED:
        D, stride_xb, stride_xt = in_pairs(D), in_pairs(stride_xb), in_pairs(stride_xt)
    pid = tl.program_id(0)
    sequence = pid // num_blocks
    d = (pid % num_blocks).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = d < D
    c = across_lanes(d, pid, ALIGNED, PAIRED)
    entry, _skipped, n, batch = chunk_rows(starts_ptr, sequence, num_sequences, T, 0, T, 0, T, PACKED, False)
    x_row = x_ptr + batch * stride_xb + entry * stride_xt + c * stride_xd
    h_row = h_ptr + (batch * T + entry) * D + c
    sequence_row = sequence.to(tl.int64) * D + c
    step = tl.full((), dt, STATE)

    # Subtracted from zero: a mere change of sign would move into the loop and be paid there once per state.
    pull = 0.0 - step_rate(load_row(w_ptr + c, mask, MASKED), dt, PARAMETERIZATION, EXACT)
    turn = load_row(turn_ptr + c, mask, MASKED) if PAIRED else pull
    h = tl.zeros((BLOCK_D,), STATE)
    if HAS_H0:
        h = load_row(h0_ptr + sequence_row, mask, MASKED).to(STATE)

    blocks = n // ROWS
    last_row = x_row + blocks * ROWS * stride_xt
    xs = load_last_rows(x_row, stride_xt, d, D, tl.minimum(n, ROWS), ROWS)
    for i in range(blocks):
        # The last block has none after it, and reads itself once more.
        x_row += tl.where(i + 1 < blocks, ROWS * stride_xt, 0)
        ahead = ()
        for j in tl.static_range(ROWS):
            h += step * act(pulled(xs[j].to(STATE), pull, turn, h, PAIRED), NONLINEARITY)
            ahead = ahead + (load_row(x_row + j * stride_xt, mask, MASKED),)
            store_row(h_row + j * D, h, mask, MASKED)
        xs = ahead
        h_row += ROWS * D
    rest = n % ROWS
    if rest > 0:
        last_xs = load_last_rows(last_row, stride_xt, d, D, rest, ROWS - 1)
        for j in tl.static_range(ROWS - 1):
            live = live_row(d, D, j, rest)
            z = pulled(last_xs[j].to(STATE), pull, turn, h, PAIRED)
            h = tl.where(live, h + step * act(z, NONLINEARITY), h)
            store_row(h_row + j * D, h, live, True)

    store_row(last_ptr + sequence_row, h, mask, MASKED)


@triton.jit
def rnn_scan_backward_kernel(
    grad_h_ptr, x_ptr, w_ptr, turn_ptr, h_ptr, h0_ptr, grad_last_ptr, starts_ptr,
    grad_x_ptr, grad_w_ptr, grad_turn_ptr, grad_h0_ptr,
    T: tl.int64, D: tl.int64, num_blocks, num_sequences, dt: tl.float64,
    stride_gb: tl.int64, stride_gt: tl.int64, stride_gd,
    stride_xb: tl.int64, stride_xt: tl.int64, stride_xd,
    NONLINEARITY: tl.constexpr, PARAMETERIZATION: tl.constexpr, EXACT: tl.constexpr, HAS_H0: tl.constexpr,
    HAS_GRAD_LAST: tl.constexpr, PACKED: tl.constexpr, PAIRED: tl.constexpr,
    ALIGNED: tl.constexpr, STATE: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Writes grad_x (B, T, D), contiguous, and grad_w, grad_turn, grad_h0 (S, D), one row per sequence."""
    if PAIRED:
        D, stride_gb, stride_gt = in_pairs(D), in_pairs(stride_gb), in_pairs(stride_gt)
        stride_xb, stride_xt = in_pairs(stride_xb), in_pairs(stride_xt)
    pid = tl.program_id(0)
    sequence = pid // num_blocks
    d = (pid % num_blocks).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = d < D
    c = across_lanes(d, pid, ALIGNED, PAIRED)
    entry, _skipped, n, batch = chunk_rows(starts_ptr, sequence, num_sequences, T, 0, T, 0, T, PACKED, False)
    # Blocks are counted from the sequence's first row, the walk starts at the last of them, which may be partial.
    block = n // ROWS
    top = entry + block * ROWS
    g_row = grad_h_ptr + batch * stride_gb + top * stride_gt + c * stride_gd
    x_row = x_ptr + batch * stride_xb + top * stride_xt + c * stride_xd
    dense_row = (batch * T + top) * D + c
    dx_row = grad_x_ptr + dense_row
    before_row = h_ptr + dense_row - D
    sequence_row = sequence.to(tl.int64) * D + c
    step = tl.full((), dt, STATE)

    # Subtracted from zero: a mere change of sign would move into the loop and be paid there once per state.
    pull = 0.0 - step_rate(load_row(w_ptr + c, mask, MASKED), dt, PARAMETERIZATION, EXACT)
    turn = load_row(turn_ptr + c, mask, MASKED) if PAIRED else pull
    back_turn = 0.0 - turn
    start = tl.zeros((BLOCK_D,), STATE)
    if HAS_H0:
        start = load_row(h0_ptr + sequence_row, mask, MASKED).to(STATE)
    mu = tl.zeros((BLOCK_D,), STATE)
    if HAS_GRAD_LAST:
        mu = load_row(grad_last_ptr + sequence_row, mask, MASKED).to(STATE)
    grad_pull = tl.zeros((BLOCK_D,), STATE)
    grad_turn = tl.zeros((BLOCK_D,), STATE)

    rest = n % ROWS
    if rest > 0:
        last_xs = load_last_rows(x_row, stride_xt, d, D, rest, ROWS - 1)
        last_gs = load_last_rows(g_row, stride_gt, d, D, rest, ROWS - 1)
        stored = tl.load(before_row, mask=live_row(d, D, 0, block), other=0.0).to(STATE)
        h = tl.where(block > 0, stored, start)
        hs = ()
        slopes = ()
        for j in tl.static_range(ROWS - 1):
            z = pulled(last_xs[j].to(STATE), pull, turn, h, PAIRED)
            u = act(z, NONLINEARITY)
            hs = hs + (h,)
            slopes = slopes + (act_derivative(z, u, step, NONLINEARITY),)
            h += step * u
        for j in tl.static_range(ROWS - 2, -1, -1):
            live = live_row(d, D, j, rest)
            adjoint = last_gs[j].to(STATE) + mu
            grad_x = slopes[j] * adjoint
            mu = tl.where(live, pulled(adjoint, pull, back_turn, grad_x, PAIRED), mu)
            grad_pull += tl.where(live, grad_x * hs[j], 0.0)
            if PAIRED:
                grad_turn += tl.where(live, grad_x * swap(hs[j]), 0.0)
            store_row(dx_row + j * D, grad_x, live, True)
    full = tl.where(block > 0, ROWS, 0)
    g_row -= full * stride_gt
    x_row -= full * stride_xt
    before_row -= full * D
    xs = load_last_rows(x_row, stride_xt, d, D, full, ROWS)
    gs = load_last_rows(g_row, stride_gt, d, D, full, ROWS)
    stored = tl.load(before_row, mask=live_row(d, D, 1, block), other=0.0)
    for _ in range(n // ROWS):
        block -= 1
        h = tl.where(block > 0, stored.to(STATE), start)
        # The first block has none before it, and reads itself once more.
        back = tl.where(block > 0, ROWS, 0)
        g_row -= back * stride_gt
        x_row -= back * stride_xt
        before_row -= back * D
        stored = tl.load(before_row, mask=live_row(d, D, 1, block), other=0.0)
        dx_row -= ROWS * D
        hs = ()
        slopes = ()
        xs_ahead = ()
        gs_ahead = ()
        for j in tl.static_range(ROWS):
            z = pulled(xs[j].to(STATE), pull, turn, h, PAIRED)
            xs_ahead = xs_ahead + (load_row(x_row + j * stride_xt, mask, MASKED),)
            u = act(z, NONLINEARITY)
            hs = hs + (h,)
            slopes = slopes + (act_derivative(z, u, step, NONLINEARITY),)
            h += step * u
        for j in tl.static_range(ROWS - 1, -1, -1):
            adjoint = gs[j].to(STATE) + mu
            grad_x = slopes[j] * adjoint
            gs_ahead = (load_row(g_row + j * stride_gt, mask, MASKED),) + gs_ahead
            mu = pulled(adjoint, pull, back_turn, grad_x, PAIRED)
            grad_pull += grad_x * hs[j]
            if PAIRED:
                grad_turn += grad_x * swap(hs[j])
            store_row(dx_row + j * D, grad_x, mask, MASKED)
        xs = xs_ahead
        gs = gs_ahead

    slope = step_rate_slope(load_row(w_ptr + c, mask, MASKED), dt, PARAMETERIZATION, EXACT)
    store_row(grad_w_ptr + sequence_row, -slope * grad_pull, mask, MASKED)
    if PAIRED:
        store_row(grad_turn_ptr + sequence_row, grad_turn, mask, MASKED)
    store_row(grad_h0_ptr + sequence_row, mu, mask, MASKED)


def forward(
    x: Any, w: Any, h0: Any, seq_starts: Any, *,
    dt: float, nonlinearity: str, parameterization: str, discretization: str, state_dtype: Any, num_sms: int,
) -> tuple[Any, Any]:  # fmt: skip
    """`(h, h_last)` with T >= 1: h (B, T, D) in x's dtype, h_last (S, D) in the state's, which is also w's."""
    h, last, block, shape = buffers([x], seq_starts, state_dtype, num_sms)
    rnn_scan_forward_kernel[(block.num_blocks * last.shape[0],)](
        x, w, None, h0, seq_starts, h, last,
        x.shape[1], x.shape[2], block.num_blocks, last.shape[0], dt, *x.stride(),
        NONLINEARITY=nonlinearity, PARAMETERIZATION=parameterization, EXACT=discretization == "exact",
        HAS_H0=h0 is not None, ROWS=rows_of(FORWARD_ROWS[last.element_size()], block, nonlinearity), **shape,
    )  # fmt: skip
    return h, last


def backward(
    grad_h: Any, grad_last: Any, x: Any, w: Any, h: Any, h0: Any, seq_starts: Any, *,
    dt: float, nonlinearity: str, parameterization: str, discretization: str, state_dtype: Any, num_sms: int,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """`(grad_x, grad_w, grad_h0)` with T >= 1: grad_w (D,) and grad_h0 (S, D) in the state's dtype, which is w's."""
    grad_x, grad_h0, block, shape = buffers([x, grad_h], seq_starts, state_dtype, num_sms)
    grad_w = grad_h0.new_empty(grad_h0.shape)
    rnn_scan_backward_kernel[(block.num_blocks * grad_h0.shape[0],)](
        grad_h, x, w, None, h, h0, grad_last, seq_starts, grad_x, grad_w, None, grad_h0,
        x.shape[1], x.shape[2], block.num_blocks, grad_h0.shape[0], dt, *grad_h.stride(), *x.stride(),
        NONLINEARITY=nonlinearity, PARAMETERIZATION=parameterization, EXACT=discretization == "exact",
        HAS_H0=h0 is not None, HAS_GRAD_LAST=grad_last is not None,
        ROWS=rows_of(BACKWARD_ROWS[grad_h0.element_size()], block, nonlinearity), **shape,
    )  # fmt: skip
    return grad_x, grad_w.sum(0), grad_h0


def rows_of(full: int, block: Channels, nonlinearity: str) -> int:
    """Rows of a block of time: twice as many where a thread has half the channels, or less."""
    return full if nonlinearity == "tanh" or block.masked else full * block.part


def buffers(
    read: list[Any], seq_starts: Any, state_dtype: Any, num_sms: int, *, pair_lanes: int = 0
) -> tuple[Any, Any, Channels, dict[str, Any]]:
    """A tensor like x, the first of those that are `read`, one state per sequence, and what both launches share."""
    x = read[0]
    sequences = x.shape[0] if seq_starts is None else seq_starts.shape[0]
    states = x.new_empty((sequences, x.shape[2]), dtype=state_dtype)
    aligned = all(map(has_aligned_rows, read))
    block = chains(x.shape[2], sequences, x.element_size(), num_sms, pair_lanes=pair_lanes, aligned=aligned)
    shape = dict(
        PACKED=seq_starts is not None, PAIRED=pair_lanes > 0, ALIGNED=aligned,
        STATE=tl.float64 if states.element_size() == 8 else tl.float32,
        BLOCK_D=block.block_d, MASKED=block.masked, num_warps=NUM_WARPS,
    )  # fmt: skip
    return x.new_empty(x.shape), states, block, shape

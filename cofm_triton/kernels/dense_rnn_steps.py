"""Dense nonlinear recurrence of wide states: one launch per step, forward and adjoint Triton kernels.

    forward    z[t] = x[t] - weight @ h[t-1],       h[t] = h[t-1] + dt * act(z[t])
    adjoint    lambda[t] = g[t] + mu[t],            dx[t] = dt * s[t] * lambda[t]
               mu[t-1] = lambda[t] - weight^T dx[t],  dh0 = mu[-1]

Where resets[t], h[t-1] is the start state, h0 or zero: the launch before hands that on. mu[t-1] ends there.

Indices: b sequence, t time, n and k channels; tensors are (B, T, D), weight is (D, D). State, slopes s[t] = act'(z[t])
and matrix are in STATE: float32, for float64 input float64. Masked lanes hold 0 and are not stored.

A program forms TILE_B x TILE_N sums of a step by `tl.dot`, whose input precision is PRECISION. The state goes from one
launch to the next through memory, two (B, D) tensors in turn; the weight comes from L2.

Traffic in elements per step: the weight, D^2, once per TILE_B sequences; rows as in `dense_rnn.py`, and the state
written and read.
Source: arXiv 2305.19190, Eq. (1) in discrete time, and its adjoint; defined in `reference/dense_rnn.py`.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from cofm_triton.kernels.launch import STEP_SHAPE, state_type
from cofm_triton.kernels.launches import launch
from cofm_triton.kernels.nonlinearity import act, act_derivative


@triton.jit
def tile_product(
    v_ptr, matrix_ptr, b, n, B, D, stride_vb,
    PRECISION: tl.constexpr, STATE: tl.constexpr, TILE_B: tl.constexpr, TILE_N: tl.constexpr, TILE_K: tl.constexpr,
):  # fmt: skip
    """`sum_k v[b, k] matrix[k, n]`, (TILE_B, TILE_N), of rows v that are contiguous, and a contiguous matrix."""
    total = tl.zeros((TILE_B, TILE_N), STATE)
    for first in range(0, D, TILE_K):
        k = first + tl.arange(0, TILE_K)
        v = tl.load(v_ptr + b[:, None] * stride_vb + k[None, :], mask=(b[:, None] < B) & (k[None, :] < D), other=0.0)
        tile = tl.load(matrix_ptr + k[:, None] * D + n[None, :], mask=(k[:, None] < D) & (n[None, :] < D), other=0.0)
        total = tl.dot(v, tile, total, input_precision=PRECISION, out_dtype=STATE)
    return total


@triton.jit(do_not_specialize=["t"])
def dense_rnn_forward_step_kernel(
    x_ptr,  # (B, T, D)
    matrix_ptr,  # (D, D), weight^T, contiguous
    state_ptr,  # (B, D), h[t-1], contiguous
    h0_ptr,  # (B, D), the start state of episodes, contiguous; None: 0
    resets_ptr,  # (B, T), a byte each, contiguous; None: no resets
    h_ptr,  # out: (B, T, D), contiguous; step t is written
    next_ptr,  # out: (B, D), h[t], or where resets[t+1] the start state, in STATE
    slope_ptr,  # out if KEEP: (B, T, D), act'(z[t]), contiguous; step t is written
    t: tl.int64, B: tl.int64, T: tl.int64, D: tl.int64, num_blocks, dt: tl.float64,
    stride_xb: tl.int64, stride_xt: tl.int64, stride_xd: tl.int64,
    NONLINEARITY: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr,
    STATE: tl.constexpr, TILE_B: tl.constexpr, TILE_N: tl.constexpr, TILE_K: tl.constexpr,
):  # fmt: skip
    """Step t of the recurrence."""
    pid = tl.program_id(0)
    b = (pid // num_blocks).to(tl.int64) * TILE_B + tl.arange(0, TILE_B)
    n = (pid % num_blocks).to(tl.int64) * TILE_N + tl.arange(0, TILE_N)
    mask = (b[:, None] < B) & (n[None, :] < D)
    dt = tl.full((), dt, STATE)

    # Load
    x = tl.load(x_ptr + b[:, None] * stride_xb + t * stride_xt + n[None, :] * stride_xd, mask=mask, other=0.0).to(STATE)
    before = tl.load(state_ptr + b[:, None] * D + n[None, :], mask=mask, other=0.0)

    # Compute
    product = tile_product(
        state_ptr, matrix_ptr, b, n, B, D, D,
        PRECISION=PRECISION, STATE=STATE, TILE_B=TILE_B, TILE_N=TILE_N, TILE_K=TILE_K,
    )  # fmt: skip
    z = x - product
    u = act(z, NONLINEARITY=NONLINEARITY)
    h = before + dt * u

    # Store
    place = (b[:, None] * T + t) * D + n[None, :]
    tl.store(h_ptr + place, h.to(h_ptr.dtype.element_ty), mask=mask)
    if resets_ptr is not None:
        cut = tl.load(resets_ptr + b * T + t + 1, mask=b < tl.where(t + 1 < T, B, 0), other=0)[:, None] != 0
        start = tl.zeros_like(h)
        if h0_ptr is not None:
            start = tl.load(h0_ptr + b[:, None] * D + n[None, :], mask=mask & cut, other=0.0)
        h = tl.where(cut, start, h)
    tl.store(next_ptr + b[:, None] * D + n[None, :], h, mask=mask)
    if KEEP:
        tl.store(slope_ptr + place, act_derivative(z, u, 1.0, NONLINEARITY=NONLINEARITY), mask=mask)


@triton.jit(do_not_specialize=["t"])
def dense_rnn_adjoint_step_kernel(
    grad_h_ptr,  # (B, T, D), g
    slope_ptr,  # (B, T, D), s, contiguous
    matrix_ptr,  # (D, D), weight, contiguous
    adjoint_ptr,  # (B, D), lambda[t+1], contiguous; mu[T-1] at the last step
    resets_ptr,  # (B, T), a byte each, contiguous; None: no resets
    grad_start_ptr,  # in and out: (B, D), the sum of what arrives at resets, contiguous; None: not wanted
    grad_x_ptr,  # in and out: (B, T, D), contiguous; step t + 1 is read, step t written
    next_ptr,  # out: (B, D), lambda[t]; mu[-1] at t = -1
    t: tl.int64, B: tl.int64, T: tl.int64, D: tl.int64, num_blocks, dt: tl.float64,
    stride_gb: tl.int64, stride_gt: tl.int64, stride_gd: tl.int64,
    PRECISION: tl.constexpr, STATE: tl.constexpr, TILE_B: tl.constexpr, TILE_N: tl.constexpr, TILE_K: tl.constexpr,
):  # fmt: skip
    """Step t of the adjoint, t = T - 1, ..., 0, and the last product, t = -1."""
    pid = tl.program_id(0)
    b = (pid // num_blocks).to(tl.int64) * TILE_B + tl.arange(0, TILE_B)
    n = (pid % num_blocks).to(tl.int64) * TILE_N + tl.arange(0, TILE_N)
    mask = (b[:, None] < B) & (n[None, :] < D)
    dt = tl.full((), dt, STATE)
    place = (b[:, None] * T + t) * D + n[None, :]

    value = tl.load(adjoint_ptr + b[:, None] * D + n[None, :], mask=mask, other=0.0)
    if t < T - 1:
        later = grad_x_ptr + (t + 1) * D
        value -= tile_product(
            later, matrix_ptr, b, n, B, D, T * D,
            PRECISION=PRECISION, STATE=STATE, TILE_B=TILE_B, TILE_N=TILE_N, TILE_K=TILE_K,
        )  # fmt: skip
        if resets_ptr is not None:
            cut = tl.load(resets_ptr + b * T + t + 1, mask=b < B, other=0)[:, None] != 0
            if grad_start_ptr is not None:
                total_ptr = grad_start_ptr + b[:, None] * D + n[None, :]
                tl.store(total_ptr, tl.load(total_ptr, mask=mask & cut, other=0.0) + value, mask=mask & cut)
            value = tl.where(cut, 0.0, value)
    if t >= 0:
        g_ptr = grad_h_ptr + t * stride_gt
        g = tl.load(g_ptr + b[:, None] * stride_gb + n[None, :] * stride_gd, mask=mask, other=0.0)
        value += g.to(STATE)
        tl.store(grad_x_ptr + place, dt * tl.load(slope_ptr + place, mask=mask, other=0.0) * value, mask=mask)

    tl.store(next_ptr + b[:, None] * D + n[None, :], value, mask=mask)


def forward(
    x: Any, weight: Any, h0: Any, resets: Any, h: Any, slope: Any, *,
    reset_to: str, dt: float, nonlinearity: str, precision: str, keep: bool,
) -> Any:  # fmt: skip
    """Writes h and, if `keep`, slope; gives the last state, (B, D) in the state's dtype, which is slope's."""
    batch, length, size = x.shape
    matrix = weight.T.to(slope.dtype).contiguous()
    before = slope.new_zeros((batch, size)) if h0 is None else h0.clone()
    if resets is not None and reset_to == "zero":
        before.masked_fill_(resets[:, :1], 0.0)
    after = before.new_empty(before.shape)
    programs, num_blocks = _programs(batch, size)
    for t in range(length):
        launch(dense_rnn_forward_step_kernel, (programs,))(
            x, matrix, before, None if reset_to == "zero" or resets is None else h0, resets, h, after, slope,
            t, batch, length, size, num_blocks, dt, *x.stride(),
            NONLINEARITY=nonlinearity, KEEP=keep, PRECISION=precision, STATE=state_type(before), **STEP_SHAPE._asdict(),
        )  # fmt: skip
        before, after = after, before
    return before


def adjoint(
    grad_h: Any, grad_last: Any, slope: Any, weight: Any, resets: Any, grad_x: Any, *,
    reset_to: str, dt: float, precision: str,
) -> Any:  # fmt: skip
    """Writes grad_x; gives grad_h0, (B, D) in the dtype of the slopes."""
    batch, length, size = slope.shape
    matrix = weight.to(slope.dtype)
    before = slope.new_zeros((batch, size)) if grad_last is None else grad_last.clone()
    after = before.new_empty(before.shape)
    grad_start = None if reset_to == "zero" or resets is None else before.new_zeros(before.shape)
    programs, num_blocks = _programs(batch, size)
    for t in range(length - 1, -2, -1):
        launch(dense_rnn_adjoint_step_kernel, (programs,))(
            grad_h, slope, matrix, before, resets, grad_start, grad_x, after,
            t, batch, length, size, num_blocks, dt, *grad_h.stride(),
            PRECISION=precision, STATE=state_type(slope), **STEP_SHAPE._asdict(),
        )  # fmt: skip
        before, after = after, before
    return before if grad_start is None else before + grad_start


def _programs(batch: int, channels: int) -> tuple[int, int]:
    """Programs of a step, and how many of them share a block of sequences."""
    num_blocks = triton.cdiv(channels, STEP_SHAPE.TILE_N)
    return triton.cdiv(batch, STEP_SHAPE.TILE_B) * num_blocks, num_blocks

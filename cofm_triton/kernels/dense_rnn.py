"""Dense nonlinear recurrence, `h[t] = h[t-1] + dt * act(x[t] - weight @ h[t-1])`: forward and adjoint Triton kernels.

    forward    z[t] = x[t] - weight @ h[t-1],       h[t] = h[t-1] + dt * act(z[t])
    adjoint    lambda[t] = g[t] + mu[t],            dx[t] = dt * s[t] * lambda[t]
               mu[t-1] = lambda[t] - weight^T dx[t],  dh0 = mu[-1]

Where resets[t], h[t-1] is the start state, h0 or zero, and mu[t-1] ends there: it is added to dh0, or dropped.

Indices: b sequence, t time, n and k channels; tensors are (B, T, D), weight is (D, D). State, slopes s[t] = act'(z[t])
and products are in STATE: float32, for float64 input float64. Channels from D on hold 0 and are not stored.

Both passes need `out[n] = sum_k matrix[k, n] v[k]` in every step, with matrix = weight^T forward and weight backward,
n the fast axis.

A program carries one sequence through all of time in one launch, with the matrix in its registers, in tiles of
BLOCK x BLOCK numbers (`launch.dense`). Several sequences per program would gain nothing: fused multiply-adds cannot
share a product between them, and B programs run side by side. In a tile the lanes of a warp are neighbours in n and a
lane has many k, so that most of a sum stays in one lane.

- Up to 192 channels (256 in bfloat16, or on MI300X) the whole matrix stays in registers.
- At 256 float32 channels, half of it does; an NVIDIA multiprocessor has 256 KiB of registers. The other 128 KiB are
  reloaded every step, from a first-level cache of 192 KiB or more that no other program uses.
- bfloat16 weights that would not fit as float32 stay packed, two numbers a word, and are widened as they are used.
  float16 spills as it is widened, so it counts as float32.
- Wider states take one launch per step: `dense_rnn_steps.py`.

Traffic in elements per element: forward 2, and 1 more for the slopes if kept; adjoint 3.
Source: arXiv 2305.19190, Eq. (1) in discrete time, and its adjoint; defined in `reference/dense_rnn.py`.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from cofm_triton.kernels import dense_rnn_steps
from cofm_triton.kernels.launch import Dense, dense, state_type
from cofm_triton.kernels.launches import launch
from cofm_triton.kernels.nonlinearity import act, act_derivative


@triton.jit
def load_tile(matrix_ptr, TILE: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    """Tile (k block, n block) = (TILE // BLOCKS, TILE % BLOCKS) of a matrix that is padded to whole tiles.

    All offsets are compile-time constants, so that reloaded tiles cost no registers for addresses. A lane takes one
    column: with several it would have few k, and sums would cross warps.
    """
    k = (TILE // BLOCKS) * BLOCK + tl.arange(0, BLOCK)[:, None]
    n = (TILE % BLOCKS) * BLOCK + tl.arange(0, BLOCK)[None, :]
    return tl.load(tl.max_contiguous(matrix_ptr + k * (BLOCKS * BLOCK) + n, (1, 1)))


@triton.jit
def load_tiles(matrix_ptr, COUNT: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    """The first COUNT tiles, which stay in registers."""
    tiles = ()
    for tile in tl.static_range(COUNT):
        tiles = tiles + (load_tile(matrix_ptr, TILE=tile, BLOCKS=BLOCKS, BLOCK=BLOCK),)
    return tiles


@triton.jit
def upper(word, zero):
    """The bfloat16 number in the upper half of a word, as float32; `zero`: see `multiply`."""
    return (word & (zero - 65536)).to(tl.float32, bitcast=True)


@triton.jit
def lower(word, zero):
    """The bfloat16 number in the lower half."""
    return (word << (16 + zero)).to(tl.float32, bitcast=True)


@triton.jit
def multiply(
    matrix_ptr, tiles, v, row,
    RESIDENT: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """`out[n] = sum_k matrix[k, n] v[k]`, v and the result in BLOCKS blocks; tiles that are not resident are loaded.

    PACKED, a word of a tile has two numbers: k in block 2 c in its lower half, in block 2 c + 1 in its upper half.
    Widening uses a zero that the compiler cannot see, made from `row`, an offset below 2^62. Otherwise it would widen
    the matrix before the loop, into twice the registers.
    """
    zero = (row >> 62).to(tl.int32)
    out = ()
    for j in tl.static_range(BLOCKS):
        total = tl.zeros((BLOCK, BLOCK), v[0].dtype)
        for c in tl.static_range(BLOCKS // 2 if PACKED else BLOCKS):
            if c * BLOCKS + j < RESIDENT:
                tile = tiles[c * BLOCKS + j]
            else:
                tile = load_tile(matrix_ptr, TILE=c * BLOCKS + j, BLOCKS=BLOCKS, BLOCK=BLOCK)
            if PACKED:
                total += lower(tile, zero) * v[2 * c][:, None]
                total += upper(tile, zero) * v[2 * c + 1][:, None]
            else:
                total += tile * v[c][:, None]
        out = out + (tl.sum(total, 0),)
    return out


@triton.jit
def load_blocks(ptr, D, stride, inside, STATE: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    """A row in BLOCKS blocks, in STATE; 0 beyond D, and everywhere if not `inside`."""
    n = tl.arange(0, BLOCK).to(tl.int64)
    D = tl.where(inside, D, 0)
    blocks = ()
    for j in tl.static_range(BLOCKS):
        block = tl.load(ptr + j * BLOCK * stride + n * stride, mask=n < D - j * BLOCK, other=0.0)
        blocks = blocks + (block.to(STATE),)
    return blocks


@triton.jit
def store_block(ptr, D, block, j: tl.constexpr, BLOCK: tl.constexpr):
    """Write block j of a contiguous row, rounded to the dtype of the tensor."""
    n = tl.arange(0, BLOCK)
    tl.store(ptr + j * BLOCK + n, block.to(ptr.dtype.element_ty), mask=n < D - j * BLOCK)


@triton.jit
def choose(cut, blocks, others, BLOCKS: tl.constexpr):
    """`others` where an episode begins, `blocks` elsewhere."""
    chosen = ()
    for j in tl.static_range(BLOCKS):
        chosen = chosen + (tl.where(cut, others[j], blocks[j]),)
    return chosen


@triton.jit
def dense_rnn_forward_kernel(
    x_ptr,  # (B, T, D)
    matrix_ptr,  # (BLOCKS * BLOCK, BLOCKS * BLOCK), weight^T, padded; PACKED, bfloat16, see `_tiled`
    h0_ptr,  # (B, D), contiguous; None: 0
    resets_ptr,  # (B, T), a byte each, contiguous; None: no resets
    h_ptr,  # out: (B, T, D), contiguous
    last_ptr,  # out: (B, D), final states
    slope_ptr,  # out if KEEP: (B, T, D), s, contiguous
    T: tl.int64, D: tl.int64, dt: tl.float64, stride_xb: tl.int64, stride_xt: tl.int64, stride_xd: tl.int64,
    NONLINEARITY: tl.constexpr, KEEP: tl.constexpr, TO_ZERO: tl.constexpr,
    STATE: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr, RESIDENT: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """One sequence, from its first step to its last."""
    batch = tl.program_id(0).to(tl.int64)
    x_row = x_ptr + batch * stride_xb
    row = batch * T * D
    dt = tl.full((), dt, STATE)
    if PACKED:
        matrix_ptr = matrix_ptr.to(tl.pointer_type(tl.int32))
    tiles = load_tiles(matrix_ptr, COUNT=RESIDENT, BLOCKS=BLOCKS, BLOCK=BLOCK)
    h0_row = x_ptr if h0_ptr is None else h0_ptr + batch * D
    h = load_blocks(h0_row, D, 1, h0_ptr is not None, STATE=STATE, BLOCKS=BLOCKS, BLOCK=BLOCK)
    x = load_blocks(x_row, D, stride_xd, T > 0, STATE=STATE, BLOCKS=BLOCKS, BLOCK=BLOCK)
    if resets_ptr is not None:
        resets_row = resets_ptr + batch * T
        cut = tl.load(resets_row, mask=T > 0, other=0) != 0

    for t in range(T):
        if resets_ptr is not None:
            from_h0 = cut & (h0_ptr is not None and not TO_ZERO)
            start = load_blocks(h0_row, D, 1, from_h0, STATE=STATE, BLOCKS=BLOCKS, BLOCK=BLOCK)
            h = choose(cut, h, start, BLOCKS=BLOCKS)
            cut = tl.load(resets_row + t + 1, mask=t + 1 < T, other=0) != 0
        # Load: x of the next step
        x_row += stride_xt
        x_next = load_blocks(x_row, D, stride_xd, t + 1 < T, STATE=STATE, BLOCKS=BLOCKS, BLOCK=BLOCK)
        # Compute and store, block by block
        product = multiply(matrix_ptr, tiles, h, row, RESIDENT=RESIDENT, BLOCKS=BLOCKS, BLOCK=BLOCK, PACKED=PACKED)
        h_next = ()
        for j in tl.static_range(BLOCKS):
            z = x[j] - product[j]
            u = act(z, NONLINEARITY=NONLINEARITY)
            h_next = h_next + (h[j] + dt * u,)
            store_block(h_ptr + row, D, h_next[j], j=j, BLOCK=BLOCK)
            if KEEP:
                store_block(slope_ptr + row, D, act_derivative(z, u, 1.0, NONLINEARITY=NONLINEARITY), j=j, BLOCK=BLOCK)
        h = h_next
        x = x_next
        row += D

    for j in tl.static_range(BLOCKS):
        store_block(last_ptr + batch * D, D, h[j], j=j, BLOCK=BLOCK)


@triton.jit
def dense_rnn_adjoint_kernel(
    grad_h_ptr,  # (B, T, D), g
    slope_ptr,  # (B, T, D), s, contiguous
    matrix_ptr,  # (BLOCKS * BLOCK, BLOCKS * BLOCK), weight, padded; PACKED, bfloat16, see `_tiled`
    grad_last_ptr,  # (B, D), contiguous, mu[T-1]; None: 0
    resets_ptr,  # (B, T), a byte each, contiguous; None: no resets
    grad_x_ptr,  # out: (B, T, D), contiguous
    grad_h0_ptr,  # out: (B, D)
    T: tl.int64, D: tl.int64, dt: tl.float64, stride_gb: tl.int64, stride_gt: tl.int64, stride_gd: tl.int64,
    TO_ZERO: tl.constexpr,
    STATE: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr, RESIDENT: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """One sequence, from its last step to its first."""
    batch = tl.program_id(0).to(tl.int64)
    g_row = grad_h_ptr + batch * stride_gb + (T - 1) * stride_gt
    row = (batch * T + T - 1) * D
    dt = tl.full((), dt, STATE)
    if PACKED:
        matrix_ptr = matrix_ptr.to(tl.pointer_type(tl.int32))
    tiles = load_tiles(matrix_ptr, COUNT=RESIDENT, BLOCKS=BLOCKS, BLOCK=BLOCK)
    grad_last_row = slope_ptr if grad_last_ptr is None else grad_last_ptr + batch * D
    mu = load_blocks(grad_last_row, D, 1, grad_last_ptr is not None, STATE=STATE, BLOCKS=BLOCKS, BLOCK=BLOCK)
    g = load_blocks(g_row, D, stride_gd, T > 0, STATE=STATE, BLOCKS=BLOCKS, BLOCK=BLOCK)
    s = load_blocks(slope_ptr + row, D, 1, T > 0, STATE=STATE, BLOCKS=BLOCKS, BLOCK=BLOCK)
    if resets_ptr is not None:
        resets_row = resets_ptr + batch * T + T - 1
        nothing = load_blocks(slope_ptr, 0, 1, False, STATE=STATE, BLOCKS=BLOCKS, BLOCK=BLOCK)
        grad_start = nothing

    for t in range(T):
        # Load: g and s of the step before
        g_row -= stride_gt
        g_next = load_blocks(g_row, D, stride_gd, t + 1 < T, STATE=STATE, BLOCKS=BLOCKS, BLOCK=BLOCK)
        s_next = load_blocks(slope_ptr + row - D, D, 1, t + 1 < T, STATE=STATE, BLOCKS=BLOCKS, BLOCK=BLOCK)
        if resets_ptr is not None:
            cut = tl.load(resets_row - t) != 0
        # Compute and store, block by block
        adjoint = ()
        grad_x = ()
        for j in tl.static_range(BLOCKS):
            adjoint = adjoint + (g[j] + mu[j],)
            grad_x = grad_x + (dt * s[j] * adjoint[j],)
            store_block(grad_x_ptr + row, D, grad_x[j], j=j, BLOCK=BLOCK)
        product = multiply(matrix_ptr, tiles, grad_x, row, RESIDENT=RESIDENT, BLOCKS=BLOCKS, BLOCK=BLOCK, PACKED=PACKED)
        mu_next = ()
        for j in tl.static_range(BLOCKS):
            mu_next = mu_next + (adjoint[j] - product[j],)
        mu = mu_next
        if resets_ptr is not None:
            if not TO_ZERO:
                grad_start_next = ()
                for j in tl.static_range(BLOCKS):
                    grad_start_next = grad_start_next + (grad_start[j] + tl.where(cut, mu[j], 0.0),)
                grad_start = grad_start_next
            mu = choose(cut, mu, nothing, BLOCKS=BLOCKS)
        g = g_next
        s = s_next
        row -= D

    for j in tl.static_range(BLOCKS):
        grad_h0 = mu[j]
        if resets_ptr is not None and not TO_ZERO:
            grad_h0 += grad_start[j]
        store_block(grad_h0_ptr + batch * D, D, grad_h0, j=j, BLOCK=BLOCK)


def forward(
    x: Any, weight: Any, h0: Any, resets: Any, *, reset_to: str,
    dt: float, nonlinearity: str, precision: str, keep: bool, state_dtype: Any, lanes: int,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """`(h, h_last, slope)` with T >= 1: h (B, T, D) in x's dtype, h_last and slope in the state's.

    The slopes are (B, 0, D) unless kept. The weight is in the state's dtype or bfloat16.
    """
    batch, length, size = x.shape
    h = x.new_empty(x.shape)
    slope = x.new_empty((batch, length if keep else 0, size), dtype=state_dtype)
    shape = _shape(weight, lanes)
    if shape is None:
        last = dense_rnn_steps.forward(
            x, weight, h0, resets, h, slope,
            reset_to=reset_to, dt=dt, nonlinearity=nonlinearity, precision=precision, keep=keep,
        )  # fmt: skip
        return h, last, slope
    last = x.new_empty((batch, size), dtype=state_dtype)
    launch(dense_rnn_forward_kernel, (batch,))(
        x, _tiled(weight.T, shape, state_dtype), h0, resets, h, last, slope,
        length, size, dt, *x.stride(),
        NONLINEARITY=nonlinearity, KEEP=keep, TO_ZERO=reset_to == "zero", STATE=state_type(last), **shape._asdict(),
    )  # fmt: skip
    return h, last, slope


def adjoint(
    grad_h: Any, grad_last: Any, slope: Any, weight: Any, resets: Any, *,
    reset_to: str, dt: float, precision: str, lanes: int,
) -> tuple[Any, Any]:  # fmt: skip
    """`(grad_x, grad_h0)` with T >= 1, (B, T, D) and (B, D) in the dtype of the slopes; the weight as in `forward`."""
    batch, length, size = slope.shape
    grad_x = slope.new_empty(slope.shape)
    shape = _shape(weight, lanes)
    if shape is None:
        options: Any = dict(reset_to=reset_to, dt=dt, precision=precision)
        return grad_x, dense_rnn_steps.adjoint(grad_h, grad_last, slope, weight, resets, grad_x, **options)
    grad_h0 = slope.new_empty((batch, size))
    launch(dense_rnn_adjoint_kernel, (batch,))(
        grad_h, slope, _tiled(weight, shape, slope.dtype), grad_last, resets, grad_x, grad_h0,
        length, size, dt, *grad_h.stride(),
        TO_ZERO=reset_to == "zero", STATE=state_type(slope), **shape._asdict(),
    )  # fmt: skip
    return grad_x, grad_h0


def _shape(weight: Any, lanes: int) -> Dense | None:
    return dense(weight.shape[0], weight.element_size(), lanes)


def _tiled(matrix: Any, shape: Dense, state_dtype: Any) -> Any:
    """A matrix padded with zeros to whole tiles; PACKED, (BLOCKS / 2, BLOCK, width, 2), a word's two numbers last."""
    width = shape.BLOCKS * shape.BLOCK
    tiled = matrix.new_zeros((width, width), dtype=matrix.dtype if shape.PACKED else state_dtype)
    tiled[: matrix.shape[0], : matrix.shape[1]] = matrix
    return tiled.view(-1, 2, shape.BLOCK, width).permute(0, 2, 3, 1).contiguous() if shape.PACKED else tiled

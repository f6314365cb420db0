"""Dense nonlinear recurrence, `h[t] = h[t-1] + dt * act(x[t] - weight @ h[t-1])`: forward and adjoint Triton kernels.

Indices: b sequence, t time, n and k channels; tensors are (B, T, D), weight is (D, D). The state, the slopes
s[t] = act'(z[t]) and every product are in STATE (float32, float64 for float64 input).

    forward    z[t] = x[t] - weight @ h[t-1],       h[t] = h[t-1] + dt * act(z[t])
    adjoint    lambda[t] = g[t] + mu[t],            dx[t] = dt * s[t] * lambda[t]
               mu[t-1] = lambda[t] - weight^T dx[t],  dh0 = mu[-1]

Both need `out[n] = sum_k matrix[k, n] v[k]` in every step, with matrix = weight^T forward and weight backward, n the
fast axis. Two ways:

Resident (see `launch.dense`): a program carries one sequence through all of time in one launch, the matrix in tiles of
BLOCK x BLOCK numbers, the first RESIDENT of them in registers. One sequence a program is as good as many: fused
multiply-adds cannot share a product between sequences, and B programs run side by side. In a tile the lanes of a warp
are neighbours in n and a thread has many k, so that most of a sum stays within a thread. Up to 192 channels the whole
matrix is resident. 256 channels in float32 are 256 KiB, all the registers that an NVIDIA multiprocessor has, whose
shared memory (A100 164, H100 228 KiB) cannot hold them either: half of it stays in registers. The other 128 KiB are
read again in every step, with some 3 KiB of rows between two readings, from a first-level cache of 192 KiB or more that
no other program shares: one program fills the multiprocessor. An MI300X has registers for all of it.
bfloat16 weights that would not fit stay packed, two numbers a word, and are widened as they are used: 256 channels are
128 KiB, all of them resident. Others are widened before; float16 spills as it is widened, and counts as float32.

By steps, for wider states: one launch a step, a program forms TILE_B x TILE_N sums by `tl.dot`, and the weight comes
from the L2 cache. `PRECISION` is its input precision.

Traffic in elements per element: forward 2, and 1 more for the slopes if kept; adjoint 3.
Source: Eq. (1) of arXiv 2305.19190 in discrete time and its adjoint; defined in `reference/dense_rnn.py`.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from cofm_triton.kernels.launch import STEP_SHAPE, Dense, dense
from cofm_triton.kernels.nonlinearity import act, act_derivative


@triton.jit
def load_tile(matrix_ptr, TILE: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    """Tile (k block, n block) = (TILE // BLOCKS, TILE % BLOCKS) of a matrix that has been filled up to whole tiles.

    All offsets are known when it is compiled: tiles that are read in every step cost no registers for addresses. Lanes
    take one column each: a vector of columns would leave a thread few k, and its sums to the other warps.
    """
    k = (TILE // BLOCKS) * BLOCK + tl.arange(0, BLOCK)[:, None]
    n = (TILE % BLOCKS) * BLOCK + tl.arange(0, BLOCK)[None, :]
    return tl.load(tl.max_contiguous(matrix_ptr + k * (BLOCKS * BLOCK) + n, (1, 1)))


@triton.jit
def load_tiles(matrix_ptr, COUNT: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    """The first COUNT tiles, for the registers."""
    tiles = ()
    for tile in tl.static_range(COUNT):
        tiles = tiles + (load_tile(matrix_ptr, tile, BLOCKS, BLOCK),)
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

    PACKED: a word of a tile has two numbers, k in block 2 c below and in block 2 c + 1 above. They are widened with a
    zero out of `row`, an offset below 2^62, that the compiler does not know: numbers that depended on nothing but the
    matrix would be widened before the loop, and take twice the registers in it.
    """
    zero = (row >> 62).to(tl.int32)
    out = ()
    for j in tl.static_range(BLOCKS):
        total = tl.zeros((BLOCK, BLOCK), v[0].dtype)
        for c in tl.static_range(BLOCKS // 2 if PACKED else BLOCKS):
            if c * BLOCKS + j < RESIDENT:
                tile = tiles[c * BLOCKS + j]
            else:
                tile = load_tile(matrix_ptr, c * BLOCKS + j, BLOCKS, BLOCK)
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
def dense_rnn_forward_kernel(
    x_ptr, matrix_ptr, h0_ptr, h_ptr, last_ptr, slope_ptr,
    T: tl.int64, D: tl.int64, dt: tl.float64, stride_xb: tl.int64, stride_xt: tl.int64, stride_xd: tl.int64,
    NONLINEARITY: tl.constexpr, HAS_H0: tl.constexpr, KEEP: tl.constexpr,
    STATE: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr, RESIDENT: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Writes h and, if KEEP, slope (B, T, D), contiguous, and last (B, D), the final state. matrix = weight^T."""
    batch = tl.program_id(0).to(tl.int64)
    x_row = x_ptr + batch * stride_xb
    row = batch * T * D
    dt = tl.full((), dt, STATE)
    if PACKED:
        matrix_ptr = matrix_ptr.to(tl.pointer_type(tl.int32))
    tiles = load_tiles(matrix_ptr, RESIDENT, BLOCKS, BLOCK)
    h = load_blocks(h0_ptr + batch * D if HAS_H0 else x_ptr, D, 1, HAS_H0, STATE, BLOCKS, BLOCK)
    x = load_blocks(x_row, D, stride_xd, T > 0, STATE, BLOCKS, BLOCK)

    for t in range(T):
        x_row += stride_xt
        x_next = load_blocks(x_row, D, stride_xd, t + 1 < T, STATE, BLOCKS, BLOCK)
        product = multiply(matrix_ptr, tiles, h, row, RESIDENT, BLOCKS, BLOCK, PACKED)
        h_next = ()
        for j in tl.static_range(BLOCKS):
            z = x[j] - product[j]
            u = act(z, NONLINEARITY)
            h_next = h_next + (h[j] + dt * u,)
            store_block(h_ptr + row, D, h_next[j], j, BLOCK)
            if KEEP:
                store_block(slope_ptr + row, D, act_derivative(z, u, 1.0, NONLINEARITY), j, BLOCK)
        h = h_next
        x = x_next
        row += D

    for j in tl.static_range(BLOCKS):
        store_block(last_ptr + batch * D, D, h[j], j, BLOCK)


@triton.jit
def dense_rnn_adjoint_kernel(
    grad_h_ptr, slope_ptr, matrix_ptr, grad_last_ptr, grad_x_ptr, grad_h0_ptr,
    T: tl.int64, D: tl.int64, dt: tl.float64, stride_gb: tl.int64, stride_gt: tl.int64, stride_gd: tl.int64,
    HAS_GRAD_LAST: tl.constexpr,
    STATE: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr, RESIDENT: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Writes grad_x (B, T, D), contiguous, and grad_h0 (B, D). matrix = weight; slope is contiguous."""
    batch = tl.program_id(0).to(tl.int64)
    g_row = grad_h_ptr + batch * stride_gb + (T - 1) * stride_gt
    row = (batch * T + T - 1) * D
    dt = tl.full((), dt, STATE)
    if PACKED:
        matrix_ptr = matrix_ptr.to(tl.pointer_type(tl.int32))
    tiles = load_tiles(matrix_ptr, RESIDENT, BLOCKS, BLOCK)
    start = grad_last_ptr + batch * D if HAS_GRAD_LAST else slope_ptr
    mu = load_blocks(start, D, 1, HAS_GRAD_LAST, STATE, BLOCKS, BLOCK)
    g = load_blocks(g_row, D, stride_gd, T > 0, STATE, BLOCKS, BLOCK)
    s = load_blocks(slope_ptr + row, D, 1, T > 0, STATE, BLOCKS, BLOCK)

    for t in range(T):
        g_row -= stride_gt
        g_next = load_blocks(g_row, D, stride_gd, t + 1 < T, STATE, BLOCKS, BLOCK)
        s_next = load_blocks(slope_ptr + row - D, D, 1, t + 1 < T, STATE, BLOCKS, BLOCK)
        adjoint = ()
        grad_x = ()
        for j in tl.static_range(BLOCKS):
            adjoint = adjoint + (g[j] + mu[j],)
            grad_x = grad_x + (dt * s[j] * adjoint[j],)
            store_block(grad_x_ptr + row, D, grad_x[j], j, BLOCK)
        product = multiply(matrix_ptr, tiles, grad_x, row, RESIDENT, BLOCKS, BLOCK, PACKED)
        mu_next = ()
        for j in tl.static_range(BLOCKS):
            mu_next = mu_next + (adjoint[j] - product[j],)
        mu = mu_next
        g = g_next
        s = s_next
        row -= D

    for j in tl.static_range(BLOCKS):
        store_block(grad_h0_ptr + batch * D, D, mu[j], j, BLOCK)


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
    x_ptr, matrix_ptr, state_ptr, h_ptr, next_ptr, slope_ptr,
    t: tl.int64, B: tl.int64, T: tl.int64, D: tl.int64, num_blocks, dt: tl.float64,
    stride_xb: tl.int64, stride_xt: tl.int64, stride_xd: tl.int64,
    NONLINEARITY: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr,
    STATE: tl.constexpr, TILE_B: tl.constexpr, TILE_N: tl.constexpr, TILE_K: tl.constexpr,
):  # fmt: skip
    """Step t: from state (B, D) to next (B, D), h[:, t] and, if KEEP, slope[:, t]. matrix = weight^T."""
    pid = tl.program_id(0)
    b = (pid // num_blocks).to(tl.int64) * TILE_B + tl.arange(0, TILE_B)
    n = (pid % num_blocks).to(tl.int64) * TILE_N + tl.arange(0, TILE_N)
    mask = (b[:, None] < B) & (n[None, :] < D)
    dt = tl.full((), dt, STATE)
    x = tl.load(x_ptr + b[:, None] * stride_xb + t * stride_xt + n[None, :] * stride_xd, mask=mask, other=0.0).to(STATE)
    before = tl.load(state_ptr + b[:, None] * D + n[None, :], mask=mask, other=0.0)

    z = x - tile_product(state_ptr, matrix_ptr, b, n, B, D, D, PRECISION, STATE, TILE_B, TILE_N, TILE_K)
    u = act(z, NONLINEARITY)
    h = before + dt * u

    place = (b[:, None] * T + t) * D + n[None, :]
    tl.store(h_ptr + place, h.to(h_ptr.dtype.element_ty), mask=mask)
    tl.store(next_ptr + b[:, None] * D + n[None, :], h, mask=mask)
    if KEEP:
        tl.store(slope_ptr + place, act_derivative(z, u, 1.0, NONLINEARITY), mask=mask)


@triton.jit(do_not_specialize=["t"])
def dense_rnn_adjoint_step_kernel(
    grad_h_ptr, slope_ptr, matrix_ptr, adjoint_ptr, grad_x_ptr, next_ptr,
    t: tl.int64, B: tl.int64, T: tl.int64, D: tl.int64, num_blocks, dt: tl.float64,
    stride_gb: tl.int64, stride_gt: tl.int64, stride_gd: tl.int64,
    PRECISION: tl.constexpr, STATE: tl.constexpr, TILE_B: tl.constexpr, TILE_N: tl.constexpr, TILE_K: tl.constexpr,
):  # fmt: skip
    """Step t: from adjoint (B, D), lambda[t+1], to next, lambda[t], and grad_x[:, t]; next is mu[-1] if t = -1.

    At t = T - 1 the adjoint holds grad_last. matrix = weight.
    """
    pid = tl.program_id(0)
    b = (pid // num_blocks).to(tl.int64) * TILE_B + tl.arange(0, TILE_B)
    n = (pid % num_blocks).to(tl.int64) * TILE_N + tl.arange(0, TILE_N)
    mask = (b[:, None] < B) & (n[None, :] < D)
    dt = tl.full((), dt, STATE)
    place = (b[:, None] * T + t) * D + n[None, :]

    value = tl.load(adjoint_ptr + b[:, None] * D + n[None, :], mask=mask, other=0.0)
    if t < T - 1:
        later = grad_x_ptr + (t + 1) * D
        value -= tile_product(later, matrix_ptr, b, n, B, D, T * D, PRECISION, STATE, TILE_B, TILE_N, TILE_K)
    if t >= 0:
        g_ptr = grad_h_ptr + t * stride_gt
        g = tl.load(g_ptr + b[:, None] * stride_gb + n[None, :] * stride_gd, mask=mask, other=0.0)
        value += g.to(STATE)
        tl.store(grad_x_ptr + place, dt * tl.load(slope_ptr + place, mask=mask, other=0.0) * value, mask=mask)

    tl.store(next_ptr + b[:, None] * D + n[None, :], value, mask=mask)


def forward(
    x: Any, weight: Any, h0: Any, *,
    dt: float, nonlinearity: str, precision: str, keep: bool, state_dtype: Any, lanes: int,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """`(h, h_last, slope)` with T >= 1: h (B, T, D) in x's dtype, h_last and slope in the state's.

    The slopes are (B, 0, D) unless kept. The weight is in the state's dtype or bfloat16.
    """
    batch, length, size = x.shape
    h = x.new_empty(x.shape)
    slope = x.new_empty((batch, length if keep else 0, size), dtype=state_dtype)
    last = x.new_empty((batch, size), dtype=state_dtype)
    state, shape = _state(last), _shape(weight, lanes)
    if shape is not None:
        dense_rnn_forward_kernel[(batch,)](
            x, _tiled(weight.T, shape, state_dtype), h0, h, last, slope, length, size, dt, *x.stride(),
            NONLINEARITY=nonlinearity, HAS_H0=h0 is not None, KEEP=keep, STATE=state, **shape._asdict(),
        )  # fmt: skip
        return h, last, slope
    matrix = weight.T.to(state_dtype).contiguous()
    before = x.new_zeros((batch, size), dtype=state_dtype) if h0 is None else h0.clone()
    programs, num_blocks = _programs(batch, size)
    for t in range(length):
        dense_rnn_forward_step_kernel[(programs,)](
            x, matrix, before, h, last, slope, t, batch, length, size, num_blocks, dt, *x.stride(),
            NONLINEARITY=nonlinearity, KEEP=keep, PRECISION=precision, STATE=state,
            **STEP_SHAPE._asdict(),
        )  # fmt: skip
        before, last = last, before
    return h, before, slope


def adjoint(
    grad_h: Any, grad_last: Any, slope: Any, weight: Any, *, dt: float, precision: str, lanes: int
) -> tuple[Any, Any]:
    """`(grad_x, grad_h0)` with T >= 1, (B, T, D) and (B, D) in the dtype of the slopes; the weight as in `forward`."""
    batch, length, size = slope.shape
    grad_x = slope.new_empty(slope.shape)
    grad_h0 = slope.new_empty((batch, size))
    state, shape = _state(slope), _shape(weight, lanes)
    if shape is not None:
        dense_rnn_adjoint_kernel[(batch,)](
            grad_h, slope, _tiled(weight, shape, slope.dtype), grad_last, grad_x, grad_h0,
            length, size, dt, *grad_h.stride(),
            HAS_GRAD_LAST=grad_last is not None, STATE=state, **shape._asdict(),
        )  # fmt: skip
        return grad_x, grad_h0
    weight = weight.to(slope.dtype)
    before = slope.new_zeros((batch, size)) if grad_last is None else grad_last.clone()
    programs, num_blocks = _programs(batch, size)
    for t in range(length - 1, -2, -1):
        dense_rnn_adjoint_step_kernel[(programs,)](
            grad_h, slope, weight, before, grad_x, grad_h0, t, batch, length, size, num_blocks, dt, *grad_h.stride(),
            PRECISION=precision, STATE=state, **STEP_SHAPE._asdict(),
        )  # fmt: skip
        before, grad_h0 = grad_h0, before
    return grad_x, before


def _shape(weight: Any, lanes: int) -> Dense | None:
    return dense(weight.shape[0], weight.element_size(), lanes)


def _tiled(matrix: Any, shape: Dense, state_dtype: Any) -> Any:
    """A matrix with zeros up to whole tiles; PACKED, with numbers that share a word side by side."""
    width = shape.BLOCKS * shape.BLOCK
    tiled = matrix.new_zeros((width, width), dtype=matrix.dtype if shape.PACKED else state_dtype)
    tiled[: matrix.shape[0], : matrix.shape[1]] = matrix
    return tiled.view(-1, 2, shape.BLOCK, width).permute(0, 2, 3, 1).contiguous() if shape.PACKED else tiled


def _state(tensor: Any) -> Any:
    return tl.float64 if tensor.element_size() == 8 else tl.float32


def _programs(batch: int, channels: int) -> tuple[int, int]:
    """Programs of a step, and how many of them share a block of sequences."""
    num_blocks = triton.cdiv(channels, STEP_SHAPE.TILE_N)
    return triton.cdiv(batch, STEP_SHAPE.TILE_B) * num_blocks, num_blocks

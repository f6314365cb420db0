"""Linear scan, `h[t] = decay * h[t-1] + x[t]`: forward and backward Triton kernels.

Indices: b sequence, t time, d channel; tensors are (B, T, D). The decay is `(D,)`, loaded once and never materialised
over time, or, GATED, `(B, T, D)` with strides of its own. The state lives in registers in STATE (float32, float64 for
float64 input) whatever the dtype of the tensors.

A program owns BLOCK_D channels of one chunk of one sequence. Without splitting the only chunk is the whole sequence.
Where B * D is too small to fill the device, time is split into chunks in three phases:

1. summaries: the same kernel with STORE_ROWS = False gives every chunk's final state from a zero start,
   `E[c]` (and, GATED, the product of its decays, `A[c]`; otherwise `A = decay ** chunk_length`);
2. carries: `H[c] = A[c] * H[c-1] + E[c]`, a linear scan over chunks, which may split in turn;
3. replay: the same kernel with the carry-in `H[c-1]`.

Backward, with g = dL/dh and mu the adjoint arriving from later steps (mu = dL/dh_last at the end of the sequence):

    lambda[t] = g[t] + mu[t],   mu[t-1] = decay[t] * lambda[t]
    dx[t] = lambda[t],   ddecay[t] = lambda[t] * h[t-1],   dh0 = mu[-1]

For a time-invariant decay `ddecay` is summed over time in registers and leaves the kernel as one row per program,
which the caller adds up in a fixed order: no atomics, bitwise reproducible.

Traffic in elements per element: forward 2 (GATED 3), backward 3 (GATED 5).
Source: Eq. (1) of arXiv 2305.19190 for linear sigma, and its adjoint; defined in `reference/linear_scan.py`.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from cofm_triton.kernels.interleaved import multiply, multiply_conj, one
from cofm_triton.kernels.launch import NUM_WARPS, Channels, Chunks, channels, layout, split_carries
from cofm_triton.kernels.rows import chunk_rows, live_row, load_last_rows, load_row, load_rows, store_row

# Rows in flight, as many as registers allow. Forward, one tensor is read, and 16 rows of 16 bytes are 64 registers a
# thread; backward, two are, and three if gated. A narrow block has room for twice as many, short of spilling.
FORWARD_ROWS, NARROW_FORWARD_ROWS = 16, 32
BACKWARD_ROWS, NARROW_BACKWARD_ROWS = 12, 18
GATED_BACKWARD_ROWS, NARROW_GATED_BACKWARD_ROWS = 8, 16


@triton.jit
def linear_scan_forward_kernel(
    x_ptr, decay_ptr, start_ptr, carry_ptr, starts_ptr, h_ptr, last_ptr, product_ptr,
    T: tl.int64, D: tl.int64, num_blocks, num_chunks, num_sequences,
    begin: tl.int64, end: tl.int64, chunk_length: tl.int64, stride_s: tl.int64,
    stride_xb: tl.int64, stride_xt: tl.int64, stride_xd,
    stride_ab: tl.int64, stride_at: tl.int64, stride_ad,
    GATED: tl.constexpr, HAS_START: tl.constexpr, HAS_CARRY: tl.constexpr, STORE_ROWS: tl.constexpr,
    PACKED: tl.constexpr, REVERSE: tl.constexpr, COMPLEX: tl.constexpr,
    STATE: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Writes h (B, T, D), contiguous, last (S, num_chunks, D), the state after each chunk, and, for the summaries of a
    gated scan, product (S, num_chunks, D), the product of the decays of each chunk; S = B unless PACKED. The steps
    [begin, end) start from start (S, D), row stride stride_s, and chunk c > 0 of them from carry[c-1].
    """
    pid = tl.program_id(0)
    chunk = (pid // num_blocks) % num_chunks
    sequence = pid // num_blocks // num_chunks
    d = (pid % num_blocks).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = d < D
    entry, _skipped, n, batch = chunk_rows(
        starts_ptr, sequence, num_sequences, T, begin, end, chunk, chunk_length, PACKED, REVERSE
    )
    SIGN: tl.constexpr = -1 if REVERSE else 1
    x_step = SIGN * stride_xt
    a_step = SIGN * stride_at
    h_step = SIGN * D
    x_row = x_ptr + batch * stride_xb + entry * stride_xt + d * stride_xd
    h_row = h_ptr + (batch * T + entry) * D + d
    a_row = decay_ptr + d
    if GATED:
        a_row = decay_ptr + batch * stride_ab + entry * stride_at + d * stride_ad
    state_row = (sequence.to(tl.int64) * num_chunks + chunk) * D + d

    h = tl.zeros((BLOCK_D,), STATE)
    if HAS_START:
        if chunk == 0:
            h = load_row(start_ptr + sequence.to(tl.int64) * stride_s + d, mask, MASKED).to(STATE)
    if HAS_CARRY:
        if chunk > 0:
            h = load_row(carry_ptr + state_row - D, mask, MASKED).to(STATE)
    decay = tl.zeros((BLOCK_D,), STATE)
    if not GATED:
        decay = load_row(a_row, mask, MASKED).to(STATE)
    product = one(BLOCK_D, STATE, COMPLEX)

    for _ in range(n // ROWS):
        xs = load_rows(x_row, x_step, mask, ROWS, MASKED)
        gates = ()
        if GATED:
            gates = load_rows(a_row, a_step, mask, ROWS, MASKED)
            a_row += ROWS * a_step
        for j in tl.static_range(ROWS):
            if GATED:
                decay = gates[j].to(STATE)
            h = multiply(decay, h, COMPLEX) + xs[j].to(STATE)
            if STORE_ROWS:
                store_row(h_row + j * h_step, h, mask, MASKED)
            elif GATED:
                product = multiply(product, decay, COMPLEX)
        x_row += ROWS * x_step
        h_row += ROWS * h_step
    rest = n % ROWS
    if rest > 0:
        xs = load_last_rows(x_row, x_step, d, D, rest, ROWS)
        gates = ()
        if GATED:
            gates = load_last_rows(a_row, a_step, d, D, rest, ROWS)
        for j in tl.static_range(ROWS - 1):
            live = live_row(d, D, j, rest)
            if GATED:
                decay = gates[j].to(STATE)
            h = tl.where(live, multiply(decay, h, COMPLEX) + xs[j].to(STATE), h)
            if STORE_ROWS:
                store_row(h_row + j * h_step, h, live, True)
            elif GATED:
                product = tl.where(live, multiply(product, decay, COMPLEX), product)

    store_row(last_ptr + state_row, h, mask, MASKED)
    if GATED:
        if not STORE_ROWS:
            store_row(product_ptr + state_row, product, mask, MASKED)


@triton.jit
def linear_scan_backward_kernel(
    grad_h_ptr, h_ptr, decay_ptr, h0_ptr, grad_end_ptr, carry_ptr, starts_ptr,
    grad_x_ptr, grad_decay_ptr, grad_start_ptr, product_ptr,
    T: tl.int64, D: tl.int64, num_blocks, num_chunks, num_sequences,
    begin: tl.int64, end: tl.int64, chunk_length: tl.int64, stride_s: tl.int64,
    stride_gb: tl.int64, stride_gt: tl.int64, stride_gd,
    stride_ab: tl.int64, stride_at: tl.int64, stride_ad,
    GATED: tl.constexpr, HAS_H0: tl.constexpr, HAS_GRAD_END: tl.constexpr, HAS_CARRY: tl.constexpr,
    STORE_ROWS: tl.constexpr, PACKED: tl.constexpr, REVERSE: tl.constexpr, COMPLEX: tl.constexpr,
    STATE: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Writes grad_x (B, T, D), contiguous, grad_start (S, num_chunks, D): mu before each chunk, and grad_decay: GATED
    (B, T, D), otherwise one row per chunk, (S, num_chunks, D). Summaries write grad_start and product only. The steps
    [begin, end) end with mu = grad_end (S, D), row stride stride_s, and chunk c < last of them with carry[c+1].
    """
    pid = tl.program_id(0)
    chunk = (pid // num_blocks) % num_chunks
    sequence = pid // num_blocks // num_chunks
    d = (pid % num_blocks).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = d < D
    entry, skipped, n, batch = chunk_rows(
        starts_ptr, sequence, num_sequences, T, begin, end, chunk, chunk_length, PACKED, REVERSE
    )
    SIGN: tl.constexpr = -1 if REVERSE else 1
    # The walk is against the recurrence: from the chunk's last row down to its first.
    last = entry + SIGN * (n - 1)
    g_step = -SIGN * stride_gt
    a_step = -SIGN * stride_at
    h_step = -SIGN * D
    g_row = grad_h_ptr + batch * stride_gb + last * stride_gt + d * stride_gd
    dense_row = (batch * T + last) * D + d
    dx_row = grad_x_ptr + dense_row
    previous_row = h_ptr + dense_row + h_step
    da_row = grad_decay_ptr + dense_row
    a_row = decay_ptr + d
    if GATED:
        a_row = decay_ptr + batch * stride_ab + last * stride_at + d * stride_ad
    state_row = (sequence.to(tl.int64) * num_chunks + chunk) * D + d

    mu = tl.zeros((BLOCK_D,), STATE)
    if HAS_GRAD_END:
        if chunk == num_chunks - 1:
            mu = load_row(grad_end_ptr + sequence.to(tl.int64) * stride_s + d, mask, MASKED).to(STATE)
    if HAS_CARRY:
        if chunk < num_chunks - 1:
            mu = load_row(carry_ptr + state_row + D, mask, MASKED).to(STATE)
    decay = tl.zeros((BLOCK_D,), STATE)
    if not GATED:
        decay = load_row(a_row, mask, MASKED).to(STATE)
    product = one(BLOCK_D, STATE, COMPLEX)
    grad_decay = tl.zeros((BLOCK_D,), STATE)

    # The first row of a sequence has no earlier row: its h[t-1] is h0. It belongs to the last, partial block.
    whole = n // ROWS
    if STORE_ROWS:
        if skipped == 0:
            whole = tl.maximum(n - 1, 0) // ROWS
    for _ in range(whole):
        gs = load_rows(g_row, g_step, mask, ROWS, MASKED)
        hs = ()
        if STORE_ROWS:
            hs = load_rows(previous_row, h_step, mask, ROWS, MASKED)
        gates = ()
        if GATED:
            gates = load_rows(a_row, a_step, mask, ROWS, MASKED)
            a_row += ROWS * a_step
        for j in tl.static_range(ROWS):
            if GATED:
                decay = gates[j].to(STATE)
            adjoint = gs[j].to(STATE) + mu
            mu = multiply_conj(decay, adjoint, COMPLEX)
            if STORE_ROWS:
                store_row(dx_row + j * h_step, adjoint, mask, MASKED)
                if GATED:
                    store_row(da_row + j * h_step, multiply_conj(hs[j].to(STATE), adjoint, COMPLEX), mask, MASKED)
                else:
                    grad_decay += multiply_conj(hs[j].to(STATE), adjoint, COMPLEX)
            elif GATED:
                product = multiply(product, decay, COMPLEX)
        g_row += ROWS * g_step
        dx_row += ROWS * h_step
        da_row += ROWS * h_step
        previous_row += ROWS * h_step
    rest = n - whole * ROWS
    if rest > 0:
        gs = load_last_rows(g_row, g_step, d, D, rest, ROWS)
        with_previous = rest
        start = tl.zeros((BLOCK_D,), STATE)
        hs = ()
        if STORE_ROWS:
            if skipped == 0:
                with_previous = rest - 1
                if HAS_H0:
                    start = load_row(h0_ptr + sequence.to(tl.int64) * D + d, mask, MASKED).to(STATE)
            hs = load_last_rows(previous_row, h_step, d, D, with_previous, ROWS)
        gates = ()
        if GATED:
            gates = load_last_rows(a_row, a_step, d, D, rest, ROWS)
        for j in tl.static_range(ROWS):
            live = live_row(d, D, j, rest)
            if GATED:
                decay = gates[j].to(STATE)
            adjoint = gs[j].to(STATE) + mu
            mu = tl.where(live, multiply_conj(decay, adjoint, COMPLEX), mu)
            if STORE_ROWS:
                previous = tl.where(with_previous > j, hs[j].to(STATE), start)
                store_row(dx_row + j * h_step, adjoint, live, True)
                if GATED:
                    store_row(da_row + j * h_step, multiply_conj(previous, adjoint, COMPLEX), live, True)
                else:
                    grad_decay += tl.where(live, multiply_conj(previous, adjoint, COMPLEX), 0.0)
            elif GATED:
                product = tl.where(live, multiply(product, decay, COMPLEX), product)

    store_row(grad_start_ptr + state_row, mu, mask, MASKED)
    if STORE_ROWS:
        if not GATED:
            store_row(grad_decay_ptr + state_row, grad_decay, mask, MASKED)
    elif GATED:
        store_row(product_ptr + state_row, product, mask, MASKED)


def launch_forward(
    x: Any, decay: Any, start: Any, carry: Any, seq_starts: Any, h: Any, last: Any, product: Any, *, block: Channels,
    steps: tuple[int, int], chunk_length: int, reverse: bool, is_complex: bool, store_rows: bool = True,
) -> None:  # fmt: skip
    """Forward kernel over the steps [begin, end), one program per block of channels, chunk and sequence.

    `start`, `carry`, `seq_starts` and `product` may be None; `last` is (S, num_chunks, D). Only pointers and strides of
    the tensors are used.
    """
    length, width = x.shape[1], x.shape[2]
    num_sequences, num_chunks = last.shape[0], last.shape[1]
    gated = decay.ndim == 3
    linear_scan_forward_kernel[(block.num_blocks * num_chunks * num_sequences,)](
        x, decay, start, carry, seq_starts, h, last, product,
        length, width, block.num_blocks, num_chunks, num_sequences,
        steps[0], steps[1], chunk_length, 0 if start is None else start.stride(0),
        *x.stride(), *(decay.stride() if gated else (0, 0, 0)),
        GATED=gated, HAS_START=start is not None, HAS_CARRY=carry is not None, STORE_ROWS=store_rows,
        PACKED=seq_starts is not None, REVERSE=reverse, COMPLEX=is_complex, STATE=_state(last),
        BLOCK_D=block.block_d, ROWS=_forward_rows(block), MASKED=block.masked, num_warps=NUM_WARPS,
    )  # fmt: skip


def launch_backward(
    grad_h: Any, h: Any, decay: Any, h0: Any, grad_end: Any, carry: Any, seq_starts: Any,
    grad_x: Any, grad_decay: Any, grad_start: Any, product: Any, *, block: Channels,
    steps: tuple[int, int], chunk_length: int, reverse: bool, is_complex: bool, store_rows: bool = True,
) -> None:  # fmt: skip
    """Backward kernel over the steps [begin, end); `h0`, `grad_end`, `carry`, `seq_starts`, `product` may be None."""
    length, width = grad_h.shape[1], grad_h.shape[2]
    num_sequences, num_chunks = grad_start.shape[0], grad_start.shape[1]
    gated = decay.ndim == 3
    linear_scan_backward_kernel[(block.num_blocks * num_chunks * num_sequences,)](
        grad_h, h, decay, h0, grad_end, carry, seq_starts, grad_x, grad_decay, grad_start, product,
        length, width, block.num_blocks, num_chunks, num_sequences,
        steps[0], steps[1], chunk_length, 0 if grad_end is None else grad_end.stride(0),
        *grad_h.stride(), *(decay.stride() if gated else (0, 0, 0)),
        GATED=gated, HAS_H0=h0 is not None, HAS_GRAD_END=grad_end is not None, HAS_CARRY=carry is not None,
        STORE_ROWS=store_rows, PACKED=seq_starts is not None, REVERSE=reverse, COMPLEX=is_complex,
        STATE=_state(grad_start), BLOCK_D=block.block_d,
        ROWS=_backward_rows(block, gated, store_rows), MASKED=block.masked, num_warps=NUM_WARPS,
    )  # fmt: skip


def forward(
    x: Any, decay: Any, h0: Any, seq_starts: Any, *, reverse: bool, state_dtype: Any, num_sms: int
) -> tuple[Any, Any]:
    """`(h, h_last)` of a scan with T >= 1: h (B, T, D) in x's dtype, h_last (S, D) in the state's."""
    dtype, is_complex = x.dtype, x.is_complex()
    x, decay, h0, state_dtype = _reals(x), _reals(decay), _reals(h0), _real_dtype(x, state_dtype)
    h = x.new_empty(x.shape)
    rows, start = x.shape[1], h0
    block, plan = _layout(x, seq_starts, num_sms)
    for steps, num_chunks in _segments(plan, rows):
        last = _states(x, seq_starts, num_chunks, state_dtype)
        shape: dict[str, Any] = dict(
            block=block, steps=steps, chunk_length=plan.length, reverse=reverse, is_complex=is_complex
        )
        carry = None
        if plan.num_chunks > 1:
            ends, product = last.new_empty(last.shape), last.new_empty(last.shape) if decay.ndim == 3 else None
            launch_forward(x, decay, start, None, None, h, ends, product, **shape, store_rows=False)
            gates = _chunk_decay(decay, product, plan.length, is_complex)
            carry = _scan_carries(ends, gates, reverse=False, is_complex=is_complex)
        launch_forward(x, decay, start, carry, seq_starts, h, last, None, **shape)
        start = last[:, -1]
    return (h.view(dtype), start.contiguous().view(dtype)) if is_complex else (h, start)


def backward(
    grad_h: Any, grad_last: Any, decay: Any, h: Any, h0: Any, seq_starts: Any,
    *, reverse: bool, state_dtype: Any, num_sms: int,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """`(grad_x, grad_decay, grad_h0)` with T >= 1; grad_h0 (S, D) and a `(D,)` grad_decay in the state's dtype."""
    dtype, is_complex = h.dtype, h.is_complex()
    state_dtype = _real_dtype(h, state_dtype)
    grad_h, end, decay, h, h0 = (_reals(tensor) for tensor in (grad_h, grad_last, decay, h, h0))
    grad_x = grad_h.new_empty(grad_h.shape)
    rows, gated = grad_h.shape[1], decay.ndim == 3
    block, plan = _layout(grad_h, seq_starts, num_sms)
    grad_decay: Any = grad_h.new_empty(grad_h.shape, dtype=decay.dtype) if gated else None
    sums: list[Any] = []
    for steps, num_chunks in reversed(_segments(plan, rows)):
        start = _states(grad_h, seq_starts, num_chunks, state_dtype)
        per_chunk = grad_decay if gated else start.new_empty(start.shape)
        shape: dict[str, Any] = dict(
            block=block, steps=steps, chunk_length=plan.length, reverse=reverse, is_complex=is_complex
        )
        carry = None
        if plan.num_chunks > 1:
            mus, product = start.new_empty(start.shape), start.new_empty(start.shape) if gated else None
            launch_backward(
                grad_h, h, decay, None, end, None, None, grad_x, per_chunk, mus, product, **shape, store_rows=False
            )
            gates = _conjugate(_chunk_decay(decay, product, plan.length, is_complex), is_complex)
            carry = _scan_carries(mus, gates, reverse=True, is_complex=is_complex)
        launch_backward(grad_h, h, decay, h0, end, carry, seq_starts, grad_x, per_chunk, start, None, **shape)
        end = start[:, 0]
        if not gated:
            sums.append(per_chunk.flatten(0, 1).sum(0))
    if not gated:
        grad_decay = sum(sums[1:], sums[0])
    if is_complex:
        return grad_x.view(dtype), grad_decay.view(dtype), end.contiguous().view(dtype)
    return grad_x, grad_decay, end


def _reals(tensor: Any) -> Any:
    """A complex tensor as a real one with twice the channels, real and imaginary parts in turn."""
    if tensor is None or not tensor.is_complex():
        return tensor
    tensor = tensor.resolve_conj()
    if tensor.stride(-1) != 1:
        tensor = tensor.contiguous()
    return tensor.view(tensor.real.dtype)


def _real_dtype(tensor: Any, state_dtype: Any) -> Any:
    """The dtype that holds one part of the state."""
    return tensor.real.dtype if tensor.is_complex() else state_dtype


def _forward_rows(block: Channels) -> int:
    """Rows in flight of a forward launch."""
    return NARROW_FORWARD_ROWS if block.narrow else FORWARD_ROWS


def _backward_rows(block: Channels, gated: bool, store_rows: bool) -> int:
    """Rows in flight of a backward launch; summaries read what a forward pass reads."""
    if not store_rows:
        return _forward_rows(block)
    if gated:
        return NARROW_GATED_BACKWARD_ROWS if block.narrow else GATED_BACKWARD_ROWS
    return NARROW_BACKWARD_ROWS if block.narrow else BACKWARD_ROWS


def _state(states: Any) -> Any:
    """Triton's name for the dtype of the states."""
    return tl.float64 if states.element_size() == 8 else tl.float32


def _layout(x: Any, seq_starts: Any, num_sms: int) -> tuple[Channels, Chunks]:
    """Blocks of channels and chunks of time for a tensor."""
    sequences = x.shape[0] if seq_starts is None else seq_starts.shape[0]
    return layout(x.shape[1], sequences, x.shape[2], x.element_size(), num_sms, packed=seq_starts is not None)


def _segments(plan: Chunks, rows: int) -> list[tuple[tuple[int, int], int]]:
    """`((begin, end), num_chunks)` of each segment, in the order of the recurrence."""
    bounds = [(begin, min(begin + plan.segment, rows)) for begin in range(0, rows, plan.segment)]
    return [((begin, end), triton.cdiv(end - begin, plan.length)) for begin, end in bounds]


def _states(x: Any, seq_starts: Any, num_chunks: int, state_dtype: Any) -> Any:
    sequences = x.shape[0] if seq_starts is None else seq_starts.shape[0]
    return x.new_empty((sequences, num_chunks, x.shape[2]), dtype=state_dtype)


def _chunk_decay(decay: Any, product: Any, length: int, is_complex: bool) -> Any:
    """Decay over a whole chunk: the product the summaries formed, or `decay ** length`.

    The power is taken in float64 (relative error below 1e-13 at 2^20 steps, exact for 0, 1 and -1), of a complex decay
    by modulus and argument, and never as one minus something. Only the chunk that starts the recurrence may be shorter,
    and no decay is applied to that one.
    """
    if product is not None:
        return product
    if not is_complex:
        return decay.double().pow(length).to(decay.dtype)
    real, imaginary = decay.double().unflatten(0, (-1, 2)).unbind(1)
    modulus, argument = real.hypot(imaginary).pow(length), imaginary.atan2(real) * length
    power = decay.new_empty((decay.shape[0] // 2, 2))
    power[:, 0] = modulus * argument.cos()
    power[:, 1] = modulus * argument.sin()
    return power.flatten()


def _conjugate(decay: Any, is_complex: bool) -> Any:
    """The conjugate of interleaved numbers; an adjoint's carries decay by it."""
    if is_complex:
        decay = decay.clone()
        decay[..., 1::2].neg_()
    return decay


def _scan_carries(ends: Any, decay: Any, *, reverse: bool, is_complex: bool) -> Any:
    """`H[c] = decay * H[c-1] + ends[c]` over chunks c, from the last to the first if `reverse`."""
    carry, rows = ends.new_empty(ends.shape), ends.shape[1]
    block = channels(ends.shape[2], ends.element_size())
    shape: dict[str, Any] = dict(block=block, steps=(0, rows), reverse=reverse, is_complex=is_complex)
    plan = split_carries(rows)
    sums = ends.new_empty((ends.shape[0], plan.num_chunks, ends.shape[2]))
    inner = None
    if plan.num_chunks > 1:
        product = sums.new_empty(sums.shape) if decay.ndim == 3 else None
        launch_forward(
            ends, decay, None, None, None, carry, sums, product, **shape, chunk_length=plan.length, store_rows=False
        )
        gates = _chunk_decay(decay, product, plan.length, is_complex)
        inner = _scan_carries(sums, gates, reverse=False, is_complex=is_complex)
    launch_forward(
        ends, decay, None, inner, None, carry, sums.new_empty(sums.shape), None, **shape, chunk_length=plan.length
    )
    return carry

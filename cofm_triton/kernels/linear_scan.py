"""Linear scan, `h[t] = decay * h[t-1] + x[t]`: forward and backward Triton kernels.

Indices: b sequence, t time, d channel; tensors are (B, T, D). The decay is `(D,)`, loaded once and never materialised
over time, or, GATED, `(B, T, D)` with strides of its own; SHARED, the same for all channels, it is one number per step.
COMPLEX, channels (2k, 2k+1) are the parts of a number: of complex tensors, or of real ones with a complex decay.
The state lives in registers in STATE (float32, float64 for float64 input) whatever the dtype of the tensors.

A program owns BLOCK_D channels of one chunk of one sequence. Without splitting the only chunk is the whole sequence.
Where B * D is too small to fill the device, time is split into n chunks in three phases:

1. summaries: the same kernel with SUMMARY gives the final state of every chunk but the last from a zero start, `E[c]`
   (and, GATED, the product of its decays, `A[c]`; otherwise `A = decay ** chunk_length`). Chunk 0 starts from h0, so
   that its rows are final and are stored at once;
2. carries: `H[c] = A[c] * H[c-1] + E[c]`. A program adds up a few by itself (FOLD); many are a linear scan over chunks,
   which may split in turn;
3. replay: the same kernel for the chunks after the first, with the carry-in `H[c-1]`.

The replay reads its input again, and finds it in L2: a longer sequence is walked in segments, each through all its
phases before the next, and all that a segment reads and writes in both passes over it, with its summaries and carries,
is smaller than the L2 (`launch.SEGMENT_BYTES`). Between the first read of a line and its second, no other lines than
these are touched, so that a cache that drops what was used longest ago still has it. Where parts of an L2 keep copies
of each other's lines, less than its whole size is left, and the argument does not hold.

Backward, with g = dL/dh and mu the adjoint arriving from later steps (mu = dL/dh_last at the end of the sequence):

    lambda[t] = g[t] + mu[t],   mu[t-1] = decay[t] * lambda[t]
    dx[t] = lambda[t],   ddecay[t] = lambda[t] * h[t-1],   dh0 = mu[-1]

For a time-invariant decay `ddecay` is summed over time in registers and leaves the kernel as one row per program,
which the caller adds up in a fixed order: no atomics, bitwise reproducible.

Traffic in elements per element: forward 2 (GATED 3, SHARED 2), backward 3 (GATED 5, SHARED 4).
Source: Eq. (1) of arXiv 2305.19190 for linear sigma, and its adjoint; defined in `reference/linear_scan.py`.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from cofm_triton.kernels.interleaved import in_pairs, multiply, multiply_conj, one
from cofm_triton.kernels.launch import (
    FOLDED_CARRIES,
    LANES,
    NUM_WARPS,
    Channels,
    Chunks,
    has_aligned_rows,
    layout,
    narrowest,
    split_carries,
)
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

# Kernels are not compiled anew for a single block of channels (`do_not_specialize`): knowing that there is one, Triton
# keeps the distance of every row in flight in scalar registers, of which gfx942 has too few.

# Rows in flight, as many as registers allow, by the part of the full width that a block has. Forward, one tensor is
# read, and 16 rows of 16 bytes are 64 registers a thread; backward, two are, and three if gated.
FORWARD_ROWS = {1: 16, 2: 32, 4: 64}
GATED_FORWARD_ROWS = {1: 16, 2: 32, 4: 32}
BACKWARD_ROWS = {1: 12, 2: 18, 4: 24}
GATED_BACKWARD_ROWS = {1: 8, 2: 16, 4: 16}
# The rows that are left are walked together, or, in narrow blocks and complex, so many at a time: masks take registers.
SHORT_ROWS = 4
# Carries are few, and most of them may be what is left: one wait for so many, where there are no gates to wait for.
SHORT_CARRIES = 16

# The smallest number above 0 of a state, by its size in bytes.
SMALLEST = {4: 2.0**-149, 8: 2.0**-1074}


@triton.jit
def decay_state(decay, h, x, SUMMED: tl.constexpr, COMPLEX: tl.constexpr):
    """`decay * h + x`. SUMMED, decay stands for all steps of a chunk and x for its summary: what starts from 0 is the
    summary then, even if the decays multiply to infinity.
    """
    state = multiply(decay, h, COMPLEX) + x
    if SUMMED:
        if not COMPLEX:
            state = tl.where(h == 0, x, state)
    return state


@triton.jit
def multiply_decays(product, decay, COMPLEX: tl.constexpr):
    """`product * decay`. A product that underflows keeps its last size: an infinite state decays to itself, and only
    a decay of 0 makes it NaN.
    """
    result = multiply(product, decay, COMPLEX)
    if not COMPLEX:
        result = tl.where((result == 0) & (decay != 0), tl.where(decay < 0, -product, product), result)
    return result


@triton.jit
def fold_carries(
    carry_ptr, gates_ptr, entry_row, step, c, d, D, count,
    GATED: tl.constexpr, COMPLEX: tl.constexpr, STATE: tl.constexpr, FOLD: tl.constexpr,
):  # fmt: skip
    """`H = A[i] * H + carry[i]` over the `count` <= FOLD carries at `carry_ptr`, `carry_ptr + step`, ...: all are
    loaded at once, and added in this order by every program that needs them. A is (D,) or, GATED, laid out like carry.
    """
    ends = load_last_rows(carry_ptr + entry_row, step, d, D, count, FOLD)
    gate = tl.zeros((d.shape[0],), STATE)
    gates = ()
    if GATED:
        gates = load_last_rows(gates_ptr + entry_row, step, d, D, count, FOLD)
    else:
        gate = tl.load(gates_ptr + c, mask=d < D, other=0.0).to(STATE)
    h = ends[0].to(STATE)
    for j in tl.static_range(1, FOLD):
        if GATED:
            gate = gates[j].to(STATE)
        h = tl.where(live_row(d, D, j, count), decay_state(gate, h, ends[j].to(STATE), True, COMPLEX), h)
    return h


@triton.jit
def walk_last_rows_forward(
    h, decay, product, x_row, x_step, a_row, a_step, h_row, h_step, rest, d, D, stored,
    GATED: tl.constexpr, SHARED: tl.constexpr, STORE: tl.constexpr, PRODUCT: tl.constexpr, SUMMED: tl.constexpr,
    COMPLEX: tl.constexpr, STATE: tl.constexpr, SHORT: tl.constexpr,
):  # fmt: skip
    """As `walk_forward`, over the first SHORT of the `rest` rows that are left."""
    xs = load_last_rows(x_row, x_step, d, D, rest, SHORT)
    gates = ()
    if GATED:
        gates = load_last_gates(a_row, a_step, d, D, rest, SHORT, SHARED, COMPLEX)
    for j in tl.static_range(SHORT):
        live = live_row(d, D, j, rest)
        if GATED:
            decay = gate_row(gates[j], h, SHARED, COMPLEX)
        h = tl.where(live, decay_state(decay, h, xs[j].to(STATE), SUMMED, COMPLEX), h)
        if PRODUCT:
            store_row(h_row + j * h_step, h, live & stored, True)
            product = tl.where(live, multiply_decays(product, decay, COMPLEX), product)
        elif STORE:
            store_row(h_row + j * h_step, h, live, True)
    return h, product


@triton.jit
def walk_forward(
    h, decay, product, x_row, x_step, a_row, a_step, h_row, h_step, n, d, D, mask, stored,
    GATED: tl.constexpr, SHARED: tl.constexpr, STORE: tl.constexpr, PRODUCT: tl.constexpr, SUMMED: tl.constexpr,
    COMPLEX: tl.constexpr, STATE: tl.constexpr, ROWS: tl.constexpr, SHORT: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """`(h, product)` after n rows: h is the state, stored after every row if STORE, and, PRODUCT, only where `stored`
    allows; product is then multiplied by every decay.
    """
    for _ in range(n // ROWS):
        xs = load_rows(x_row, x_step, mask, ROWS, MASKED)
        gates = ()
        if GATED:
            gates = load_gates(a_row, a_step, mask, ROWS, MASKED, SHARED, COMPLEX)
            a_row += ROWS * a_step
        for j in tl.static_range(ROWS):
            if GATED:
                decay = gate_row(gates[j], h, SHARED, COMPLEX)
            h = decay_state(decay, h, xs[j].to(STATE), SUMMED, COMPLEX)
            if STORE:
                store_row(h_row + j * h_step, h, stored, MASKED or PRODUCT)
            if PRODUCT:
                product = multiply_decays(product, decay, COMPLEX)
        x_row += ROWS * x_step
        h_row += ROWS * h_step
    rest = n % ROWS
    if SHORT == ROWS:
        if rest > 0:  # and less than ROWS; a row that is never live, AMD's compiler of Triton 3.9 may stumble over
            h, product = walk_last_rows_forward(
                h, decay, product, x_row, x_step, a_row, a_step, h_row, h_step, rest, d, D, stored,
                GATED, SHARED, STORE, PRODUCT, SUMMED, COMPLEX, STATE, ROWS - 1,
            )  # fmt: skip
    else:
        for _ in range(tl.cdiv(rest, SHORT)):
            h, product = walk_last_rows_forward(
                h, decay, product, x_row, x_step, a_row, a_step, h_row, h_step, rest, d, D, stored,
                GATED, SHARED, STORE, PRODUCT, SUMMED, COMPLEX, STATE, SHORT,
            )  # fmt: skip
            x_row += SHORT * x_step
            h_row += SHORT * h_step
            if GATED:
                a_row += SHORT * a_step
            rest -= SHORT
    return h, product


@triton.jit(do_not_specialize=["num_blocks"])
def linear_scan_forward_kernel(
    x_ptr, decay_ptr, start_ptr, carry_ptr, gates_ptr, starts_ptr, h_ptr, last_ptr, product_ptr,
    T: tl.int64, D: tl.int64, num_blocks, num_chunks, num_sequences,
    begin: tl.int64, end: tl.int64, chunk_length: tl.int64, stride_s: tl.int64,
    stride_xb: tl.int64, stride_xt: tl.int64, stride_xd,
    stride_ab: tl.int64, stride_at: tl.int64, stride_ad,
    GATED: tl.constexpr, SHARED: tl.constexpr, HAS_START: tl.constexpr, HAS_CARRY: tl.constexpr, FOLD: tl.constexpr,
    SUMMARY: tl.constexpr, SUMMED: tl.constexpr, PACKED: tl.constexpr, REVERSE: tl.constexpr, COMPLEX: tl.constexpr,
    ALIGNED: tl.constexpr, STATE: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, SHORT: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """Writes h (B, T, D), contiguous, and last (S, D), the state after the steps [begin, end), which start from start
    (S, D), row stride stride_s; S = B unless PACKED. HAS_CARRY, program c of num_chunks does chunk c + 1 from carry[c]
    (S, num_chunks, D), or, FOLD > 0, from the sum of carry[:c + 1] decayed by gates, (D,) or GATED like carry.
    SUMMARY writes last (S, num_chunks, D), the state after each chunk, GATED product, that of its decays, and h of
    chunk 0 only. SUMMED, x and decay are summaries of chunks themselves.
    """
    if COMPLEX:
        D, stride_s, stride_xb, stride_xt = in_pairs(D), in_pairs(stride_s), in_pairs(stride_xb), in_pairs(stride_xt)
        stride_ab, stride_at = in_pairs(stride_ab), in_pairs(stride_at)
    pid = tl.program_id(0)
    program = (pid // num_blocks) % num_chunks
    chunk = program
    if HAS_CARRY:
        chunk += 1
    sequence = pid // num_blocks // num_chunks
    d = (pid % num_blocks).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = d < D
    c = across_lanes(d, pid, ALIGNED, COMPLEX)
    entry, _skipped, n, batch = chunk_rows(
        starts_ptr, sequence, num_sequences, T, begin, end, chunk, chunk_length, PACKED, REVERSE
    )
    SIGN: tl.constexpr = -1 if REVERSE else 1
    x_step = SIGN * stride_xt
    a_step = SIGN * stride_at
    h_step = SIGN * D
    x_row = x_ptr + batch * stride_xb + entry * stride_xt + c * stride_xd
    h_row = h_ptr + (batch * T + entry) * D + c
    a_row = decay_ptr + c
    if GATED:
        a_row = decay_ptr + batch * stride_ab + entry * stride_at
        if not SHARED:
            a_row += c * stride_ad
    state_row = (sequence.to(tl.int64) * num_chunks + program) * D + c

    h = tl.zeros((BLOCK_D,), STATE)
    if HAS_START:
        if chunk == 0:
            h = load_row(start_ptr + sequence.to(tl.int64) * stride_s + c, mask, MASKED).to(STATE)
    if HAS_CARRY:
        if FOLD > 0:
            entry_row = sequence.to(tl.int64) * num_chunks * D + c
            h = fold_carries(carry_ptr, gates_ptr, entry_row, D, c, d, D, chunk, GATED, COMPLEX, STATE, FOLD)
        else:
            h = load_row(carry_ptr + state_row, mask, MASKED).to(STATE)
    decay = tl.zeros((BLOCK_D,), STATE)
    if not GATED:
        decay = load_row(a_row, mask, MASKED).to(STATE)
    product = one(BLOCK_D, STATE, COMPLEX)

    stored = mask
    if SUMMARY and GATED:
        stored = d < tl.where(chunk == 0, D, 0)
    if SUMMARY and not GATED:
        if chunk == 0:
            h, product = walk_forward(
                h, decay, product, x_row, x_step, a_row, a_step, h_row, h_step, n, d, D, mask, stored,
                GATED, SHARED, True, False, SUMMED, COMPLEX, STATE, ROWS, SHORT, MASKED,
            )  # fmt: skip
        else:
            h, product = walk_forward(
                h, decay, product, x_row, x_step, a_row, a_step, h_row, h_step, n, d, D, mask, stored,
                GATED, SHARED, False, False, SUMMED, COMPLEX, STATE, ROWS, SHORT, MASKED,
            )  # fmt: skip
    else:
        h, product = walk_forward(
            h, decay, product, x_row, x_step, a_row, a_step, h_row, h_step, n, d, D, mask, stored,
            GATED, SHARED, True, SUMMARY and GATED, SUMMED, COMPLEX, STATE, ROWS, SHORT, MASKED,
        )  # fmt: skip

    if SUMMARY:
        store_row(last_ptr + state_row, h, mask, MASKED)
        if GATED:
            store_row(product_ptr + state_row, product, mask, MASKED)
    elif program == num_chunks - 1:
        store_row(last_ptr + sequence.to(tl.int64) * D + c, h, mask, MASKED)


@triton.jit
def walk_last_rows_backward(
    mu, decay, grad_decay, product, start, g_row, g_step, previous_row, a_row, a_step, dx_row, da_row, h_step,
    rest, with_previous, d, D,
    GATED: tl.constexpr, SHARED: tl.constexpr, SUMMARY: tl.constexpr, COMPLEX: tl.constexpr, STATE: tl.constexpr,
    SHORT: tl.constexpr,
):  # fmt: skip
    """`(mu, grad_decay, product)` after the first SHORT of the `rest` rows that are left, of which `with_previous` have
    an earlier row; the earlier state of the others is `start`.
    """
    gs = load_last_rows(g_row, g_step, d, D, rest, SHORT)
    hs = ()
    if not SUMMARY:
        hs = load_last_rows(previous_row, h_step, d, D, with_previous, SHORT)
    gates = ()
    if GATED:
        gates = load_last_gates(a_row, a_step, d, D, rest, SHORT, SHARED, COMPLEX)
    for j in tl.static_range(SHORT):
        live = live_row(d, D, j, rest)
        if GATED:
            decay = gate_row(gates[j], mu, SHARED, COMPLEX)
        adjoint = gs[j].to(STATE) + mu
        mu = tl.where(live, multiply_conj(decay, adjoint, COMPLEX), mu)
        if SUMMARY:
            if GATED:
                product = tl.where(live, multiply_decays(product, decay, COMPLEX), product)
        else:
            previous = tl.where(with_previous > j, hs[j].to(STATE), start)
            store_row(dx_row + j * h_step, adjoint, live, True)
            if GATED:
                store_row(da_row + j * h_step, multiply_conj(previous, adjoint, COMPLEX), live, True)
            else:
                grad_decay += tl.where(live, multiply_conj(previous, adjoint, COMPLEX), 0.0)
    return mu, grad_decay, product


@triton.jit(do_not_specialize=["num_blocks"])
def linear_scan_backward_kernel(
    grad_h_ptr, h_ptr, decay_ptr, h0_ptr, grad_end_ptr, carry_ptr, gates_ptr, starts_ptr,
    grad_x_ptr, grad_decay_ptr, grad_start_ptr, product_ptr,
    T: tl.int64, D: tl.int64, num_blocks, num_chunks, num_sequences,
    begin: tl.int64, end: tl.int64, chunk_length: tl.int64, stride_s: tl.int64,
    stride_gb: tl.int64, stride_gt: tl.int64, stride_gd,
    stride_ab: tl.int64, stride_at: tl.int64, stride_ad,
    GATED: tl.constexpr, SHARED: tl.constexpr, HAS_H0: tl.constexpr, HAS_GRAD_END: tl.constexpr,
    HAS_CARRY: tl.constexpr, FOLD: tl.constexpr, SUMMARY: tl.constexpr, PACKED: tl.constexpr, REVERSE: tl.constexpr,
    COMPLEX: tl.constexpr, ALIGNED: tl.constexpr, STATE: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr,
    SHORT: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Writes grad_x (B, T, D), contiguous, grad_start (S, D): mu before the steps [begin, end), which end with mu =
    grad_end (S, D), row stride stride_s, and grad_decay: GATED (B, T, D), otherwise one row per chunk, (S, num_chunks,
    D). HAS_CARRY, chunk c before the last ends with mu = carry[c] (S, num_chunks - 1, D), or, FOLD > 0, with the sum
    of carry[c:] decayed by gates, (D,) or GATED like carry. SUMMARY is for the chunks after the first and writes
    grad_start (S, num_chunks, D), mu before each of them, and GATED product, that of its decays, nothing else.
    """
    if COMPLEX:
        D, stride_s, stride_gb, stride_gt = in_pairs(D), in_pairs(stride_s), in_pairs(stride_gb), in_pairs(stride_gt)
        stride_ab, stride_at = in_pairs(stride_ab), in_pairs(stride_at)
    pid = tl.program_id(0)
    program = (pid // num_blocks) % num_chunks
    chunk, last_chunk = program, num_chunks - 1
    if SUMMARY:
        chunk += 1
        last_chunk += 1
    sequence = pid // num_blocks // num_chunks
    d = (pid % num_blocks).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = d < D
    c = across_lanes(d, pid, ALIGNED, COMPLEX)
    entry, skipped, n, batch = chunk_rows(
        starts_ptr, sequence, num_sequences, T, begin, end, chunk, chunk_length, PACKED, REVERSE
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
    previous_row = h_ptr + dense_row + h_step
    da_row = grad_decay_ptr + dense_row
    a_row = decay_ptr + c
    if GATED:
        a_row = decay_ptr + batch * stride_ab + last * stride_at
        if not SHARED:
            a_row += c * stride_ad
    state_row = (sequence.to(tl.int64) * num_chunks + program) * D + c

    mu = tl.zeros((BLOCK_D,), STATE)
    if HAS_CARRY:
        if chunk < last_chunk:
            entry_row = (sequence.to(tl.int64) * last_chunk + chunk) * D + c
            if FOLD > 0:
                entry_row += (last_chunk - 1 - chunk) * D
                count = last_chunk - chunk
                mu = fold_carries(carry_ptr, gates_ptr, entry_row, -D, c, d, D, count, GATED, COMPLEX, STATE, FOLD)
            else:
                mu = load_row(carry_ptr + entry_row, mask, MASKED).to(STATE)
    if HAS_GRAD_END:
        if chunk == last_chunk:
            mu = load_row(grad_end_ptr + sequence.to(tl.int64) * stride_s + c, mask, MASKED).to(STATE)
    decay = tl.zeros((BLOCK_D,), STATE)
    if not GATED:
        decay = load_row(a_row, mask, MASKED).to(STATE)
    product = one(BLOCK_D, STATE, COMPLEX)
    grad_decay = tl.zeros((BLOCK_D,), STATE)

    # The first row of a sequence has no earlier row: its h[t-1] is h0. It belongs to the last, partial block.
    whole = n // ROWS
    if not SUMMARY:
        if skipped == 0:
            whole = tl.maximum(n - 1, 0) // ROWS
    for _ in range(whole):
        gs = load_rows(g_row, g_step, mask, ROWS, MASKED)
        hs = ()
        if not SUMMARY:
            hs = load_rows(previous_row, h_step, mask, ROWS, MASKED)
        gates = ()
        if GATED:
            gates = load_gates(a_row, a_step, mask, ROWS, MASKED, SHARED, COMPLEX)
            a_row += ROWS * a_step
        for j in tl.static_range(ROWS):
            if GATED:
                decay = gate_row(gates[j], mu, SHARED, COMPLEX)
            adjoint = gs[j].to(STATE) + mu
            mu = multiply_conj(decay, adjoint, COMPLEX)
            if SUMMARY:
                if GATED:
                    product = multiply_decays(product, decay, COMPLEX)
            else:
                store_row(dx_row + j * h_step, adjoint, mask, MASKED)
                if GATED:
                    store_row(da_row + j * h_step, multiply_conj(hs[j].to(STATE), adjoint, COMPLEX), mask, MASKED)
                else:
                    grad_decay += multiply_conj(hs[j].to(STATE), adjoint, COMPLEX)
        g_row += ROWS * g_step
        dx_row += ROWS * h_step
        da_row += ROWS * h_step
        previous_row += ROWS * h_step
    rest = n - whole * ROWS
    with_previous = rest
    start = tl.zeros((BLOCK_D,), STATE)
    if not SUMMARY:
        if skipped == 0:
            with_previous = rest - 1
            if HAS_H0:
                start = load_row(h0_ptr + sequence.to(tl.int64) * D + c, mask, MASKED).to(STATE)
    if SHORT == ROWS:
        if rest > 0:
            mu, grad_decay, product = walk_last_rows_backward(
                mu, decay, grad_decay, product, start, g_row, g_step, previous_row, a_row, a_step, dx_row, da_row,
                h_step, rest, with_previous, d, D, GATED, SHARED, SUMMARY, COMPLEX, STATE, SHORT,
            )  # fmt: skip
    else:
        for _ in range(tl.cdiv(rest, SHORT)):
            mu, grad_decay, product = walk_last_rows_backward(
                mu, decay, grad_decay, product, start, g_row, g_step, previous_row, a_row, a_step, dx_row, da_row,
                h_step, rest, with_previous, d, D, GATED, SHARED, SUMMARY, COMPLEX, STATE, SHORT,
            )  # fmt: skip
            g_row += SHORT * g_step
            dx_row += SHORT * h_step
            da_row += SHORT * h_step
            previous_row += SHORT * h_step
            if GATED:
                a_row += SHORT * a_step
            rest -= SHORT
            with_previous -= SHORT

    if SUMMARY:
        store_row(grad_start_ptr + state_row, mu, mask, MASKED)
        if GATED:
            store_row(product_ptr + state_row, product, mask, MASKED)
    else:
        if chunk == 0:
            store_row(grad_start_ptr + sequence.to(tl.int64) * D + c, mu, mask, MASKED)
        if not GATED:
            store_row(grad_decay_ptr + state_row, grad_decay, mask, MASKED)


def launch_forward(
    x: Any, decay: Any, start: Any, carry: Any, gates: Any, seq_starts: Any, h: Any, last: Any, product: Any, *,
    block: Channels, steps: tuple[int, int], chunk_length: int, num_chunks: int = 1, reverse: bool, is_complex: bool,
    summary: bool = False, summed: bool = False,
) -> None:  # fmt: skip
    """Forward kernel over the steps [begin, end), one program per block of channels, chunk and sequence.

    `start`, `carry`, `gates`, `seq_starts` and `product` may be None; `last` is (S, D), of summaries (S, num_chunks,
    D). With `gates` the carries are folded. Only pointers and strides of the tensors are used.
    """
    length, width = x.shape[1], x.shape[2]
    num_sequences = last.shape[0]
    gated = decay.ndim == 3
    rows = GATED_FORWARD_ROWS if gated else FORWARD_ROWS
    short = SHORT_CARRIES if summed and not gated and not is_complex else SHORT_ROWS
    linear_scan_forward_kernel[(block.num_blocks * num_chunks * num_sequences,)](
        x, decay, start, carry, gates, seq_starts, h, last, product,
        length, width, block.num_blocks, num_chunks, num_sequences,
        steps[0], steps[1], chunk_length, 0 if start is None else start.stride(0),
        *x.stride(), *(decay.stride() if gated else (0, 0, 0)),
        GATED=gated, SHARED=_shared(decay, x), HAS_START=start is not None, HAS_CARRY=carry is not None,
        FOLD=0 if gates is None else FOLDED_CARRIES, SUMMARY=summary, SUMMED=summed,
        PACKED=seq_starts is not None, REVERSE=reverse, COMPLEX=is_complex, ALIGNED=_aligned(x, decay),
        STATE=_state(last), BLOCK_D=block.block_d, **_rows(rows, block, chunk_length, is_complex, short),
        MASKED=block.masked, num_warps=NUM_WARPS,
    )  # fmt: skip


def launch_backward(
    grad_h: Any, h: Any, decay: Any, h0: Any, grad_end: Any, carry: Any, gates: Any, seq_starts: Any,
    grad_x: Any, grad_decay: Any, grad_start: Any, product: Any, *, block: Channels,
    steps: tuple[int, int], chunk_length: int, num_chunks: int, reverse: bool, is_complex: bool, summary: bool = False,
) -> None:  # fmt: skip
    """Backward kernel over the steps [begin, end); `h0`, `grad_end`, `carry`, `gates`, `seq_starts` and `product` may
    be None. With `gates` the carries are folded.
    """
    length, width = grad_h.shape[1], grad_h.shape[2]
    num_sequences = grad_start.shape[0]
    gated = decay.ndim == 3
    forward_rows = GATED_FORWARD_ROWS if gated else FORWARD_ROWS
    rows = forward_rows if summary else GATED_BACKWARD_ROWS if gated else BACKWARD_ROWS
    linear_scan_backward_kernel[(block.num_blocks * num_chunks * num_sequences,)](
        grad_h, h, decay, h0, grad_end, carry, gates, seq_starts, grad_x, grad_decay, grad_start, product,
        length, width, block.num_blocks, num_chunks, num_sequences,
        steps[0], steps[1], chunk_length, 0 if grad_end is None else grad_end.stride(0),
        *grad_h.stride(), *(decay.stride() if gated else (0, 0, 0)),
        GATED=gated, SHARED=_shared(decay, grad_h), HAS_H0=h0 is not None, HAS_GRAD_END=grad_end is not None,
        HAS_CARRY=carry is not None, FOLD=0 if gates is None else FOLDED_CARRIES, SUMMARY=summary,
        PACKED=seq_starts is not None, REVERSE=reverse, COMPLEX=is_complex, ALIGNED=_aligned(grad_h, decay),
        STATE=_state(grad_start), BLOCK_D=block.block_d,
        **_rows(rows, block, chunk_length, is_complex), MASKED=block.masked, num_warps=NUM_WARPS,
    )  # fmt: skip


def forward(
    x: Any, decay: Any, h0: Any, seq_starts: Any, *, reverse: bool, state_dtype: Any, num_sms: int, lanes: int = LANES
) -> tuple[Any, Any]:
    """`(h, h_last)` of a scan with T >= 1: h (B, T, D) in x's dtype, h_last (S, D) in the state's."""
    dtype, of_complex, is_complex = x.dtype, x.is_complex(), decay.is_complex()
    decay, state_dtype = _coefficients(decay, x), _real_dtype(x, state_dtype)
    x, h0 = _reals(x, is_complex), _reals(h0)
    h = x.new_empty(x.shape)
    rows, state = x.shape[1], h0
    pair_lanes = lanes if is_complex else 0
    block, plan = _layout(x, decay, seq_starts, num_sms, 3 if decay.ndim == 3 else 2, pair_lanes)
    for steps in _segments(plan, rows):
        start, state = state, _states(x, seq_starts, state_dtype)
        _scan_segment(
            x, decay, start, seq_starts, h, state, block=block, steps=steps, chunk_length=plan.length, reverse=reverse,
            pair_lanes=pair_lanes,
        )  # fmt: skip
    return (h.view(dtype), state.view(dtype)) if of_complex else (h, state)


def _scan_segment(
    x: Any, decay: Any, start: Any, seq_starts: Any, h: Any, last: Any, *, block: Channels, steps: tuple[int, int],
    chunk_length: int, reverse: bool, pair_lanes: int, summed: bool = False,
) -> None:  # fmt: skip
    """The steps [begin, end) of a scan, in one phase or three."""
    is_complex = pair_lanes > 0
    shape: dict[str, Any] = dict(
        block=block, steps=steps, chunk_length=chunk_length, reverse=reverse, is_complex=is_complex, summed=summed
    )
    carries = triton.cdiv(steps[1] - steps[0], chunk_length) - 1
    if carries == 0:
        launch_forward(x, decay, start, None, None, seq_starts, h, last, None, **shape)
        return
    ends = last.new_empty((last.shape[0], carries, last.shape[1]))
    product = ends.new_empty(ends.shape) if decay.ndim == 3 else None
    launch_forward(x, decay, start, None, None, None, h, ends, product, num_chunks=carries, **shape, summary=True)
    gates = _chunk_decay(decay, product, chunk_length, is_complex)
    carry, gates = _carries(ends, gates, reverse=False, pair_lanes=pair_lanes)
    launch_forward(x, decay, None, carry, gates, None, h, last, None, num_chunks=carries, **shape)


def _carries(ends: Any, gates: Any, *, reverse: bool, pair_lanes: int) -> tuple[Any, Any]:
    """What a replay takes up: `(ends, gates)` where they are few, otherwise `(H, None)`, `H[c] = gates * H[c-1] +
    ends[c]` over chunks c, from the last to the first if `reverse`.
    """
    count, width = ends.shape[1], ends.shape[2]
    if count <= FOLDED_CARRIES:
        return ends, gates
    carry, last = ends.new_empty(ends.shape), ends.new_empty((ends.shape[0], width))
    _scan_segment(
        ends, gates, None, None, carry, last, block=narrowest(width, ends.element_size(), pair_lanes=pair_lanes),
        steps=(0, count), chunk_length=split_carries(count), reverse=reverse, pair_lanes=pair_lanes, summed=True,
    )  # fmt: skip
    return carry, None


def backward(
    grad_h: Any, grad_last: Any, decay: Any, h: Any, h0: Any, seq_starts: Any,
    *, reverse: bool, state_dtype: Any, num_sms: int, lanes: int = LANES,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """`(grad_x, grad_decay, grad_h0)` with T >= 1; grad_h0 (S, D) and a `(D,)` grad_decay in the state's dtype."""
    dtype, of_complex, gate_dtype, is_complex = h.dtype, h.is_complex(), decay.dtype, decay.is_complex()
    decay, state_dtype = _coefficients(decay, h), _real_dtype(h, state_dtype)
    end, h, h0 = (_reals(tensor) for tensor in (grad_last, h, h0))
    grad_h = _reals(grad_h, is_complex)
    grad_x = grad_h.new_empty(grad_h.shape)
    rows, gated = grad_h.shape[1], decay.ndim == 3
    pair_lanes = lanes if is_complex else 0
    block, plan = _layout(grad_h, decay, seq_starts, num_sms, 5 if gated else 3, pair_lanes)
    grad_decay: Any = grad_h.new_empty(grad_h.shape, dtype=decay.dtype) if gated else None
    sums: list[Any] = []
    for steps in reversed(_segments(plan, rows)):
        start = _states(grad_h, seq_starts, state_dtype)
        num_chunks = triton.cdiv(steps[1] - steps[0], plan.length)
        per_chunk = grad_decay if gated else start.new_empty((start.shape[0], num_chunks, start.shape[1]))
        shape: dict[str, Any] = dict(
            block=block, steps=steps, chunk_length=plan.length, reverse=reverse, is_complex=is_complex
        )
        carry = gates = None
        if num_chunks > 1:
            mus = start.new_empty((start.shape[0], num_chunks - 1, start.shape[1]))
            product = mus.new_empty(mus.shape) if gated else None
            launch_backward(
                grad_h, h, decay, None, end, None, None, None, grad_x, per_chunk, mus, product,
                num_chunks=num_chunks - 1, **shape, summary=True,
            )  # fmt: skip
            gates = _conjugate(_chunk_decay(decay, product, plan.length, is_complex), is_complex)
            carry, gates = _carries(mus, gates, reverse=True, pair_lanes=pair_lanes)
        launch_backward(
            grad_h, h, decay, h0, end, carry, gates, seq_starts, grad_x, per_chunk, start, None,
            num_chunks=num_chunks, **shape,
        )  # fmt: skip
        end = start
        if not gated:
            sums.append(per_chunk.flatten(0, 1).sum(0))
    if not gated:
        grad_decay = sum(sums[1:], sums[0])
    grad_decay = grad_decay.view(gate_dtype)
    return (grad_x.view(dtype), grad_decay, end.view(dtype)) if of_complex else (grad_x, grad_decay, end)


def _coefficients(decay: Any, x: Any) -> Any:
    """A decay (D,), or gates for every step of x, (B, T, D) or one for all channels of a step; complex ones as reals,
    two for one.
    """
    if decay.ndim == 3:
        channels = x.shape[2] // (2 if decay.is_complex() and not x.is_complex() else 1)
        if channels > 1 and (decay.shape[2] == 1 or decay.stride(2) == 0):
            decay = decay[..., 0].unsqueeze(2)
        decay = decay.expand(x.shape[0], x.shape[1], -1)
    return _reals(decay)


def _reals(tensor: Any, pairs: bool = False) -> Any:
    """A complex tensor as a real one with twice the channels, real and imaginary parts in turn. A real one is such a
    tensor if it is to be taken in `pairs`; those that do not all lie an even number of numbers apart are copied.
    """
    if tensor is not None and pairs and any(stride % 2 for stride in tensor.stride()[:-1]):
        tensor = tensor.contiguous()
    if tensor is None or not tensor.is_complex():
        return tensor
    tensor = tensor.resolve_conj()
    if tensor.stride(-1) != 1:
        tensor = tensor.contiguous()
    return tensor.view(tensor.real.dtype)


def _real_dtype(tensor: Any, state_dtype: Any) -> Any:
    """The dtype that holds one part of the state."""
    return tensor.real.dtype if tensor.is_complex() else state_dtype


def _rows(
    table: dict[int, int], block: Channels, chunk_length: int, is_complex: bool, short: int = SHORT_ROWS
) -> dict[str, int]:
    """Rows in flight of a launch, and those of a short block; a chunk that has fewer is walked in short blocks."""
    rows = table[block.part] if chunk_length >= table[block.part] else table[1]
    return dict(ROWS=rows, SHORT=short if block.part > 1 or is_complex else rows)


def _state(states: Any) -> Any:
    """Triton's name for the dtype of the states."""
    return tl.float64 if states.element_size() == 8 else tl.float32


def _shared(decay: Any, x: Any) -> bool:
    """Whether all channels of a step have the same gate, and read it where it is."""
    return decay.ndim == 3 and decay.shape[2] < x.shape[2]


def _aligned(x: Any, decay: Any) -> bool:
    """Whether all rows, of x, of a gated decay and of dense tensors, can be moved 16 bytes at a time."""
    return has_aligned_rows(x) and (decay.ndim == 1 or _shared(decay, x) or has_aligned_rows(decay))


def _layout(
    x: Any, decay: Any, seq_starts: Any, num_sms: int, streams: int, pair_lanes: int
) -> tuple[Channels, Chunks]:
    """Blocks of channels and chunks of time for a tensor of a pass that moves `streams` of its size. Gates wider than x
    decide how many numbers a lane has: it would have to hand some of x to its neighbours.
    """
    sequences = x.shape[0] if seq_starts is None else seq_starts.shape[0]
    element_size = max(x.element_size(), decay.element_size()) if decay.ndim == 3 else x.element_size()
    return layout(
        x.shape[1], sequences, x.shape[2], element_size, num_sms, streams=streams, packed=seq_starts is not None,
        pair_lanes=pair_lanes, aligned=_aligned(x, decay),
    )  # fmt: skip


def _segments(plan: Chunks, rows: int) -> list[tuple[int, int]]:
    """`(begin, end)` of each segment, in the order of the recurrence."""
    return [(begin, min(begin + plan.segment, rows)) for begin in range(0, rows, plan.segment)]


def _states(x: Any, seq_starts: Any, state_dtype: Any) -> Any:
    sequences = x.shape[0] if seq_starts is None else seq_starts.shape[0]
    return x.new_empty((sequences, x.shape[2]), dtype=state_dtype)


def _chunk_decay(decay: Any, product: Any, length: int, is_complex: bool) -> Any:
    """Decay over a whole chunk: the product the summaries formed, or `decay ** length`.

    The power is taken in float64 (relative error below 1e-13 at 2^20 steps, exact for 0, 1 and -1), of a complex decay
    by modulus and argument, and never as one minus something. As in `multiply_decays`, only a decay
    of 0 gives 0. The last chunk may be shorter: its own decay is never asked for.
    """
    if product is not None:
        return product
    if not is_complex:
        power, smallest = decay.double().pow(length), SMALLEST[decay.element_size()]
        return power.abs().clamp(min=smallest).copysign(power).where(decay != 0, power).to(decay.dtype)
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

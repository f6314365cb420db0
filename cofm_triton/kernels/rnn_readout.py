"""Read-out of a diagonal recurrence, encoder included: forward and backward Triton kernels that never store a state.

    h[t] = h[t-1] + dt * act_in(z[t]),   z[t] = U x[t] + b - a h[t-1],   h[-1] = 0,   y[t] = c^T act_out(h[t])

Backward, with g = dL/dy and mu the adjoint arriving from later steps (0 after the last):

    lambda[t] = mu[t] + act_out'(h[t]) c g[t],   dz[t] = dt act_in'(z[t]) lambda[t],   mu[t-1] = lambda[t] - a dz[t]
    da -= dz[t] h[t-1],   db += dz[t],   dU += dz[t] x[t],   dc += g[t] act_out(h[t]),   dx[t] = U^T dz[t]

PAIRED, units (2k, 2k + 1) of one lane also turn, as in `rnn_scan.py`: `z[t]` has the term `+ turn * swap(h[t-1])`,
`mu[t-1]` has `- turn * swap(dz[t])`, and `dturn += dz[t] * swap(h[t-1])`.

Indices: b sequence, t time, d unit, k input, q output; x is (B, T, INPUTS), y (B, T, OUTPUTS), U^T (INPUTS, D),
c (OUTPUTS, D), a and b (D,), all contiguous and in STATE, float32 or float64. Masked: units from D on have coefficients
0, stay at 0 and are not stored; steps from T on are computed from x = 0 and g = 0, and change no output.

A program owns BLOCK_D units of one sequence, with all their coefficients in registers. x[t] and g[t] are scalars to it,
ROWS steps of them in flight; y[t] and dx[t] are sums over its lanes. The programs of a sequence write partial sums,
which the launcher adds up in a fixed order.

Forward keeps h at the start of every chunk of chunk_blocks blocks of ROWS steps. Backward takes the chunks from the
last to the first. It walks a chunk forward once more and keeps h at the start of every block in a scratch of its own;
then it walks the blocks from the last to the first and recomputes each in registers. Gradients of coefficients are
summed over time in registers and leave as one row per sequence: no atomics.

Traffic in elements per step and sequence: forward INPUTS + OUTPUTS, backward 2 INPUTS + OUTPUTS and INPUTS more for dx,
each once per block of units; a state per unit and chunk on top, and backward, in cache, two per unit and block.
Source: arXiv 2305.19190, Eq. (1) in discrete time, and its adjoint; defined in `reference/model.py`.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from cofm_triton.kernels.interleaved import in_pairs, swap
from cofm_triton.kernels.launch import NUM_WARPS, readout_backward_rows, readout_forward_rows, state_type, units
from cofm_triton.kernels.launches import launch
from cofm_triton.kernels.nonlinearity import act, act_derivative
from cofm_triton.kernels.rows import load_row, store_row


@triton.jit
def load_coefficients(ptr, stride, d, mask, COUNT: tl.constexpr):
    """COUNT rows of the units d, `stride` apart."""
    rows = ()
    for k in tl.static_range(COUNT):
        rows = rows + (load_row(ptr + k * stride + d, mask, MASKED=True),)
    return rows


@triton.jit
def load_steps(ptr, rest, ROWS: tl.constexpr, COUNT: tl.constexpr):
    """ROWS steps of COUNT scalars, all in flight together; steps from `rest` on are zero."""
    scalars = ()
    for j in tl.static_range(ROWS):
        for k in tl.static_range(COUNT):
            scalars = scalars + (tl.load(ptr + (j * COUNT + k), mask=j < rest, other=0.0),)
    return scalars


@triton.jit
def repeated(row, COUNT: tl.constexpr):
    """COUNT times the same row."""
    rows = ()
    for _ in tl.static_range(COUNT):
        rows = rows + (row,)
    return rows


@triton.jit
def encode(xs, weights, bias, J: tl.constexpr, INPUTS: tl.constexpr):
    """U x + b of step J of a block."""
    e = bias
    for k in tl.static_range(INPUTS):
        e += weights[k] * xs[J * INPUTS + k]
    return e


@triton.jit
def pre_activation(e, rate, turn, h, PAIRED: tl.constexpr):
    """z = e - a h + turn * swap(h); `turn` is unused unless PAIRED."""
    z = e - rate * h
    if PAIRED:
        z += turn * swap(h)
    return z


@triton.jit
def recompute(
    xs, h, weights, bias, rate, turn, dt, rest,
    ACT_IN: tl.constexpr, INPUTS: tl.constexpr, PAIRED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """`(hs, slopes)` of a block of steps that starts from h: h before it and after every step, and dt * act_in'(z[t]).

    Steps from `rest` on leave h as it is: they pull at nothing, and must not overflow either.
    """
    hs = (h,)
    slopes = ()
    for j in tl.static_range(ROWS):
        e = encode(xs, weights, bias, J=j, INPUTS=INPUTS)
        z = pre_activation(e, rate, turn, h, PAIRED=PAIRED)
        u = act(z, NONLINEARITY=ACT_IN)
        slopes = slopes + (act_derivative(z, u, dt, NONLINEARITY=ACT_IN),)
        h = tl.where(rest > j, h + dt * u, h)
        hs = hs + (h,)
    return hs, slopes


@triton.jit
def rnn_readout_forward_kernel(
    x_ptr,  # (B, T, INPUTS)
    weight_ptr,  # (INPUTS, D), U^T: coefficients of neighbouring units lie next to each other
    bias_ptr,  # (D,), b
    rate_ptr,  # (D,), a
    turn_ptr,  # (D,), read if PAIRED
    readout_ptr,  # (OUTPUTS, D), c
    y_ptr,  # out: (num_blocks, B, T, OUTPUTS), partial sums over units
    states_ptr,  # out if KEEP: (B, num_chunks, D), h before each chunk; all tensors are contiguous and in STATE
    B: tl.int64, T: tl.int64, D: tl.int64, num_blocks, num_chunks,
    chunk_blocks: tl.int64,  # blocks of ROWS steps in a chunk
    dt: tl.float64,
    ACT_IN: tl.constexpr, ACT_OUT: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
    KEEP: tl.constexpr, PAIRED: tl.constexpr, STATE: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Read-outs of BLOCK_D units at all steps of one sequence, and the states that backward starts from."""
    if PAIRED:
        D = in_pairs(D)
    pid = tl.program_id(0)
    sequence = pid // num_blocks
    block = pid % num_blocks
    d = block.to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = d < D
    x_row = x_ptr + sequence.to(tl.int64) * T * INPUTS
    y_row = y_ptr + (block.to(tl.int64) * B + sequence.to(tl.int64)) * T * OUTPUTS
    if KEEP:
        state_row = states_ptr + sequence.to(tl.int64) * num_chunks * D + d
    dt = tl.full((), dt, STATE)

    # Load: coefficients
    weights = load_coefficients(weight_ptr, D, d, mask, COUNT=INPUTS)
    readouts = load_coefficients(readout_ptr, D, d, mask, COUNT=OUTPUTS)
    bias = load_row(bias_ptr + d, mask, MASKED=True)
    rate = load_row(rate_ptr + d, mask, MASKED=True)
    turn = load_row(turn_ptr + d, mask, MASKED=True) if PAIRED else rate
    h = tl.zeros((BLOCK_D,), STATE)

    for i in range(tl.cdiv(T, ROWS)):
        rest = T - i * ROWS
        if KEEP:
            if i % chunk_blocks == 0:
                store_row(state_row, h, mask, MASKED=True)
                state_row += D
        # Load
        xs = load_steps(x_row, rest, ROWS=ROWS, COUNT=INPUTS)
        # Compute and store, step by step
        for j in tl.static_range(ROWS):
            e = encode(xs, weights, bias, J=j, INPUTS=INPUTS)
            h += dt * act(pre_activation(e, rate, turn, h, PAIRED=PAIRED), NONLINEARITY=ACT_IN)
            value = act(h, NONLINEARITY=ACT_OUT)
            for q in tl.static_range(OUTPUTS):
                tl.store(y_row + (j * OUTPUTS + q), tl.sum(readouts[q] * value, 0), mask=j < rest)
        x_row += ROWS * INPUTS
        y_row += ROWS * OUTPUTS


@triton.jit
def rnn_readout_backward_kernel(
    grad_y_ptr,  # (B, T, OUTPUTS), g
    x_ptr,  # (B, T, INPUTS)
    weight_ptr,  # (INPUTS, D), U^T
    bias_ptr,  # (D,), b
    rate_ptr,  # (D,), a
    turn_ptr,  # (D,), read if PAIRED
    readout_ptr,  # (OUTPUTS, D), c
    states_ptr,  # (B, num_chunks, D), h before each chunk
    scratch_ptr,  # (programs, chunk_blocks, BLOCK_D), room for h before each block of a chunk
    grad_x_ptr,  # out if WITH_GRAD_X: (num_blocks, B, T, INPUTS), partial sums over units
    grad_ptr,  # out: (B, 2 + INPUTS + OUTPUTS + PAIRED, D): da, db, dU^T, dc, dturn; all tensors as forward
    B: tl.int64, T: tl.int64, D: tl.int64, num_blocks, num_chunks,
    chunk_blocks: tl.int64,  # blocks of ROWS steps in a chunk
    dt: tl.float64,
    ACT_IN: tl.constexpr, ACT_OUT: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
    WITH_GRAD_X: tl.constexpr, PAIRED: tl.constexpr, STATE: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Gradients of the coefficients of BLOCK_D units, summed over one sequence, and their parts of dx."""
    if PAIRED:
        D = in_pairs(D)
    pid = tl.program_id(0)
    sequence = pid // num_blocks
    block = pid % num_blocks
    d = block.to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = d < D
    x_base = x_ptr + sequence.to(tl.int64) * T * INPUTS
    g_base = grad_y_ptr + sequence.to(tl.int64) * T * OUTPUTS
    if WITH_GRAD_X:
        dx_base = grad_x_ptr + (block.to(tl.int64) * B + sequence.to(tl.int64)) * T * INPUTS
    scratch = scratch_ptr + pid.to(tl.int64) * chunk_blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    grad_row = grad_ptr + sequence.to(tl.int64) * (2 + INPUTS + OUTPUTS + PAIRED) * D + d
    dt = tl.full((), dt, STATE)

    # Load: coefficients
    weights = load_coefficients(weight_ptr, D, d, mask, COUNT=INPUTS)
    readouts = load_coefficients(readout_ptr, D, d, mask, COUNT=OUTPUTS)
    bias = load_row(bias_ptr + d, mask, MASKED=True)
    rate = load_row(rate_ptr + d, mask, MASKED=True)
    turn = load_row(turn_ptr + d, mask, MASKED=True) if PAIRED else rate
    zero = tl.zeros((BLOCK_D,), STATE)
    mu = zero
    grad_rate = zero
    grad_turn = zero
    grad_bias = zero
    grad_weights = repeated(zero, COUNT=INPUTS)
    grad_readouts = repeated(zero, COUNT=OUTPUTS)

    for later in range(num_chunks):
        chunk = (num_chunks - 1 - later).to(tl.int64)
        first = chunk * chunk_blocks
        count = tl.minimum(tl.cdiv(T, ROWS) - first, chunk_blocks)

        # Forward once more: h before each block goes to the scratch
        h = load_row(states_ptr + (sequence.to(tl.int64) * num_chunks + chunk) * D + d, mask, MASKED=True)
        for i in range(count):
            tl.store(scratch + i * BLOCK_D, h)
            row = (first + i) * ROWS
            xs = load_steps(x_base + row * INPUTS, T - row, ROWS=ROWS, COUNT=INPUTS)
            for j in tl.static_range(ROWS):
                e = encode(xs, weights, bias, J=j, INPUTS=INPUTS)
                h += dt * act(pre_activation(e, rate, turn, h, PAIRED=PAIRED), NONLINEARITY=ACT_IN)
        tl.debug_barrier()

        for back in range(count):
            i = count - 1 - back
            row = (first + i) * ROWS
            rest = T - row
            # Load
            xs = load_steps(x_base + row * INPUTS, rest, ROWS=ROWS, COUNT=INPUTS)
            gs = load_steps(g_base + row * OUTPUTS, rest, ROWS=ROWS, COUNT=OUTPUTS)
            h = tl.load(scratch + i * BLOCK_D)
            # Compute: states and slopes, and from the last step to the first the adjoint and sums; store dx
            hs, slopes = recompute(
                xs, h, weights, bias, rate, turn, dt, rest, ACT_IN=ACT_IN, INPUTS=INPUTS, PAIRED=PAIRED, ROWS=ROWS
            )
            for j in tl.static_range(ROWS - 1, -1, -1):
                value = act(hs[j + 1], NONLINEARITY=ACT_OUT)
                pull = zero
                sums = ()
                for q in tl.static_range(OUTPUTS):
                    pull += readouts[q] * gs[j * OUTPUTS + q]
                    sums = sums + (grad_readouts[q] + value * gs[j * OUTPUTS + q],)
                grad_readouts = sums
                adjoint = mu + act_derivative(hs[j + 1], value, pull, NONLINEARITY=ACT_OUT)
                dz = slopes[j] * adjoint
                mu = pre_activation(adjoint, rate, 0.0 - turn, dz, PAIRED=PAIRED)
                grad_rate -= dz * hs[j]
                if PAIRED:
                    grad_turn += dz * swap(hs[j])
                grad_bias += dz
                sums = ()
                for k in tl.static_range(INPUTS):
                    sums = sums + (grad_weights[k] + dz * xs[j * INPUTS + k],)
                    if WITH_GRAD_X:
                        tl.store(dx_base + row * INPUTS + (j * INPUTS + k), tl.sum(weights[k] * dz, 0), mask=j < rest)
                grad_weights = sums
        tl.debug_barrier()

    # Store: sums over time
    store_row(grad_row, grad_rate, mask, MASKED=True)
    store_row(grad_row + D, grad_bias, mask, MASKED=True)
    for k in tl.static_range(INPUTS):
        store_row(grad_row + (2 + k) * D, grad_weights[k], mask, MASKED=True)
    for q in tl.static_range(OUTPUTS):
        store_row(grad_row + (2 + INPUTS + q) * D, grad_readouts[q], mask, MASKED=True)
    if PAIRED:
        store_row(grad_row + (2 + INPUTS + OUTPUTS) * D, grad_turn, mask, MASKED=True)


def forward(
    x: Any, weight: Any, bias: Any, rate: Any, readout: Any, *,
    dt: float, act_in: str, act_out: str, chunk: int, keep: bool, turn: Any = None, lanes: int = 32,
) -> tuple[Any, Any]:  # fmt: skip
    """`(y, states)` with B, T >= 1, all in the state's dtype: y (B, T, p), states (B, chunks or 0, D).

    `turn` (D,) is given of pairs, and `lanes`, how many threads a warp has.
    """
    (batch, length, inputs), (outputs, width) = x.shape, readout.shape
    block = units(width, inputs + outputs, x.element_size(), pair_lanes=0 if turn is None else lanes)
    rows = readout_forward_rows(inputs)
    y = x.new_empty(block.num_blocks, batch, length, outputs)
    states = x.new_empty(batch, triton.cdiv(length, chunk) if keep else 0, width)
    launch(rnn_readout_forward_kernel, (block.num_blocks * batch,))(
        x, weight.T.contiguous(), bias, rate, turn, readout, y, states if keep else None,
        batch, length, width, block.num_blocks, states.shape[1], chunk // rows, dt,
        ACT_IN=act_in, ACT_OUT=act_out, INPUTS=inputs, OUTPUTS=outputs, KEEP=keep, PAIRED=turn is not None,
        STATE=state_type(x), BLOCK_D=block.block_d, ROWS=rows, num_warps=NUM_WARPS,
    )  # fmt: skip
    return y.sum(0), states


def backward(
    grad_y: Any, x: Any, weight: Any, bias: Any, rate: Any, readout: Any, states: Any, *,
    dt: float, act_in: str, act_out: str, chunk: int, with_grad_x: bool, turn: Any = None, lanes: int = 32,
) -> tuple[Any, Any, Any, Any, Any, Any]:  # fmt: skip
    """Gradients by x (None unless asked for), weight, bias, rate, readout and turn (None unless given), like them in
    the state's dtype.
    """
    (batch, length, inputs), (outputs, width) = x.shape, readout.shape
    paired = turn is not None
    block = units(width, inputs + outputs, x.element_size(), pair_lanes=lanes if paired else 0)
    rows = readout_backward_rows(inputs + outputs, x.element_size(), paired=paired)
    programs = block.num_blocks * batch
    scratch = x.new_empty(programs, chunk // rows, block.block_d)
    grad_x = x.new_empty(block.num_blocks, batch, length, inputs) if with_grad_x else None
    grads = x.new_empty(batch, 2 + inputs + outputs + paired, width)
    launch(rnn_readout_backward_kernel, (programs,))(
        grad_y, x, weight.T.contiguous(), bias, rate, turn, readout, states, scratch, grad_x, grads,
        batch, length, width, block.num_blocks, states.shape[1], chunk // rows, dt,
        ACT_IN=act_in, ACT_OUT=act_out, INPUTS=inputs, OUTPUTS=outputs, WITH_GRAD_X=with_grad_x, PAIRED=paired,
        STATE=state_type(x), BLOCK_D=block.block_d, ROWS=rows, num_warps=NUM_WARPS,
    )  # fmt: skip
    by_rate, by_bias, by_weight, by_readout, by_turn = grads.sum(0).split((1, 1, inputs, outputs, int(paired)))
    grad_turn = by_turn[0].clone() if paired else None
    grad_input = None if grad_x is None else grad_x.sum(0)
    return grad_input, by_weight.T.contiguous(), by_bias[0].clone(), by_rate[0].clone(), by_readout.clone(), grad_turn

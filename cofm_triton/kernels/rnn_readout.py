"""Read-out of a diagonal recurrence, encoder included: forward and backward Triton kernels that never store a state.

    h[t] = h[t-1] + dt * act_in(z[t]),   z[t] = U x[t] + b - a h[t-1],   y[t] = c^T act_out(h[t])

Indices: b sequence, t time, d unit, j input, q output; x is (B, T, INPUTS), y (B, T, OUTPUTS), U (D, INPUTS),
c (OUTPUTS, D), a and b (D,), all in STATE (float32 or float64). A program owns BLOCK_D units of one sequence with all
their coefficients in registers; x[t] is a scalar to it, y[t] a sum over its lanes. Programs of the same sequence write
partial sums of y, which the host adds up. Units beyond D have zero coefficients and stay at zero.

Forward keeps h at the start of every chunk of CHUNK_BLOCKS blocks of ROWS steps. Backward takes the chunks from the
last to the first: it runs one forward again, keeping h at the start of every block in a scratch of its own, and then
the blocks backward, each recomputed in registers. With g = dL/dy and mu the adjoint arriving from later steps:

    lambda[t] = mu[t] + act_out'(h[t]) c g[t],   dz[t] = dt act_in'(z[t]) lambda[t],   mu[t-1] = lambda[t] - a dz[t]
    da -= dz[t] h[t-1],   db += dz[t],   dU += dz[t] x[t],   dc += g[t] act_out(h[t]),   dx[t] = U^T dz[t]

Gradients of coefficients are summed over time in registers and leave as one row per sequence: no atomics.

Traffic in numbers per step and sequence: forward reads INPUTS and writes OUTPUTS, times D / BLOCK_D; backward reads
both twice; a state per chunk on top. Source: arXiv 2305.19190, Eq. (1) and its adjoint; `reference/model.py`.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from cofm_triton.kernels.launch import NUM_WARPS, units
from cofm_triton.kernels.nonlinearity import act, act_derivative
from cofm_triton.kernels.rows import load_row, store_row

# Scalars of x in flight, and steps that backward holds in registers with their state and slope.
SCALARS = 16
BACKWARD_ROWS = 4
FEW_FEATURES = 8


@triton.jit
def _coefficients(ptr, stride, d, mask, COUNT: tl.constexpr):
    """COUNT vectors over the units d, `stride` apart."""
    vectors = ()
    for k in tl.static_range(COUNT):
        vectors = vectors + (load_row(ptr + k * stride + d, mask, True),)
    return vectors


@triton.jit
def _load_steps(ptr, rest, ROWS: tl.constexpr, COUNT: tl.constexpr):
    """ROWS steps of COUNT scalars, all in flight together; steps from `rest` on are zero."""
    scalars = ()
    for j in tl.static_range(ROWS):
        for k in tl.static_range(COUNT):
            scalars = scalars + (tl.load(ptr + (j * COUNT + k), mask=j < rest, other=0.0),)
    return scalars


@triton.jit
def _encode(xs, weights, bias, J: tl.constexpr, INPUTS: tl.constexpr):
    """U x + b of step J."""
    e = bias
    for k in tl.static_range(INPUTS):
        e += weights[k] * xs[J * INPUTS + k]
    return e


@triton.jit
def rnn_readout_forward_kernel(
    x_ptr, weight_ptr, bias_ptr, rate_ptr, readout_ptr, y_ptr, states_ptr,
    B: tl.int64, T: tl.int64, D: tl.int64, num_blocks, num_chunks, dt: tl.float64,
    ACT_IN: tl.constexpr, ACT_OUT: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, KEEP: tl.constexpr,
    STATE: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, CHUNK_BLOCKS: tl.int64,
):  # fmt: skip
    """Writes y (num_blocks, B, T, OUTPUTS), partial sums, and states (B, num_chunks, D) if KEEP."""
    pid = tl.program_id(0)
    sequence = pid // num_blocks
    block = pid % num_blocks
    d = block.to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = d < D
    x_row = x_ptr + sequence.to(tl.int64) * T * INPUTS
    y_row = y_ptr + (block.to(tl.int64) * B + sequence.to(tl.int64)) * T * OUTPUTS
    state_row = states_ptr + sequence.to(tl.int64) * num_chunks * D + d
    dt = tl.full((), dt, STATE)

    # The encoder is transposed: coefficients of neighbouring units lie next to each other.
    weights = _coefficients(weight_ptr, D, d, mask, INPUTS)
    readouts = _coefficients(readout_ptr, D, d, mask, OUTPUTS)
    bias = load_row(bias_ptr + d, mask, True)
    rate = load_row(rate_ptr + d, mask, True)
    h = tl.zeros((BLOCK_D,), STATE)

    for i in range(tl.cdiv(T, ROWS)):
        rest = T - i * ROWS
        if KEEP:
            if i % CHUNK_BLOCKS == 0:
                store_row(state_row, h, mask, True)
                state_row += D
        xs = _load_steps(x_row, rest, ROWS, INPUTS)
        for j in tl.static_range(ROWS):
            h += dt * act(_encode(xs, weights, bias, j, INPUTS) - rate * h, ACT_IN)
            value = act(h, ACT_OUT)
            for q in tl.static_range(OUTPUTS):
                tl.store(y_row + (j * OUTPUTS + q), tl.sum(readouts[q] * value, 0), mask=j < rest)
        x_row += ROWS * INPUTS
        y_row += ROWS * OUTPUTS


@triton.jit
def rnn_readout_backward_kernel(
    grad_y_ptr, x_ptr, weight_ptr, bias_ptr, rate_ptr, readout_ptr, states_ptr, scratch_ptr,
    grad_x_ptr, grad_ptr,
    B: tl.int64, T: tl.int64, D: tl.int64, num_blocks, num_chunks, dt: tl.float64,
    ACT_IN: tl.constexpr, ACT_OUT: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
    WITH_GRAD_X: tl.constexpr, STATE: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr,
    CHUNK_BLOCKS: tl.int64,
):  # fmt: skip
    """Writes grad (B, 2 + INPUTS + OUTPUTS, D), by rate, bias, encoder and read-out in this order, per sequence, and
    grad_x (num_blocks, B, T, INPUTS), partial sums, if WITH_GRAD_X. scratch is (programs, CHUNK_BLOCKS, BLOCK_D).
    """
    pid = tl.program_id(0)
    sequence = pid // num_blocks
    block = pid % num_blocks
    d = block.to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = d < D
    x_base = x_ptr + sequence.to(tl.int64) * T * INPUTS
    g_base = grad_y_ptr + sequence.to(tl.int64) * T * OUTPUTS
    dx_base = grad_x_ptr + (block.to(tl.int64) * B + sequence.to(tl.int64)) * T * INPUTS
    scratch = scratch_ptr + pid.to(tl.int64) * CHUNK_BLOCKS * BLOCK_D + tl.arange(0, BLOCK_D)
    grad_row = grad_ptr + sequence.to(tl.int64) * (2 + INPUTS + OUTPUTS) * D + d
    dt = tl.full((), dt, STATE)

    weights = _coefficients(weight_ptr, D, d, mask, INPUTS)
    readouts = _coefficients(readout_ptr, D, d, mask, OUTPUTS)
    bias = load_row(bias_ptr + d, mask, True)
    rate = load_row(rate_ptr + d, mask, True)
    zero = tl.zeros((BLOCK_D,), STATE)
    mu = zero
    grad_rate = zero
    grad_bias = zero
    grad_weights = ()
    for _k in tl.static_range(INPUTS):
        grad_weights = grad_weights + (zero,)
    grad_readouts = ()
    for _q in tl.static_range(OUTPUTS):
        grad_readouts = grad_readouts + (zero,)

    for later in range(num_chunks):
        chunk = (num_chunks - 1 - later).to(tl.int64)
        first = chunk * CHUNK_BLOCKS
        count = tl.minimum(tl.cdiv(T, ROWS) - first, CHUNK_BLOCKS)
        h = load_row(states_ptr + (sequence.to(tl.int64) * num_chunks + chunk) * D + d, mask, True)
        for i in range(count):
            tl.store(scratch + i * BLOCK_D, h)
            row = (first + i) * ROWS
            xs = _load_steps(x_base + row * INPUTS, T - row, ROWS, INPUTS)
            for j in tl.static_range(ROWS):
                h += dt * act(_encode(xs, weights, bias, j, INPUTS) - rate * h, ACT_IN)
        tl.debug_barrier()
        for back in range(count):
            i = count - 1 - back
            row = (first + i) * ROWS
            rest = T - row
            xs = _load_steps(x_base + row * INPUTS, rest, ROWS, INPUTS)
            gs = _load_steps(g_base + row * OUTPUTS, rest, ROWS, OUTPUTS)
            h = tl.load(scratch + i * BLOCK_D)
            hs = (h,)
            slopes = ()
            for j in tl.static_range(ROWS):
                z = _encode(xs, weights, bias, j, INPUTS) - rate * h
                u = act(z, ACT_IN)
                slopes = slopes + (act_derivative(z, u, dt, ACT_IN),)
                # Steps beyond T pull at nothing, and must not overflow either.
                h = tl.where(rest > j, h + dt * u, h)
                hs = hs + (h,)
            for j in tl.static_range(ROWS - 1, -1, -1):
                value = act(hs[j + 1], ACT_OUT)
                pull = zero
                sums = ()
                for q in tl.static_range(OUTPUTS):
                    pull += readouts[q] * gs[j * OUTPUTS + q]
                    sums = sums + (grad_readouts[q] + value * gs[j * OUTPUTS + q],)
                grad_readouts = sums
                adjoint = mu + act_derivative(hs[j + 1], value, pull, ACT_OUT)
                dz = slopes[j] * adjoint
                mu = adjoint - rate * dz
                grad_rate -= dz * hs[j]
                grad_bias += dz
                sums = ()
                for k in tl.static_range(INPUTS):
                    sums = sums + (grad_weights[k] + dz * xs[j * INPUTS + k],)
                    if WITH_GRAD_X:
                        tl.store(dx_base + row * INPUTS + (j * INPUTS + k), tl.sum(weights[k] * dz, 0), mask=j < rest)
                grad_weights = sums
        tl.debug_barrier()

    store_row(grad_row, grad_rate, mask, True)
    store_row(grad_row + D, grad_bias, mask, True)
    for k in tl.static_range(INPUTS):
        store_row(grad_row + (2 + k) * D, grad_weights[k], mask, True)
    for q in tl.static_range(OUTPUTS):
        store_row(grad_row + (2 + INPUTS + q) * D, grad_readouts[q], mask, True)


def forward(
    x: Any, weight: Any, bias: Any, rate: Any, readout: Any, *,
    dt: float, act_in: str, act_out: str, chunk: int, keep: bool,
) -> tuple[Any, Any]:  # fmt: skip
    """`(y, states)` with B, T >= 1, all in the state's dtype: y (B, T, p), states (B, chunks or 0, D)."""
    (batch, length, inputs), (outputs, width) = x.shape, readout.shape
    block = units(width, inputs + outputs, x.element_size())
    states = x.new_empty(batch, triton.cdiv(length, chunk) if keep else 0, width)
    rows = max(2, SCALARS // triton.next_power_of_2(inputs))
    y = x.new_empty(block.num_blocks, batch, length, outputs)
    rnn_readout_forward_kernel[(block.num_blocks * batch,)](
        x, weight.T.contiguous(), bias, rate, readout, y, states,
        batch, length, width, block.num_blocks, states.shape[1], dt,
        ACT_IN=act_in, ACT_OUT=act_out, INPUTS=inputs, OUTPUTS=outputs, KEEP=keep,
        STATE=_state(x), BLOCK_D=block.block_d, ROWS=rows, CHUNK_BLOCKS=chunk // rows,
        num_warps=NUM_WARPS,
    )  # fmt: skip
    return y.sum(0), states


def backward(
    grad_y: Any, x: Any, weight: Any, bias: Any, rate: Any, readout: Any, states: Any, *,
    dt: float, act_in: str, act_out: str, chunk: int, with_grad_x: bool,
) -> tuple[Any, Any, Any, Any, Any]:  # fmt: skip
    """Gradients by x (None unless asked for), weight, bias, rate and readout, like them in the state's dtype."""
    (batch, length, inputs), (outputs, width) = x.shape, readout.shape
    block = units(width, inputs + outputs, x.element_size())
    programs = block.num_blocks * batch
    rows = _backward_rows(inputs + outputs, x.element_size())
    scratch = x.new_empty(programs, chunk // rows, block.block_d)
    grad_x = x.new_empty(block.num_blocks, batch, length if with_grad_x else 0, inputs)
    grads = x.new_empty(batch, 2 + inputs + outputs, width)
    rnn_readout_backward_kernel[(programs,)](
        grad_y, x, weight.T.contiguous(), bias, rate, readout, states, scratch, grad_x, grads,
        batch, length, width, block.num_blocks, states.shape[1], dt,
        ACT_IN=act_in, ACT_OUT=act_out, INPUTS=inputs, OUTPUTS=outputs, WITH_GRAD_X=with_grad_x,
        STATE=_state(x), BLOCK_D=block.block_d, ROWS=rows, CHUNK_BLOCKS=chunk // rows,
        num_warps=NUM_WARPS,
    )  # fmt: skip
    by_rate, by_bias, by_weight, by_readout = grads.sum(0).split((1, 1, inputs, outputs))
    grad_input = grad_x.sum(0) if with_grad_x else None
    return grad_input, by_weight.T.contiguous(), by_bias[0].clone(), by_rate[0].clone(), by_readout.clone()


def _backward_rows(features: int, element_size: int) -> int:
    """Steps in flight of a backward launch: their inputs and gradients are scalars, of which few fit beside tanh's."""
    if element_size > 4:
        return 1
    return BACKWARD_ROWS if features <= FEW_FEATURES else BACKWARD_ROWS // 2


def _state(x: Any) -> Any:
    """Triton's name for the dtype of the states."""
    return tl.float64 if x.element_size() == 8 else tl.float32

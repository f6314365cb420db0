"""Errors of K dense one-layer models on the same sequences: Triton kernel (arXiv 2305.19190, Definition 3.4).

    h[t] = h[t-1] + dt act(U x[t] + b - A h[t-1]),  h[-1] = 0,  y[t] = c^T h[t] + d
    E = sum over sequences n, steps t and outputs q of  w[t] (y - target)^2,  or  max |y - target|

Indices: k model, n sequence, t time, i unit, e input, q output; x is (N, T, d), targets (N, T, p). States are in STATE:
float32, for float64 input float64. Errors are float64.

A program owns one model, whose matrix stays in registers (`launch.dense`), and walks SEQUENCES sequences, PAIR at a
time, from their first step to their last. A product of the matrix with a state is fused multiply-adds and one sum over
threads; the chains of PAIR sequences hide each other's latency. States never leave the registers. Time is cut into
blocks of ROWS steps, whose inputs are loaded together. A program leaves one number; the launcher adds them up in a
fixed order.

Masked: units beyond m have coefficients 0 and stay at 0; steps beyond T and sequences beyond N are computed from x = 0
and left out of the error.

Traffic in elements: x and targets once per model, from cache; m^2 per program for the matrix.
Source: arXiv 2305.19190, the sweep of Definition 3.4; defined in `reference/perturbation.py`.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from cofm_triton.kernels.launch import DENSE_SWEEP, dense, state_type
from cofm_triton.kernels.launches import launch
from cofm_triton.kernels.nonlinearity import act
from cofm_triton.kernels.perturbation import add_error


@triton.jit
def dense_sweep_errors_kernel(
    x_ptr,  # (N, T, INPUTS), contiguous
    target_ptr,  # (N, T, OUTPUTS), contiguous
    weight_ptr,  # (T,), float64, read unless SUP
    matrix_ptr,  # (K, BLOCK, BLOCK), A^T, zero beyond the units
    unit_ptr,  # (K, 1 + INPUTS + OUTPUTS, BLOCK): b, U and c, zero beyond the units
    offset_ptr,  # (K, OUTPUTS), d
    error_ptr,  # out: (K, num_sequence_blocks), float64
    N: tl.int64, T: tl.int64, num_sequence_blocks, dt: tl.float64,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, ACT: tl.constexpr, SUP: tl.constexpr, STATE: tl.constexpr,
    BLOCK: tl.constexpr, PAIR: tl.constexpr, ROWS: tl.constexpr, SEQUENCES: tl.constexpr,
):  # fmt: skip
    """The error of one model on the sequences of one program."""
    pid = tl.program_id(0)
    block_n = (pid % num_sequence_blocks).to(tl.int64)
    k = (pid // num_sequence_blocks).to(tl.int64)
    i = tl.arange(0, BLOCK)

    # Load: the model
    matrix = tl.load(matrix_ptr + (k * BLOCK + i[:, None]) * BLOCK + i[None, :])
    unit = unit_ptr + k * (1 + INPUTS + OUTPUTS) * BLOCK + i
    bias = tl.load(unit)
    encoder = ()
    for e in tl.static_range(INPUTS):
        encoder = encoder + (tl.load(unit + (1 + e) * BLOCK),)
    readout = ()
    for q in tl.static_range(OUTPUTS):
        readout = readout + (tl.load(unit + (1 + INPUTS + q) * BLOCK),)
    dt = tl.full((), dt, STATE)
    error = tl.zeros((), tl.float64)

    first = block_n * SEQUENCES
    for turn in range(tl.cdiv(tl.minimum(N - first, SEQUENCES), PAIR)):
        hs = ()
        for _ in tl.static_range(PAIR):
            hs = hs + (tl.zeros((BLOCK,), STATE),)
        for t in range(0, T, ROWS):
            # Load: x of ROWS steps of PAIR sequences
            xs = ()
            for s in tl.static_range(PAIR):
                n = first + turn * PAIR + s
                for j in tl.static_range(ROWS):
                    for e in tl.static_range(INPUTS):
                        there = (n < N) & (t + j < T)
                        xs = xs + (tl.load(x_ptr + (n * T + t + j) * INPUTS + e, mask=there, other=0.0),)
            # Compute: states and outputs, and their gaps to the targets
            for j in tl.static_range(ROWS):
                after = ()
                for s in tl.static_range(PAIR):
                    n = first + turn * PAIR + s
                    there = (n < N) & (t + j < T)
                    z = bias - tl.sum(matrix * hs[s][:, None], 0)
                    for e in tl.static_range(INPUTS):
                        z += encoder[e] * xs[(s * ROWS + j) * INPUTS + e]
                    h = hs[s] + dt * act(z, NONLINEARITY=ACT)
                    for q in tl.static_range(OUTPUTS):
                        target = tl.load(target_ptr + (n * T + t + j) * OUTPUTS + q, mask=there, other=0.0)
                        y = tl.sum(readout[q] * h, 0) + tl.load(offset_ptr + k * OUTPUTS + q)
                        weight = 0.0
                        if not SUP:
                            weight = tl.load(weight_ptr + t + j, mask=there, other=0.0)
                        error = add_error(error, y, target, weight, there, SUP=SUP)
                    after = after + (h,)
                hs = after

    # Store
    tl.store(error_ptr + k * num_sequence_blocks + block_n, error)


def sweep_errors(cells: Any, inputs: Any, targets: Any, weights: Any) -> Any:
    """Errors of K models whose a is a matrix; arguments and result of `perturbation.sweep_errors`.

    None if the registers of a program cannot hold a model's matrix.
    """
    count, steps, channels = inputs.shape
    shape = dense(cells.rate.shape[1], inputs.element_size())
    if shape is None or shape.BLOCKS > 1:
        return None
    blocks = triton.cdiv(count, DENSE_SWEEP.SEQUENCES)
    partial = inputs.new_empty((cells.count, blocks), dtype=cells.rate.dtype)
    matrix, units = _coefficients(cells, inputs, shape.BLOCK)
    launch(dense_sweep_errors_kernel, (cells.count * blocks,))(
        inputs.contiguous(), targets.contiguous(), weights, matrix, units, cells.offset.to(inputs.dtype).contiguous(),
        partial, count, steps, blocks, cells.dt,
        INPUTS=channels, OUTPUTS=targets.shape[2], ACT=cells.act_in, SUP=weights is None,
        STATE=state_type(inputs), BLOCK=shape.BLOCK, num_warps=shape.num_warps,
        **DENSE_SWEEP._asdict(),
    )  # fmt: skip
    return partial.amax(1) if weights is None else partial.sum(1)


def _coefficients(cells: Any, like: Any, block: int) -> tuple[Any, Any]:
    """The matrix A^T and the other coefficients in the states' dtype, filled up with zeros."""
    size, inputs, outputs = cells.rate.shape[1], cells.encoder.shape[2], cells.readout.shape[1]
    matrix = like.new_zeros((cells.count, block, block))
    matrix[:, :size, :size] = cells.rate.mT
    units = like.new_zeros((cells.count, 1 + inputs + outputs, block))
    units[:, 0, :size] = cells.bias
    units[:, 1 : 1 + inputs, :size] = cells.encoder.mT
    units[:, 1 + inputs :, :size] = cells.readout
    return matrix, units

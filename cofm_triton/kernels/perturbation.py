"""Errors of K one-layer models on the same sequences: Triton kernel (arXiv 2305.19190, Definition 3.4).

    h[t] = h[t-1] + dt act_in(U x[t] + b - a h[t-1]),  h[-1] = 0,  y[t] = c^T act_out(h[t]) + d
    E = sum over sequences n, steps t and outputs q of  w[t] (y - target)^2,  or  max |y - target|

Indices: k model, n sequence, t time, i unit, e input, q output; x is (N, T, d), targets (N, T, p). States are in STATE:
float32, for float64 input float64. Errors are float64.

A program owns BLOCK_K models and walks ROUNDS times PER_THREAD blocks of BLOCK_N sequences from their first step to
their last. Lanes are models, so one number of x serves BLOCK_K of them; warps are sequences. The states of all units
stay in registers, in GROUPS groups of GROUP. Time is cut into blocks of ROWS steps. Within a block the groups take
turns: a coefficient is loaded once for ROWS steps, and y is summed in registers. A program leaves one number per model;
the launcher adds them up in a fixed order: no atomics.

Masked: units beyond m have coefficients 0 and stay at 0; steps beyond T and sequences beyond N are computed from x = 0
and left out of the error.

Traffic in elements: x and targets once per BLOCK_K models; from cache, (2 + d + p) / (ROWS * PER_THREAD) coefficients
per unit and step.
Source: arXiv 2305.19190, the sweep of Definition 3.4; defined in `reference/perturbation.py`.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from cofm_triton.kernels.launch import Sweep, state_type, sweep
from cofm_triton.kernels.launches import launch
from cofm_triton.kernels.nonlinearity import act
from cofm_triton.kernels.rows import live_row
from cofm_triton.step.activations import properties


@triton.jit
def load_shared(ptr, mask, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """The number of each sequence, `ptr` (BLOCK_N, 1), in every lane: (BLOCK_N, BLOCK_K).

    Loaded in that shape: a column of BLOCK_N numbers would have to pass through shared memory to reach the lanes.
    """
    shape: tl.constexpr = (BLOCK_N, BLOCK_K)
    return tl.load(tl.broadcast_to(ptr, shape), mask=tl.broadcast_to(mask, shape), other=0.0)


@triton.jit
def load_units(ptr, GROUP: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """One coefficient of a group of units, `ptr` (GROUP, 1, BLOCK_K), for every sequence: (GROUP, BLOCK_N, BLOCK_K)."""
    return tl.load(tl.broadcast_to(ptr, (GROUP, BLOCK_N, BLOCK_K)))


@triton.jit
def states_at_rest(
    COUNT: tl.constexpr, GROUP: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STATE: tl.constexpr
):
    """COUNT groups of states that are zero."""
    states = ()
    for _ in tl.static_range(COUNT):
        states = states + (tl.zeros((GROUP, BLOCK_N, BLOCK_K), STATE),)
    return states


@triton.jit
def load_group(
    row, PLANE: tl.constexpr, GROUP: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """`(a, b, encoder, readout)` of a group of units; a plane is one coefficient of the group, for BLOCK_K models."""
    a = load_units(row, GROUP=GROUP, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K)
    b = load_units(row + PLANE, GROUP=GROUP, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K)
    encoder = ()
    for e in tl.static_range(INPUTS):
        encoder = encoder + (load_units(row + (2 + e) * PLANE, GROUP=GROUP, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K),)
    readout = ()
    for q in tl.static_range(OUTPUTS):
        readout = readout + (load_units(row + (2 + INPUTS + q) * PLANE, GROUP=GROUP, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K),)
    return a, b, encoder, readout


@triton.jit
def larger(a, b):
    """max(a, b), NaN if either is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def add_error(error, y, target, weight, there, SUP: tl.constexpr):
    """The error after one more output; SUP, the largest |y - target|, otherwise the weighted sum of squares."""
    gap = (y - target).to(tl.float64)
    if SUP:
        error = tl.where(there, larger(error, tl.abs(gap)), error)
    else:
        error = tl.where(there, error + weight * gap * gap, error)
    return error


@triton.jit
def sweep_errors_kernel(
    x_ptr,  # (N, T, INPUTS), contiguous
    target_ptr,  # (N, T, OUTPUTS), contiguous
    weight_ptr,  # (T,), float64, read unless SUP
    unit_ptr,  # (K / BLOCK_K, GROUPS, 2 + INPUTS + OUTPUTS, BLOCK_K, GROUP): a, b, U and c, zero beyond the units
    offset_ptr,  # (OUTPUTS, K), d
    error_ptr,  # out: (num_sequence_blocks, K), float64
    N: tl.int64, T: tl.int64, K: tl.int64, num_sequence_blocks,
    stride_ut: tl.int64, dt: tl.float64,
    GROUPS: tl.constexpr, GROUP: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
    ACT_IN: tl.constexpr, ACT_OUT: tl.constexpr, SUP: tl.constexpr, STATE: tl.constexpr, RESIDENT: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PER_THREAD: tl.constexpr, ROWS: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """Errors of BLOCK_K models on the sequences of one program; K is a multiple of BLOCK_K.

    Coefficients do not change in time. RESIDENT, the compiler loads them before the loop over time and keeps them in
    registers. Otherwise they would not fit: their stride in time, stride_ut, is 0, but the compiler cannot know that.
    """
    COEFFICIENTS: tl.constexpr = 2 + INPUTS + OUTPUTS
    PLANE: tl.constexpr = GROUP * BLOCK_K
    pid = tl.program_id(0)
    block_n = (pid % num_sequence_blocks).to(tl.int64)
    block_k = (pid // num_sequence_blocks).to(tl.int64)
    lane = tl.arange(0, BLOCK_K)
    k = block_k * BLOCK_K + lane[None, :]
    plane = tl.arange(0, GROUP)[:, None, None] + lane[None, None, :] * GROUP
    dt = tl.full((), dt, STATE)
    error = tl.zeros((BLOCK_N, BLOCK_K), tl.float64)

    blocks_left = tl.cdiv(N, BLOCK_N * PER_THREAD) - block_n * ROUNDS
    for turn in range(tl.minimum(blocks_left, ROUNDS)):
        unit = unit_ptr + block_k * (GROUPS * COEFFICIENTS * PLANE) + plane
        hs = states_at_rest(COUNT=GROUPS * PER_THREAD, GROUP=GROUP, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K, STATE=STATE)
        for t in range(0, T, ROWS):
            rest = T - t
            # Load: x of ROWS steps, s sequences a thread, and the offsets that y starts from
            xs = ()
            ys = ()
            for s in tl.static_range(PER_THREAD):
                n = ((block_n * ROUNDS + turn) * PER_THREAD + s) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
                for j in tl.static_range(ROWS):
                    there = live_row(n, N, j, rest)
                    for e in tl.static_range(INPUTS):
                        x_place = x_ptr + (n * T + t + j) * INPUTS + e
                        xs = xs + (load_shared(x_place, there, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K),)
                    for q in tl.static_range(OUTPUTS):
                        ys = ys + (tl.broadcast_to(tl.load(offset_ptr + q * K + k), (BLOCK_N, BLOCK_K)),)

            # Compute: states and outputs, group by group
            after = ()
            for g in tl.static_range(GROUPS):
                a, b, encoder, readout = load_group(
                    unit + g * (COEFFICIENTS * PLANE),
                    PLANE=PLANE, GROUP=GROUP, INPUTS=INPUTS, OUTPUTS=OUTPUTS, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K,
                )  # fmt: skip
                sums = ()
                for s in tl.static_range(PER_THREAD):
                    h = hs[g * PER_THREAD + s]
                    for j in tl.static_range(ROWS):
                        z = b - a * h
                        for e in tl.static_range(INPUTS):
                            z += encoder[e] * xs[(s * ROWS + j) * INPUTS + e][None, :, :]
                        h += dt * act(z, NONLINEARITY=ACT_IN)
                        u = act(h, NONLINEARITY=ACT_OUT)
                        for q in tl.static_range(OUTPUTS):
                            sums = sums + (ys[(s * ROWS + j) * OUTPUTS + q] + tl.sum(readout[q] * u, 0),)
                    after = after + (h,)
                ys = sums
            hs = after
            if not RESIDENT:
                unit += stride_ut

            # Compare with the targets
            for s in tl.static_range(PER_THREAD):
                n = ((block_n * ROUNDS + turn) * PER_THREAD + s) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
                for j in tl.static_range(ROWS):
                    there = live_row(n, N, j, rest)
                    weight = 0.0
                    if not SUP:
                        weight = tl.load(weight_ptr + t + j, mask=rest > j, other=0.0)
                    for q in tl.static_range(OUTPUTS):
                        target_place = target_ptr + (n * T + t + j) * OUTPUTS + q
                        target = load_shared(target_place, there, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K)
                        error = add_error(error, ys[(s * ROWS + j) * OUTPUTS + q], target, weight, there, SUP=SUP)

    if SUP:
        total = tl.reduce(error, 0, larger)
    else:
        total = tl.sum(error, 0)
    tl.store(error_ptr + block_n * K + block_k * BLOCK_K + lane, total)


def sweep_errors(cells: Any, inputs: Any, targets: Any, weights: Any) -> Any:
    """Errors of K models on the same data; see the module's equation.

    Args:
        cells: K models of one shape (`cofm_triton.step.stacked_cells.StackedCells`).
        inputs: (N, T, d), float32 or float64: the type of the states too.
        targets: (N, T, p), the same type.
        weights: (T,) float64, w[t]; None for the largest |y - target|.

    Returns:
        (K,) float64; not finite where a state overflowed. None if the states of a model are too many for a thread's
        registers.
    """
    count, steps, channels = inputs.shape
    cost = max(properties(name).cost for name in (cells.act_in, cells.act_out))
    shape = sweep(cells.rate.shape[1], channels, targets.shape[2], inputs.element_size(), cost)
    if shape is None:
        return None
    units, offset = _coefficients(cells, inputs, shape)
    sequence_blocks = triton.cdiv(count, shape.BLOCK_N * shape.PER_THREAD * shape.ROUNDS)
    partial = inputs.new_empty((sequence_blocks, offset.shape[1]), dtype=cells.rate.dtype)
    launch(sweep_errors_kernel, (sequence_blocks * len(units),))(
        inputs.contiguous(), targets.contiguous(), weights, units, offset, partial,
        count, steps, offset.shape[1], sequence_blocks, 0, cells.dt,
        INPUTS=channels, OUTPUTS=targets.shape[2], ACT_IN=cells.act_in, ACT_OUT=cells.act_out, SUP=weights is None,
        STATE=state_type(inputs), **shape._asdict(),
    )  # fmt: skip
    total = partial.amax(0) if weights is None else partial.sum(0)
    return total[: cells.count]


def _coefficients(cells: Any, like: Any, shape: Sweep) -> tuple[Any, Any]:
    """Units and offset in the kernel's layout and the states' dtype, K and m rounded up with zeros."""
    blocks = triton.cdiv(cells.count, shape.BLOCK_K)
    inputs, outputs = cells.encoder.shape[2], cells.readout.shape[1]
    units = like.new_zeros((blocks * shape.BLOCK_K, shape.GROUPS * shape.GROUP, 2 + inputs + outputs))
    some = units[: cells.count, : cells.rate.shape[1]]
    some[:, :, 0] = cells.rate
    some[:, :, 1] = cells.bias
    some[:, :, 2 : 2 + inputs] = cells.encoder
    some[:, :, 2 + inputs :] = cells.readout.mT
    offset = like.new_zeros((outputs, len(units)))
    offset[:, : cells.count] = cells.offset.T
    units = units.unflatten(0, (blocks, shape.BLOCK_K)).unflatten(2, (shape.GROUPS, shape.GROUP))
    return units.permute(0, 2, 4, 1, 3).contiguous(), offset

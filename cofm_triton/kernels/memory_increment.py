"""Increments of K nonlinear one-layer models under Heaviside inputs: Triton kernel (arXiv 2305.19190, Definition 3.1).

    z[0] = e,   v[t] = c^T act(z[t]),   z[t+1] = l z[t] + A (z[t] - act(z[t])),   A = dt * rate, l = 1 - A

Indices: k model, n input, t time, i unit, q output. Nothing cancels: z decays by l where act is linear, and z - act(z)
of tanh near 0 is its series. The state is in the dtype of the drive: float64 where a long memory is to keep its digits.

A program owns one model and BLOCK_N of its inputs, and takes its units BLOCK_I at a time through all of time, in
registers. Outputs are sampled at any ascending steps, so that a record of 10^6 steps costs no traffic of that size.
The program adds the read-outs of later blocks of units to those of earlier ones, in that order.

Masked units have z = 0 and c = 0 and stay there; masked inputs are computed from 0 and not stored.

Traffic in elements: 3 + p per unit and input, once; p per sample and input, and 2 p for every further block of units.
Source: differences of y = c^T h; defined in `reference/memory.py`.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from cofm_triton.kernels.launch import increments
from cofm_triton.kernels.launches import launch
from cofm_triton.kernels.nonlinearity import act, excess


@triton.jit
def sampled_increments_kernel(
    drive_ptr,  # (K, N, M), e
    decay_ptr,  # (K, M), l
    step_ptr,  # (K, M), A
    readout_ptr,  # (K, OUTPUTS, M), c
    sample_ptr,  # (SAMPLES,), int64, ascending steps
    out_ptr,  # out: (K, N, SAMPLES, OUTPUTS); all tensors are contiguous
    N: tl.int64, M: tl.int64, SAMPLES: tl.int64, num_input_blocks,
    OUTPUTS: tl.constexpr, NONLINEARITY: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """Read-outs of one model for BLOCK_N inputs, at every sample."""
    pid = tl.program_id(0)
    k = (pid // num_input_blocks).to(tl.int64)
    n = (pid % num_input_blocks).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    there = n < N
    out_row = out_ptr + (k * N + n) * SAMPLES * OUTPUTS
    for first in range(0, M, BLOCK_I):
        i = first + tl.arange(0, BLOCK_I)
        inside = i < M
        # Load
        z = tl.load(drive_ptr + (k * N + n[:, None]) * M + i[None, :], mask=there[:, None] & inside[None, :], other=0.0)
        decay = tl.load(decay_ptr + k * M + i, mask=inside, other=0.0)[None, :]
        step = tl.load(step_ptr + k * M + i, mask=inside, other=0.0)[None, :]
        now = tl.zeros((), tl.int64)
        for sample in range(SAMPLES):
            # Compute: the steps up to the sample
            then = tl.load(sample_ptr + sample)
            for _ in range(now, then):
                z = decay * z + step * excess(z, act(z, NONLINEARITY=NONLINEARITY), NONLINEARITY=NONLINEARITY)
            now = then
            # Store: its read-outs
            u = act(z, NONLINEARITY=NONLINEARITY)
            for q in tl.static_range(OUTPUTS):
                readout = tl.load(readout_ptr + (k * OUTPUTS + q) * M + i, mask=inside, other=0.0)
                total = tl.sum(readout[None, :] * u, 1)
                place = out_row + sample * OUTPUTS + q
                if first > 0:
                    total += tl.load(place, mask=there, other=0.0)
                tl.store(place, total, mask=there)


def sampled_increments(name: str, drive: Any, decay: Any, step: Any, readout: Any, steps: Any) -> Any:
    """Read-outs c^T act(z[t]) at some steps; see the module's equation.

    Args:
        name: of act.
        drive: e, (K, n, m), float32 or float64: the type of the state too.
        decay: l, (K, m).
        step: A, (K, m).
        readout: c, (K, p, m).
        steps: (S,) int64, ascending, on the device of the drive.

    Returns:
        (K, n, S, p).
    """
    models, count, width = drive.shape
    out = drive.new_empty((models, count, len(steps), readout.shape[1]))
    shape = increments(width)
    blocks = triton.cdiv(count, shape.BLOCK_N)
    launch(sampled_increments_kernel, (models * blocks,))(
        drive.contiguous(), decay.contiguous(), step.contiguous(), readout.contiguous(), steps, out,
        count, width, len(steps), blocks,
        OUTPUTS=readout.shape[1], NONLINEARITY=name, **shape._asdict(),
    )  # fmt: skip
    return out

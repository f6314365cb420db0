"""`cofm.linear_scan` with time-invariant decay, `h[t] = decay * h[t-1] + x[t]`; given: decay (D,), state's dtype."""

from __future__ import annotations

import torch

import cofm_triton as cofm
from cofm_triton.evidence.benchmark.contract import Case, Contestant, Operator, Problem, torch_contestant
from cofm_triton.evidence.benchmark.operators.inputs import decays, randn
from cofm_triton.evidence.benchmark.shapes import FIXED_BATCH, FIXED_BATCH_STUDY, FIXED_SIZE, FIXED_SIZE_STUDY, TARGETS
from cofm_triton.evidence.tolerance import linear_scan_bounds
from cofm_triton.ops.linear_scan import traffic


def make(case: Case, device: torch.device) -> Problem:
    """x, decay and the gradient of h."""
    return Problem(case, randn(case, device, 0), randn(case, device, 1), {"decay": decays(case, device)})


def contestant(problem: Problem, backend: str | None = None) -> Contestant:
    """`cofm.linear_scan` on one of its backends."""
    return torch_contestant(
        lambda x, decay: cofm.linear_scan(x, decay, backend=backend)[0],
        [problem.x, problem.given["decay"]],
        problem.grad,
    )


OPERATOR = Operator(
    name="linear_scan",
    studies={
        FIXED_SIZE_STUDY: (FIXED_SIZE, [torch.float32]),
        FIXED_BATCH_STUDY: (FIXED_BATCH, [torch.float32]),
        "targets": (TARGETS, [torch.float32, torch.bfloat16]),
        "complex": ([(8, 4096, 128)], [torch.complex64]),
    },
    make=make,
    scales=True,
    ours=contestant,
    traffic=lambda case, backward: traffic(*case.shape, case.dtype.itemsize, gated=False, backward=backward),
    bounds=lambda problem: linear_scan_bounds(problem.x, problem.given["decay"], grad_h=problem.grad),
)

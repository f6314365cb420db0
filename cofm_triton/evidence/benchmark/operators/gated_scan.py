"""`cofm.linear_scan` with a decay per step, `h[t] = decay[t] * h[t-1] + x[t]`; given: decay (B, T, D) in x's dtype."""

from __future__ import annotations

import torch

import cofm_triton as cofm
from cofm_triton.evidence.benchmark.contract import Case, Contestant, Operator, Problem, torch_contestant
from cofm_triton.evidence.benchmark.operators.inputs import randn
from cofm_triton.evidence.benchmark.shapes import TARGETS
from cofm_triton.evidence.tolerance import linear_scan_bounds
from cofm_triton.ops.linear_scan import traffic


def make(case: Case, device: torch.device) -> Problem:
    """x, gates between 0 and 1, and the gradient of h."""
    gates = torch.sigmoid(randn(case, device, 2) + 2)
    return Problem(case, randn(case, device, 0), randn(case, device, 1), {"decay": gates})


def contestant(problem: Problem, backend: str | None = None) -> Contestant:
    """`cofm.linear_scan` on one of its backends."""
    return torch_contestant(
        lambda x, decay: cofm.linear_scan(x, decay, backend=backend)[0],
        [problem.x, problem.given["decay"]],
        problem.grad,
    )


OPERATOR = Operator(
    name="gated_scan",
    studies={"targets": (TARGETS, [torch.float32])},
    make=make,
    scales=True,
    ours=contestant,
    traffic=lambda case, backward: traffic(*case.shape, case.dtype.itemsize, gated=True, backward=backward),
    bounds=lambda problem: linear_scan_bounds(problem.x, problem.given["decay"], grad_h=problem.grad),
)

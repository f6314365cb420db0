"""`cofm.linear_scan` of pairs of real channels, each a complex number with a complex decay; given: decay (D // 2,)."""

from __future__ import annotations

import torch

import cofm_triton as cofm
from cofm_triton.evidence.benchmark.contract import Case, Contestant, Operator, Problem, torch_contestant
from cofm_triton.evidence.benchmark.operators.inputs import in_pairs, pair_rates, randn
from cofm_triton.evidence.tolerance import linear_scan_bounds
from cofm_triton.ops.linear_scan import traffic


def make(case: Case, device: torch.device) -> Problem:
    """x, a decay for every pair, which turns by one radian a step, and the gradient of h."""
    case = in_pairs(case)
    decay = torch.exp(-pair_rates(case, device))
    given = {"decay": torch.polar(decay, torch.ones_like(decay))}
    return Problem(case, randn(case, device, 0), randn(case, device, 1), given)


def contestant(problem: Problem, backend: str | None = None) -> Contestant:
    """`cofm.linear_scan` on one of its backends."""
    return torch_contestant(
        lambda x, decay: cofm.linear_scan(x, decay, backend=backend)[0],
        [problem.x, problem.given["decay"]],
        problem.grad,
    )


OPERATOR = Operator(
    name="paired_linear_scan",
    studies={"shapes": ([(8, 4096, 256)], [torch.float32, torch.bfloat16])},
    make=make,
    ours=contestant,
    traffic=lambda case, backward: traffic(*case.shape, case.dtype.itemsize, gated=False, backward=backward),
    bounds=lambda problem: linear_scan_bounds(problem.x, problem.given["decay"], grad_h=problem.grad),
)

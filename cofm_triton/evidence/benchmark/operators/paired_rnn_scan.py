"""`cofm.rnn_scan` with hardtanh and pairs of channels that turn; given: rate and frequency (D // 2,), exact steps."""

from __future__ import annotations

import torch

import cofm_triton as cofm
from cofm_triton.evidence.benchmark.contract import Case, Contestant, Operator, Problem, torch_contestant
from cofm_triton.evidence.benchmark.operators.inputs import in_pairs, pair_rates, randn
from cofm_triton.evidence.tolerance import paired_rnn_scan_bounds
from cofm_triton.ops.rnn_scan import traffic


def make(case: Case, device: torch.device) -> Problem:
    """x, rates and frequencies, by which pairs turn by one radian a step, and the gradient of h."""
    case = in_pairs(case)
    rate = pair_rates(case, device)
    given = {"rate": rate, "frequency": torch.ones_like(rate)}
    return Problem(case, randn(case, device, 0), randn(case, device, 1), given)


def contestant(problem: Problem, backend: str | None = None) -> Contestant:
    """`cofm.rnn_scan` on one of its backends."""
    return torch_contestant(
        lambda x, rate, frequency: cofm.rnn_scan(x, rate, frequency=frequency, discretization="exact", backend=backend)[
            0
        ],
        [problem.x, problem.given["rate"], problem.given["frequency"]],
        problem.grad,
    )


OPERATOR = Operator(
    name="paired_rnn_scan",
    studies={"shapes": ([(8, 4096, 256)], [torch.float32])},
    make=make,
    ours=contestant,
    traffic=lambda case, backward: traffic(*case.shape, case.dtype.itemsize, backward=backward),
    bounds=lambda problem: paired_rnn_scan_bounds(
        problem.x, problem.given["rate"], problem.given["frequency"], grad_h=problem.grad, discretization="exact"
    ),
)

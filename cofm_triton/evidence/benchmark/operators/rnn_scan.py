"""`cofm.rnn_scan` with hardtanh, `h[t] = h[t-1] + act(x[t] - rate * h[t-1])`; given: rate (D,), state's dtype."""

from __future__ import annotations

import torch

import cofm_triton as cofm
from cofm_triton.evidence.benchmark.contract import Case, Contestant, Operator, Problem, torch_contestant
from cofm_triton.evidence.benchmark.operators.inputs import randn, rates
from cofm_triton.evidence.tolerance import rnn_scan_bounds
from cofm_triton.ops.rnn_scan import traffic


def make(case: Case, device: torch.device) -> Problem:
    """x, rate and the gradient of h."""
    return Problem(case, randn(case, device, 0), randn(case, device, 1), {"rate": rates(case, device)})


def contestant(problem: Problem, backend: str | None = None) -> Contestant:
    """`cofm.rnn_scan` on one of its backends."""
    return torch_contestant(
        lambda x, rate: cofm.rnn_scan(x, rate, backend=backend)[0],
        [problem.x, problem.given["rate"]],
        problem.grad,
    )


OPERATOR = Operator(
    name="rnn_scan",
    studies={"shapes": ([(8, 4096, 256), (2, 65536, 64)], [torch.float32])},
    make=make,
    scales=True,
    ours=contestant,
    traffic=lambda case, backward: traffic(*case.shape, case.dtype.itemsize, backward=backward),
    bounds=lambda problem: rnn_scan_bounds(problem.x, problem.given["rate"], grad_h=problem.grad),
)

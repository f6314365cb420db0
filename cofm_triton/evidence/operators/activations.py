"""`cofm_triton.rnn_scan` with each nonlinearity inside, timed side by side; `rnn_scan` validates and compiles it."""

from __future__ import annotations

import torch

from cofm_triton.evidence.case import Case
from cofm_triton.evidence.draws import randn, spread_rates
from cofm_triton.evidence.operator import Benchmark, Operator
from cofm_triton.evidence.problem import Problem
from cofm_triton.evidence.tolerance import rnn_scan_bounds
from cofm_triton.functional import rnn_scan
from cofm_triton.ops.rnn_scan import traffic
from cofm_triton.step.activations import NONLINEARITIES


def timed(case: Case, device: torch.device) -> Problem:
    """x, rates for memories of every length, and the gradient of h; a smoke run takes hardtanh."""
    nonlinearity = case.variant if case.variant in NONLINEARITIES else "hardtanh"
    tensors = {"x": randn(case, device, 0), "rate": spread_rates(case, device)}
    return Problem(OPERATOR, tensors, {"grad_h": randn(case, device, 1)}, dict(nonlinearity=nonlinearity))


OPERATOR = Operator(
    name="activations",
    function=rnn_scan,
    bounds=rnn_scan_bounds,
    benchmark=Benchmark(
        studies={name: ([(8, 4096, 256)], [torch.float32]) for name in NONLINEARITIES},
        draw=timed,
        traffic=lambda case, backward: traffic(*case.shape, case.dtype.itemsize, backward=backward),
    ),
)

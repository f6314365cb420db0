"""`cofm_triton.linear_scan` with a decay per step, `h[t] = decay[t] * h[t-1] + x[t]`; validated as `linear_scan`."""

from __future__ import annotations

import torch

from cofm_triton.evidence.benchmark.shapes import TARGETS
from cofm_triton.evidence.case import Case
from cofm_triton.evidence.draws import randn
from cofm_triton.evidence.operator import Benchmark, Operator
from cofm_triton.evidence.problem import Problem
from cofm_triton.evidence.tolerance import linear_scan_bounds
from cofm_triton.functional import linear_scan
from cofm_triton.ops.linear_scan import traffic


def timed(case: Case, device: torch.device) -> Problem:
    """x, gates (B, T, D) between 0 and 1 in its dtype, and the gradient of h."""
    tensors = {"x": randn(case, device, 0), "decay": torch.sigmoid(randn(case, device, 2) + 2)}
    return Problem(OPERATOR, tensors, {"grad_h": randn(case, device, 1)})


OPERATOR = Operator(
    name="gated_scan",
    function=linear_scan,
    bounds=linear_scan_bounds,
    benchmark=Benchmark(
        studies={"targets": (TARGETS, [torch.float32])},
        draw=timed,
        traffic=lambda case, backward: traffic(*case.shape, case.dtype.itemsize, gated=True, backward=backward),
        scales=True,
    ),
)

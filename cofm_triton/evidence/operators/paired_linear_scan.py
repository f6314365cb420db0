"""`cofm_triton.linear_scan` of real channels in pairs, each a complex number with a complex decay.

It is timed; `linear_scan` validates and compiles it.
"""

from __future__ import annotations

import torch

from cofm_triton.evidence.case import Case
from cofm_triton.evidence.draws import in_pairs, randn, spread_decays
from cofm_triton.evidence.operator import Benchmark, Operator
from cofm_triton.evidence.problem import Problem
from cofm_triton.evidence.tolerance import linear_scan_bounds
from cofm_triton.functional import linear_scan
from cofm_triton.ops.linear_scan import traffic


def timed(case: Case, device: torch.device) -> Problem:
    """x, a decay for every pair, which turns by one radian a step, and the gradient of h."""
    channels, pairs = in_pairs(case)
    decay = spread_decays(pairs, device)
    tensors = {"x": randn(channels, device, 0), "decay": torch.polar(decay, torch.ones_like(decay))}
    return Problem(OPERATOR, tensors, {"grad_h": randn(channels, device, 1)})


OPERATOR = Operator(
    name="paired_linear_scan",
    function=linear_scan,
    bounds=linear_scan_bounds,
    benchmark=Benchmark(
        studies={"shapes": ([(8, 4096, 256)], [torch.float32, torch.bfloat16])},
        draw=timed,
        traffic=lambda case, backward: traffic(*case.shape, case.dtype.itemsize, gated=False, backward=backward),
    ),
)

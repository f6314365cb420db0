"""`cofm_triton.memory_sweep` of a tanh model of D units over T steps: some radii, some directions."""

from __future__ import annotations

import torch

from cofm_triton.evidence.benchmark.contract import FORWARD, Contestant
from cofm_triton.evidence.case import Case
from cofm_triton.evidence.operator import Benchmark, Operator
from cofm_triton.evidence.problem import Problem
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.memory.sweep import memory_sweep

RADII = (0.0, 0.01, 0.1)
DIRECTIONS = 4


def timed(case: Case, device: torch.device) -> Problem:
    """Nothing but x (B, T, D), to be copied: inputs are those that a sweep tries."""
    return Problem(OPERATOR, {"x": torch.zeros(case.shape, dtype=case.dtype, device=device)})


def _ours(problem: Problem) -> Contestant:
    _, length, width = problem.x.shape
    torch.manual_seed(0)
    model = RNNFunctional(1, width, nonlinearity="tanh", device=problem.x.device, dtype=problem.x.dtype)
    return Contestant(lambda: memory_sweep(model, length, radii=RADII, directions=DIRECTIONS).values, None, torch.clone)


OPERATOR = Operator(
    name="memory_sweep",
    function=memory_sweep,
    benchmark=Benchmark(
        studies={"sweep": ([(1, 1000, 16), (1, 10000, 64)], [torch.float64])},
        draw=timed,
        ours=_ours,
        passes=(FORWARD,),
    ),
)

"""`cofm.memory_sweep` of a tanh model of D units over T steps: memory functions at some radii, in some directions."""

from __future__ import annotations

import torch

import cofm_triton as cofm
from cofm_triton.evidence.benchmark.contract import FORWARD, Case, Contestant, Operator, Problem

RADII = (0.0, 0.01, 0.1)
DIRECTIONS = 4


def make(case: Case, device: torch.device) -> Problem:
    """Nothing but x (B, T, D), to be copied: inputs are those that a sweep tries."""
    x = torch.zeros(case.shape, dtype=case.dtype, device=device)
    return Problem(case, x, x)


def _ours(problem: Problem) -> Contestant:
    _, length, width = problem.case.shape
    torch.manual_seed(0)
    model = cofm.RNNFunctional(1, width, nonlinearity="tanh", device=problem.x.device, dtype=problem.case.dtype)
    return Contestant(
        lambda: cofm.memory_sweep(model, length, radii=RADII, directions=DIRECTIONS).values, None, torch.clone
    )


OPERATOR = Operator(
    name="memory_sweep",
    studies={"sweep": ([(1, 1000, 16), (1, 10000, 64)], [torch.float64])},
    make=make,
    ours=_ours,
    passes=(FORWARD,),
)

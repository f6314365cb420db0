"""`cofm.perturbation_error` of one hardtanh model: B sequences of T steps, D units, 22 radii, 4 directions, float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import cofm_triton as cofm

from ..contract import FORWARD, Case, Contestant, Operator, Problem

DIRECTIONS = 4


def make(case: Case, device: torch.device) -> Problem:
    """Inputs (B, T, 1) and their targets."""
    batch, length, _ = case.shape
    inputs, targets = cofm.targets.generate("exp", batch, length)
    inputs, targets = inputs.to(device, case.dtype), targets.to(device, case.dtype)
    return Problem(case, inputs, targets)


def model(problem: Problem) -> cofm.RNNFunctional:
    """The paper's hypothesis, Euler's method."""
    torch.manual_seed(0)
    return cofm.RNNFunctional(
        1, problem.case.shape[2], discretization="euler", device=problem.x.device, dtype=problem.case.dtype
    )


def errors_contestant(errors: Callable[[], Tensor]) -> Contestant:
    """From a function that returns the (radii, directions) errors."""
    return Contestant(errors, None, torch.clone)


def _ours(problem: Problem) -> Contestant:
    hypothesis = model(problem)
    return errors_contestant(
        lambda: cofm.perturbation_error(
            hypothesis, problem.x, problem.grad, directions=DIRECTIONS
        ).per_direction[0]
    )


OPERATOR = Operator(
    name="perturbation_error",
    studies={"sweep": ([(256, 100, 8), (256, 100, 64)], [torch.float64])},
    make=make,
    ours=_ours,
    passes=(FORWARD,),
)

"""`cofm.perturbation_error` of a hardtanh model: B sequences, T steps, D units, the paper's 22 radii, 4 directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.func import functional_call

import cofm_triton as cofm
from cofm_triton import reference
from cofm_triton.evidence.benchmark.contract import FORWARD, Case, Contestant, Operator, Problem
from cofm_triton.evidence.tolerance import Bound
from cofm_triton.perturbation.directions import paper_radii, parameter_shapes, random_direction

DIRECTIONS = 4
# Two orders of summing at most a few thousand float64 terms.
RTOL = 1e-10


def make(case: Case, device: torch.device) -> Problem:
    """Inputs (B, T, 1) and, in place of a gradient, the targets."""
    batch, length, _ = case.shape
    inputs, targets = cofm.targets.generate("exp", batch, length, dtype=case.dtype, device=device)
    return Problem(case, inputs, targets)


def contestant(errors: Callable[[], Tensor]) -> Contestant:
    """From a function that returns the (radii, directions) errors."""
    return Contestant(errors, None, torch.clone)


def model_by_model(problem: Problem) -> Callable[[], Tensor]:
    """The definition, one perturbed model after the other, as in the paper's code."""
    model = _model(problem)
    shapes = parameter_shapes(model)
    directions = [
        {name: value.to(problem.x) for name, value in random_direction(shapes, index).items()}
        for index in range(DIRECTIONS)
    ]
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def error(perturbed: Mapping[str, Tensor]) -> Tensor:
        output = functional_call(model, dict(perturbed), (problem.x,))
        return cofm.temporally_weighted_mse(output, problem.grad)

    return lambda: reference.perturbation_error(error, parameters, directions, paper_radii()).per_direction


def _model(problem: Problem) -> cofm.RNNFunctional:
    """The paper's hypothesis by Euler's method."""
    torch.manual_seed(0)
    return cofm.RNNFunctional(
        1, problem.case.shape[2], discretization="euler", device=problem.x.device, dtype=problem.case.dtype
    )


def _ours(problem: Problem) -> Contestant:
    model = _model(problem)
    return contestant(
        lambda: cofm.perturbation_error(model, problem.x, problem.grad, directions=DIRECTIONS).per_direction[0]
    )


def _bounds(problem: Problem) -> dict[str, Bound]:
    exact = model_by_model(problem)()
    return {"h": Bound(exact, RTOL * exact)}


OPERATOR = Operator(
    name="perturbation_error",
    studies={"sweep": ([(256, 100, 8), (256, 100, 64)], [torch.float64])},
    make=make,
    ours=_ours,
    bounds=_bounds,
    passes=(FORWARD,),
)

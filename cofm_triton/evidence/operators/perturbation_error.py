"""`cofm_triton.perturbation_error` of a hardtanh model of D units: the paper's 22 radii, 4 directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.func import functional_call

from cofm_triton import reference
from cofm_triton.evidence.benchmark.contract import FORWARD, Contestant
from cofm_triton.evidence.case import Case
from cofm_triton.evidence.operator import Benchmark, Operator
from cofm_triton.evidence.problem import Problem
from cofm_triton.evidence.tolerance import Bound
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.loss import temporally_weighted_mse
from cofm_triton.perturbation.curve import perturbation_error
from cofm_triton.perturbation.directions import paper_radii, parameter_shapes, random_direction
from cofm_triton.targets import generate

DIRECTIONS = 4
# Two orders of summing at most a few thousand float64 terms.
RTOL = 1e-10


def timed(case: Case, device: torch.device) -> Problem:
    """Inputs and targets (B, T, 1), for a model of D units."""
    batch, length, width = case.shape
    inputs, targets = generate("exp", batch, length, dtype=case.dtype, device=device)
    return Problem(OPERATOR, {"x": inputs, "targets": targets}, options={"width": width})


def contestant(errors: Callable[[], Tensor]) -> Contestant:
    """From a function that returns the (radii, directions) errors."""
    return Contestant(errors, None, torch.clone)


def model_by_model(x: Tensor, targets: Tensor, width: int) -> Callable[[], Tensor]:
    """The definition, one perturbed model after the other, as in the paper's code."""
    model = _model(x, width)
    shapes = parameter_shapes(model)
    directions = [
        {name: value.to(x) for name, value in random_direction(shapes, index).items()} for index in range(DIRECTIONS)
    ]
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def error(perturbed: Mapping[str, Tensor]) -> Tensor:
        return temporally_weighted_mse(functional_call(model, dict(perturbed), (x,)), targets)

    return lambda: reference.perturbation_error(error, parameters, directions, paper_radii()).per_direction


def _model(x: Tensor, width: int) -> RNNFunctional:
    """The paper's hypothesis by Euler's method."""
    torch.manual_seed(0)
    return RNNFunctional(1, width, discretization="euler", device=x.device, dtype=x.dtype)


def _ours(problem: Problem) -> Contestant:
    model, x, targets = _model(problem.x, problem.options["width"]), problem.x, problem["targets"]
    return contestant(lambda: perturbation_error(model, x, targets, directions=DIRECTIONS).per_direction[0])


def _bounds(x: Tensor, targets: Tensor, width: int) -> dict[str, Bound]:
    exact = model_by_model(x, targets, width)()
    return {"errors": Bound(exact, RTOL * exact)}


OPERATOR = Operator(
    name="perturbation_error",
    function=perturbation_error,
    results={"errors": "grad_errors"},
    bounds=_bounds,
    benchmark=Benchmark(
        studies={"sweep": ([(256, 100, 8), (256, 100, 64)], [torch.float64])},
        draw=timed,
        ours=_ours,
        passes=(FORWARD,),
    ),
)

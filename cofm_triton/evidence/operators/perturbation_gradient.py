"""The sweep's gradients: errors of K models and what they change by when a coefficient does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cofm_triton.evidence.draws import inside_and_out
from cofm_triton.evidence.operator import Operator, Validation
from cofm_triton.evidence.operators.perturbation import KINDS, cells_of, in_models, sweep_problem
from cofm_triton.evidence.problem import Problem
from cofm_triton.evidence.tolerance import Bound, sweep_gradients_bounds
from cofm_triton.ops.backends import implementation

RESULTS = ("errors", "grad_weight", "grad_bias", "grad_rate", "grad_readout", "grad_offset")


def errors_and_gradients(*, backend: str, **given: Any) -> tuple[Tensor, ...]:
    """Errors and their derivatives by all coefficients, on one backend."""
    compute = implementation(backend, "perturbation_gradient").sweep_gradients
    errors, by_units, by_offset = compute(cells_of(given), given["x"], given["targets"], given["weights"])
    sizes = (1, 1, given["x"].shape[2], given["targets"].shape[2])
    rate, bias, weight, readout = by_units.split(sizes, -1)
    return errors, weight, bias[..., 0], rate[..., 0], readout.mT, by_offset


def bounds(**given: Any) -> dict[str, Bound]:
    """Exact results by the definitions and autograd, and how far they may be off."""
    return sweep_gradients_bounds(*in_models(given), **{name: given[name] for name in KINDS})


def gradient_problem(*shape: int, **options: Any) -> Problem:
    """Arguments of `sweep_problem`."""
    return sweep_problem(*shape, operator=OPERATOR, **options)


OPERATOR = Operator(
    name="perturbation_gradient",
    function=errors_and_gradients,
    results={name: f"grad_of_{name}" for name in RESULTS},
    bounds=bounds,
    sequences=("x",),
    validation=Validation(
        draws=inside_and_out(gradient_problem),
        dtypes=(torch.float32, torch.float64),
        backends=("numba",),  # elsewhere it is autograd, through operators validated by themselves
        functions={"forward": "sweep_gradients", "backward": "sweep_gradients"},
        first_gradient=1,
        largest=40,
        result=torch.float64,
    ),
)

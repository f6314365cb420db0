"""Calls of the sweep's gradients: errors of K models and what they change by when a coefficient does."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cofm_triton.evidence.tolerance import Bound, sweep_gradients_bounds
from cofm_triton.evidence.validation.operators.perturbation import SweepCase, sweep_case
from cofm_triton.evidence.validation.problem import Operator
from cofm_triton.ops.backends import implementation


class GradientCase(SweepCase):
    """The same models and sequences."""

    def run(self, backend: str, device: torch.device | None = None) -> dict[str, Tensor]:
        """Errors and their derivatives by all coefficients, on the CPU."""
        assert self.weights is not None
        compute = implementation(backend, "perturbation_gradient").sweep_gradients
        errors, by_units, by_offset = compute(self.cells(), self.x, self.targets, self.weights)
        sizes = (1, 1, self.x.shape[2], self.targets.shape[2])
        rate, bias, weight, readout = by_units.split(sizes, -1)
        return {
            "errors": errors, "grad_weight": weight, "grad_bias": bias[..., 0], "grad_rate": rate[..., 0],
            "grad_readout": readout.mT, "grad_offset": by_offset,
        }  # fmt: skip

    def bounds(self) -> dict[str, Bound]:
        """Exact results by the definitions and autograd, and how far they may be off."""
        assert self.weights is not None
        options: dict[str, Any] = dict(dt=self.dt, act_in=self.act_in, act_out=self.act_out)
        return sweep_gradients_bounds(self.models, self.x, self.targets, self.weights, **options)


def gradient_case(*shape: int, **options: Any) -> GradientCase:
    """Arguments of `sweep_case`."""
    case = sweep_case(*shape, **options)
    return GradientCase(**{field.name: getattr(case, field.name) for field in fields(case)})


OPERATOR = Operator(
    name="perturbation_gradient",
    draws={
        "linear": gradient_case,
        "hardtanh": partial(gradient_case, act_in="hardtanh"),
        "tanh": partial(gradient_case, act_in="tanh"),
        "tanh-of-linear": partial(gradient_case, act_out="tanh"),
    },
    dtypes=(torch.float32, torch.float64),
    backends=("numba",),  # elsewhere it is autograd, through operators validated by themselves
    functions={"forward": "sweep_gradients", "backward": "sweep_gradients"},
    first_gradient=1,
    largest=40,
    result=torch.float64,
)

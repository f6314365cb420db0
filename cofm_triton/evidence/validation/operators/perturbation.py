"""Calls of the perturbation sweep: errors of K models on the same sequences, weighted squares and the largest gap."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from cofm_triton.evidence.tolerance import Bound, sweep_errors_bounds
from cofm_triton.evidence.validation.case import device_of
from cofm_triton.evidence.validation.draws import normal
from cofm_triton.evidence.validation.problem import Operator
from cofm_triton.ops.backends import implementation
from cofm_triton.step.stacked_cells import StackedCells

MODELS, INPUTS, OUTPUTS = 3, 2, 1


@dataclass(frozen=True)
class SweepCase:
    """Weight, bias, rate, readout and offset of every model, in x's dtype, and the sequences they all see."""

    models: tuple[tuple[Tensor, ...], ...]
    x: Tensor
    targets: Tensor
    weights: Tensor | None
    act_in: str
    act_out: str
    operator: str = "perturbation"

    @property
    def dt(self) -> float:
        """Recurrences read out through a nonlinearity have steps of length 1 (`stacked.stack`)."""
        return 0.5 if self.act_out == "linear" else 1.0

    def cells(self) -> StackedCells:
        """All models, on the CPU."""
        encoder, bias, rate, readout, offset = (
            torch.stack(tensors).double() for tensors in zip(*self.models, strict=True)
        )
        return StackedCells(rate, encoder, bias, readout, offset, self.dt, self.act_in, self.act_out)

    def run(self, backend: str, device: torch.device | None = None) -> dict[str, Tensor]:
        """The errors of all models, on the CPU."""
        device = device_of(backend) if device is None else device
        cells = self.cells().to(device)
        weights = None if self.weights is None else self.weights.to(device)
        given = (self.x.to(device), self.targets.to(device), weights)
        return {"errors": implementation(backend, self.operator).sweep_errors(cells, *given).cpu()}

    def bounds(self) -> dict[str, Bound]:
        """Exact errors by the definitions, and how far they may be off."""
        options = dict(act_in=self.act_in, act_out=self.act_out)
        return sweep_errors_bounds(self.models, self.x, self.targets, self.weights, dt=self.dt, **options)

    def slack(self, backend: str) -> float:
        """1: states and tensors are equally wide."""
        return 1.0

    def strided(self) -> SweepCase:
        """x with time before sequences in memory."""
        return replace(self, x=self.x.transpose(0, 1).contiguous().transpose(0, 1))


def sweep_case(
    batch: int, length: int, channels: int, *, dtype: torch.dtype = torch.float32, act_in: str = "linear",
    act_out: str = "linear", largest: bool = False, states: bool = False, seed: int = 0,
    operator: str = "perturbation",
) -> SweepCase:  # fmt: skip
    """Sequences of at least one step; `states` is accepted and ignored: a sweep always starts from zero."""
    length, seed = max(1, length), 100 * seed

    def model(index: int) -> tuple[Tensor, ...]:
        first = seed + 10 * index
        rate = (0.05 + normal(channels, dtype=torch.float64, seed=first).abs() / 2).clamp(max=1.2)
        if operator == "dense_perturbation":  # columns of about the same length, whatever the width
            mixing = normal(channels, channels, dtype=torch.float64, seed=first + 5)
            rate = rate.diag() + 0.2 * mixing / channels**0.5
        return (
            normal(channels, INPUTS, dtype=dtype, seed=first + 1),
            normal(channels, dtype=dtype, seed=first + 2),
            rate.to(dtype),
            normal(OUTPUTS, channels, dtype=dtype, seed=first + 3),
            normal(OUTPUTS, dtype=dtype, seed=first + 4),
        )

    return SweepCase(
        models=tuple(map(model, range(MODELS))),
        x=normal(batch, length, INPUTS, dtype=dtype, seed=seed + 90),
        targets=normal(batch, length, OUTPUTS, dtype=dtype, seed=seed + 91),
        weights=None if largest else normal(length, dtype=torch.float64, seed=seed + 92).abs(),
        act_in=act_in,
        act_out=act_out,
        operator=operator,
    )


OPERATOR = Operator(
    name="perturbation",
    draws={
        "linear": sweep_case,
        "hardtanh": partial(sweep_case, act_in="hardtanh"),
        "tanh": partial(sweep_case, act_in="tanh"),
        "tanh-of-linear+largest": partial(sweep_case, act_out="tanh", largest=True),
    },
    dtypes=(torch.float32, torch.float64),
    functions={"forward": "sweep_errors"},
    largest=40,  # a program's registers hold no more float64 states
    result=torch.float64,
)

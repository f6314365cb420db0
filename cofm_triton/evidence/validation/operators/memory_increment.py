"""Calls of the memory sweep: increments of K nonlinear models under Heaviside inputs, at some of the steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from cofm_triton.evidence.tolerance import Bound, increment_bounds
from cofm_triton.evidence.validation.case import device_of
from cofm_triton.evidence.validation.draws import normal
from cofm_triton.evidence.validation.problem import Operator
from cofm_triton.ops.backends import implementation

MODELS, OUTPUTS = 2, 2
# Every how many steps increments are asked for: often enough to take steps one by one, and to jump where it is linear.
STRIDE = 7


@dataclass(frozen=True)
class IncrementCase:
    """Drives, decays, steps of the rates, read-outs, and the steps that are read out."""

    drive: Tensor
    decay: Tensor
    step: Tensor
    readout: Tensor
    steps: Tensor
    nonlinearity: str

    def run(self, backend: str, device: torch.device | None = None) -> dict[str, Tensor]:
        """The read-outs, on the CPU."""
        device = device_of(backend) if device is None else device
        given = (tensor.to(device) for tensor in (self.drive, self.decay, self.step, self.readout, self.steps))
        compute = implementation(backend, "memory_increment").sampled_increments
        return {"increments": compute(self.nonlinearity, *given).cpu()}

    def bounds(self) -> dict[str, Bound]:
        """Exact read-outs, and how far they may be off."""
        given = (self.drive, self.decay, self.step, self.readout, self.steps)
        return increment_bounds(*given, nonlinearity=self.nonlinearity)

    def slack(self, backend: str) -> float:
        """1: everything is float64."""
        return 1.0

    def strided(self) -> IncrementCase:
        """Drives with units before inputs in memory."""
        return replace(self, drive=self.drive.mT.contiguous().mT)


def increment_case(
    batch: int, length: int, channels: int, *, dtype: torch.dtype = torch.float64, nonlinearity: str = "tanh",
    states: bool = False, seed: int = 0,
) -> IncrementCase:  # fmt: skip
    """Units that forget within a few steps and within thousands; `batch` inputs, steps up to `length`.

    `states` is accepted and ignored: increments always start from rest.
    """
    seed *= 10
    rate = (3 * normal(MODELS, channels, dtype=dtype, seed=seed) - 2).exp()
    return IncrementCase(
        drive=2 * normal(MODELS, batch, channels, dtype=dtype, seed=seed + 1),
        decay=torch.exp(-rate),
        step=-torch.expm1(-rate),
        readout=normal(MODELS, OUTPUTS, channels, dtype=dtype, seed=seed + 2),
        steps=torch.arange(0, max(1, length), STRIDE),
        nonlinearity=nonlinearity,
    )


OPERATOR = Operator(
    name="memory_increment",
    draws={name: partial(increment_case, nonlinearity=name) for name in ("tanh", "hardtanh", "relu")},
    dtypes=(torch.float64,),
    backends=("triton", "numba", "torch"),
    functions={"forward": "sampled_increments"},
)

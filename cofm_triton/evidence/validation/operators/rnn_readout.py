"""Calls of the fused read-out `y[t] = c^T act_out(h[t]) + d` of a diagonal recurrence, encoder included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from cofm_triton.evidence.tolerance import Bound, rnn_readout_bounds
from cofm_triton.evidence.validation.case import device_of
from cofm_triton.evidence.validation.draws import normal
from cofm_triton.evidence.validation.problem import Operator
from cofm_triton.ops.rnn_readout import apply_rnn_readout

NAMES = ("x", "weight", "bias", "rate", "readout", "offset")
DT = 0.7


@dataclass(frozen=True)
class ReadoutCase:
    """The operator's arguments, in the order of `NAMES`, and the weights of the loss `sum(pull * y)`."""

    tensors: tuple[Tensor, ...]
    pull: Tensor
    act_in: str
    act_out: str

    def run(self, backend: str, device: torch.device | None = None) -> dict[str, Tensor]:
        """Result and gradients, on the CPU."""
        device = device_of(backend) if device is None else device
        return self._differentiate(
            partial(_call, act_in=self.act_in, act_out=self.act_out, backend=backend),
            tuple(tensor.to(device) for tensor in self.tensors),
        )

    def bounds(self) -> dict[str, Bound]:
        """Exact results by the definitions, and the errors allowed."""
        return rnn_readout_bounds(self.tensors, self.pull, dt=DT, act_in=self.act_in, act_out=self.act_out)

    def slack(self, backend: str) -> float:
        """1: states and tensors are equally wide."""
        return 1.0

    def strided(self) -> ReadoutCase:
        """x with time before batch in memory."""
        x = self.tensors[0].transpose(0, 1).contiguous().transpose(0, 1)
        return replace(self, tensors=(x, *self.tensors[1:]))

    def _differentiate(self, call: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> dict[str, Tensor]:
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        y = call(*leaves)
        grads = torch.autograd.grad(y, leaves, self.pull.to(y))
        results = {"y": y, **{f"grad_{name}": grad for name, grad in zip(NAMES, grads, strict=True)}}
        return {name: result.detach().cpu() for name, result in results.items()}


def _call(*tensors: Tensor, act_in: str, act_out: str, backend: str) -> Tensor:
    x, weight, bias, rate, readout, offset = tensors
    return apply_rnn_readout(x, weight, bias, rate, readout, offset, DT, act_in, act_out, backend)


def readout_case(
    batch: int, length: int, channels: int, *, dtype: torch.dtype = torch.float32, act_in: str = "linear",
    act_out: str = "linear", states: bool = False, seed: int = 0,
) -> ReadoutCase:  # fmt: skip
    """Two inputs and one output; `states` is accepted and ignored: the operator always starts from zero."""
    seed *= 10
    rate = (0.05 + normal(channels, dtype=torch.float64, seed=seed + 3).abs() / 2).clamp(max=1.2).to(dtype)
    tensors = (
        normal(batch, length, 2, dtype=dtype, seed=seed),
        normal(channels, 2, dtype=dtype, seed=seed + 1),
        normal(channels, dtype=dtype, seed=seed + 2),
        rate,
        normal(1, channels, dtype=dtype, seed=seed + 4),
        normal(1, dtype=dtype, seed=seed + 5),
    )
    return ReadoutCase(tensors, normal(batch, length, 1, dtype=dtype, seed=seed + 6), act_in, act_out)


OPERATOR = Operator(
    name="rnn_readout",
    draws={
        "linear": readout_case,
        "tanh": partial(readout_case, act_in="tanh"),
        "hardtanh": partial(readout_case, act_in="hardtanh"),
        "tanh-of-linear": partial(readout_case, act_out="tanh"),
    },
    dtypes=(torch.float32, torch.float64),
)

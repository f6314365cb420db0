"""Calls of `cofm_triton.rnn_scan` with frequencies; a problem of D channels is one of D pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cofm_triton.evidence.tolerance import Bound, paired_rnn_scan_bounds
from cofm_triton.evidence.validation.case import device_of, rounding_slack
from cofm_triton.evidence.validation.draws import away_from_kinks, normal
from cofm_triton.evidence.validation.problem import Operator
from cofm_triton.functional import rnn_scan
from cofm_triton.ops.dtypes import REAL_DTYPES, state_dtype
from cofm_triton.step.activation import activation
from cofm_triton.step.nonlinearity import NONLINEARITIES
from cofm_triton.step.oscillation import effective_pair
from cofm_triton.step.parameterization import parameterization as look_up

NAMES = ("x", "rate", "frequency", "h0")


@dataclass(frozen=True)
class PairedCase:
    """Tensors in the order of `NAMES`, and the weights of the loss `sum(grad_h * h) + sum(grad_last * h_last)`."""

    tensors: tuple[Tensor | None, ...]
    grad_h: Tensor
    grad_last: Tensor
    options: dict[str, Any]

    def run(self, backend: str, device: torch.device | None = None) -> dict[str, Tensor]:
        """Results and gradients, on the CPU."""
        device = device_of(backend) if device is None else device
        options = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.options.items()}
        leaves = {
            name: tensor.to(device).detach().requires_grad_()
            for name, tensor in zip(NAMES, self.tensors, strict=True)
            if tensor is not None
        }
        arguments: dict[str, Any] = {**leaves, **options}
        h, h_last = rnn_scan(**arguments, backend=backend)
        weights = [self.grad_h.to(device), self.grad_last.to(device)]
        grads = torch.autograd.grad((h, h_last), list(leaves.values()), weights)
        results = {"h": h, "h_last": h_last, **{f"grad_{n}": grad for n, grad in zip(leaves, grads, strict=True)}}
        return {name: result.detach().cpu() for name, result in results.items()}

    def bounds(self) -> dict[str, Bound]:
        """Exact results by the definitions, and the errors allowed."""
        x, rate, frequency, h0 = self.tensors
        assert x is not None and rate is not None and frequency is not None
        return paired_rnn_scan_bounds(x, rate, frequency, h0, self.grad_h, self.grad_last, **self.options)

    def slack(self, backend: str) -> float:
        """Factor by which a backend may exceed the bounds, 1 but for Triton's interpreter."""
        assert self.tensors[0] is not None
        return rounding_slack(backend, self.tensors[0].dtype)

    def strided(self) -> PairedCase:
        """The same numbers with time before batch in memory, every other row of it, and odd distances between rows."""
        return replace(self, tensors=(_strided(self.tensors[0]), *self.tensors[1:]), grad_h=_strided(self.grad_h))

    def check(self, backend: str) -> None:
        """Every result is within its bound.

        Raises:
            AssertionError: one is not; says which and by how much.
        """
        bounds, results = self.bounds(), self.run(backend)
        ratios = {name: bounds[name].excess(result) / self.slack(backend) for name, result in results.items()}
        missed = {name: ratio for name, ratio in ratios.items() if not ratio <= 1}
        assert not missed, f"error over bound: {missed}"


def _strided(tensor: Any) -> Tensor:
    batch, length, channels = tensor.shape
    room = tensor.new_empty((length, 2 * batch, channels + 1))[:, ::2, :channels].transpose(0, 1)
    result: Tensor = room.copy_(tensor)
    return result


def paired_case(
    batch: int, length: int, pairs: int, *, dtype: torch.dtype = torch.float32, nonlinearity: str = "hardtanh",
    states: bool = True, dt: float = 0.7, starts: list[int] | None = None, seed: int = 0,
    parameterization: str = "direct", discretization: str = "exact",
) -> PairedCase:  # fmt: skip
    """Pairs that decay slowly and turn by up to half a turn a step, whose pre-activations keep away from kinks.

    They are drawn first, and x is what leads to them. Rates that a parameterisation cannot express become ones it can.
    Euler's pairs turn as far as leaves them stable.
    """
    state, seed, channels = state_dtype(dtype), 10 * seed, 2 * pairs
    sequences = batch if starts is None else len(starts)
    rate = 0.05 + 0.9 * normal(pairs, dtype=torch.float64, seed=seed + 5).abs() / 2
    kind = look_up(parameterization)
    rate = rate.clamp(max=min(1.2, 0.9 * kind.range.high))
    raw = kind.inverse(rate).to(state)
    angle = torch.pi * torch.tanh(normal(pairs, dtype=torch.float64, seed=seed + 7))
    if discretization == "euler":
        angle = angle / torch.pi * dt * ((2 / dt - rate) * rate).sqrt()
    frequency = (angle / dt).to(state)
    alpha, omega = effective_pair(kind.rate(raw.double()), frequency.double(), dt, discretization)
    h0 = torch.zeros(sequences, channels, dtype=state)
    if states:
        h0 = normal(sequences, channels, dtype=state, seed=seed + 2)
    z = away_from_kinks(batch, length, channels, seed=seed + 6)
    x = torch.empty(batch, length, channels, dtype=dtype)
    act = activation(nonlinearity)
    turned = _turned(alpha, omega)
    now = h0.double()
    for t in range(length):
        if starts is not None and t in starts:
            entered = max(i for i, start in enumerate(starts) if start == t)
            now = h0[entered : entered + 1].double()
        x[:, t] = z[:, t] + turned(now)
        now = now + dt * act(x[:, t].double() - turned(now))
    return PairedCase(
        tensors=(x, raw, frequency, h0 if states else None),
        grad_h=normal(batch, length, channels, dtype=dtype, seed=seed + 3),
        grad_last=normal(sequences, channels, dtype=state if states else dtype, seed=seed + 4),
        options=dict(
            dt=dt, nonlinearity=nonlinearity, parameterization=parameterization, discretization=discretization,
            seq_starts=None if starts is None else torch.tensor(starts),
        ),
    )  # fmt: skip


def _turned(alpha: Tensor, omega: Tensor) -> Callable[[Tensor], Tensor]:
    """h to A h."""
    mode = torch.complex(alpha, omega)

    def turned(h: Tensor) -> Tensor:
        return torch.view_as_real(mode * torch.view_as_complex(h.unflatten(-1, (-1, 2)).contiguous())).flatten(-2)

    return turned


OPERATOR = Operator(
    name="paired_rnn_scan",
    draws={
        **{name: partial(paired_case, nonlinearity=name) for name in NONLINEARITIES},
        "tanh+softplus": partial(paired_case, nonlinearity="tanh", parameterization="softplus"),
        "tanh+packed": partial(paired_case, nonlinearity="tanh"),
        "hardtanh+euler": partial(paired_case, discretization="euler"),
    },
    dtypes=REAL_DTYPES,
    largest=100,  # 70 channels are done in blocks like more of them; bounds follow every error of every step
)

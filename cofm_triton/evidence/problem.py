"""The tensors drawn for a case: what an operator makes of them on a backend, and how far that is from exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from cofm_triton.evidence.tolerance import Bound
from cofm_triton.ops.backends import interpreting


class Equation(Protocol):
    """What a problem asks of its operator, see `cofm_triton.evidence.operator.Operator`."""

    @property
    def name(self) -> str:
        """The key of the registry."""

    @property
    def function(self) -> Callable[..., Any]:
        """What users call."""

    @property
    def results(self) -> Mapping[str, str]:
        """Names of what it returns, and of the derivatives of a loss by them."""

    @property
    def sequences(self) -> Sequence[str]:
        """Which tensors are sequences."""

    @property
    def bounds(self) -> Callable[..., Mapping[str, Bound]] | None:
        """Exact results with the errors allowed."""


def device_of(backend: str) -> torch.device:
    """Where the tensors of a backend live, unless a device is named."""
    on_gpu = backend == "triton" and torch.cuda.is_available() and not interpreting()
    return torch.device("cuda" if on_gpu else "cpu")


def rounding_slack(backend: str, dtype: torch.dtype) -> float:
    """Triton's interpreter cuts off the bits that bfloat16 lacks where GPUs round to nearest: twice the bound."""
    return 2.0 if backend == "triton" and dtype == torch.bfloat16 and interpreting() else 1.0


@dataclass(frozen=True)
class Problem:
    """Arguments of one call; `problem["x"]` is the tensor of that name.

    Attributes:
        operator: whose function is called, and whose bounds hold.
        tensors: arguments by name, the input first; all are differentiated by if there are pulls.
        pulls: derivatives of a loss by some of the results, by the names that `operator.results` gives them.
        options: the other arguments.
    """

    operator: Equation
    tensors: Mapping[str, Tensor]
    pulls: Mapping[str, Tensor] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name] if name in self.tensors else self.pulls[name]

    @property
    def x(self) -> Tensor:
        """The input."""
        return next(iter(self.tensors.values()))

    @property
    def on_gpu(self) -> bool:
        """Whether other libraries run it by their kernels for GPUs."""
        return self.x.device.type == "cuda"

    @property
    def grad(self) -> Tensor:
        """Derivative of the loss by the first result that it depends on."""
        return next(iter(self.pulls.values()))

    def with_(self, **changes: Any) -> Problem:
        """The problem with other options, tensors and pulls, by name; without tensors and pulls that are None."""
        options = {name: changes.pop(name, value) for name, value in self.options.items()}
        pulls = {name: changes.pop(name, self.pulls.get(name)) for name in self.operator.results.values()}
        return replace(self, tensors=_given({**self.tensors, **changes}), pulls=_given(pulls), options=options)

    def strided(self) -> Problem:
        """The same numbers; sequences have time before batch in memory, every other row of it, and odd distances."""
        given = {**self.tensors, **self.pulls}
        sequences = [name for name in self.operator.sequences if name in given and given[name].dim() == 3]
        return self.with_(**{name: _strided(given[name]) for name in sequences})

    def run(self, backend: str, device: torch.device | None = None) -> dict[str, Tensor]:
        """Results and gradients, on the CPU."""
        device = device_of(backend) if device is None else device
        options = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.options.items()}
        tensors = {name: tensor.to(device).detach() for name, tensor in self.tensors.items()}
        if self.pulls:
            tensors = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
        found = self.operator.function(**tensors, **options, backend=backend)
        results = dict(zip(self.operator.results, (found,) if isinstance(found, Tensor) else found, strict=True))
        if self.pulls:
            pulled = [name for name, pull in self.operator.results.items() if pull in self.pulls]
            grads = torch.autograd.grad(
                [results[name] for name in pulled],
                list(tensors.values()),
                [self.pulls[self.operator.results[name]].to(device) for name in pulled],
            )
            results |= {f"grad_{name}": grad for name, grad in zip(tensors, grads, strict=True)}
        return {name: result.detach().cpu() for name, result in results.items()}

    def bounds(self) -> dict[str, Bound]:
        """Exact results and the errors that any correct evaluation stays below."""
        assert self.operator.bounds is not None
        return dict(self.operator.bounds(**self.tensors, **self.pulls, **self.options))

    def slack(self, backend: str) -> float:
        """Factor by which a backend may exceed the bounds, 1 but for Triton's interpreter."""
        return rounding_slack(backend, self.x.dtype)

    def deviations(self, backend: str, results: Mapping[str, Tensor] | None = None) -> dict[str, float]:
        """Largest error over its bound, by result of `run`, or of an earlier one; above 1 is a miss."""
        bounds, results = self.bounds(), self.run(backend) if results is None else results
        stored = {"h": self.x.dtype, "h_last": self.tensors.get("h0", self.x).dtype}
        assert all(results[name].dtype == dtype for name, dtype in stored.items() if name in results)
        return {name: bounds[name].excess(result) / self.slack(backend) for name, result in results.items()}

    def check(self, backend: str, results: Mapping[str, Tensor] | None = None) -> None:
        """Every result of `run`, or of an earlier one, is within its bound.

        Raises:
            AssertionError: one is not; says which and by how much.
        """
        missed = {name: ratio for name, ratio in self.deviations(backend, results).items() if not ratio <= 1}
        assert not missed, f"error over bound: {missed}"


def _given(tensors: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _strided(tensor: Tensor) -> Tensor:
    batch, length, channels = tensor.shape
    room = tensor.new_empty((length, 2 * batch, channels + 1))[:, ::2, :channels].transpose(0, 1)
    return room.copy_(tensor)

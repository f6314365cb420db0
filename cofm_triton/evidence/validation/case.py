"""Calls of the scans on every backend, and the exact results they are held against.

A case holds tensors; `run` calls the public function on one backend, with gradients of a weighted sum of both results,
and `deviations` gives the largest error of every result over its bound (`cofm_triton.evidence.tolerance`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from cofm_triton.evidence.tolerance import Bound, linear_scan_bounds
from cofm_triton.functional import linear_scan
from cofm_triton.ops.backends import interpreting


def device_of(backend: str) -> torch.device:
    """Where the tensors of a backend live, unless a device is named."""
    on_gpu = backend == "triton" and torch.cuda.is_available() and not interpreting()
    return torch.device("cuda" if on_gpu else "cpu")


def rounding_slack(backend: str, dtype: torch.dtype) -> float:
    """Triton's interpreter cuts off the bits that bfloat16 lacks where GPUs round to nearest: twice the bound."""
    return 2.0 if backend == "triton" and dtype == torch.bfloat16 and interpreting() else 1.0


@dataclass(frozen=True)
class Case:
    """Arguments of one call and the weights of the loss `sum(grad_h * h) + sum(grad_last * h_last)`."""

    x: Tensor
    factor: Tensor  # decay, rate or weight
    h0: Tensor | None
    grad_h: Tensor | None
    grad_last: Tensor | None
    options: dict[str, Any] = field(default_factory=dict)

    call: Callable[..., tuple[Tensor, Tensor]] = linear_scan
    bounds_of: Callable[..., dict[str, Bound]] = linear_scan_bounds
    names: tuple[str, ...] = ("grad_x", "grad_decay", "grad_h0")

    def run(self, backend: str, device: torch.device | None = None) -> dict[str, Tensor]:
        """Results and gradients, on the CPU."""
        device = device_of(backend) if device is None else device
        options = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.options.items()}
        leaves = {
            name: tensor.to(device).detach().requires_grad_()
            for name, tensor in zip(self.names, (self.x, self.factor, self.h0), strict=True)
            if tensor is not None
        }
        h, h_last = self.call(*leaves.values(), **options, backend=backend)
        results = {"h": h, "h_last": h_last}
        pairs = [
            (result, weight.to(device))
            for result, weight in zip((h, h_last), (self.grad_h, self.grad_last), strict=True)
            if weight is not None
        ]
        outputs, weights = zip(*pairs, strict=True)
        results |= dict(zip(leaves, torch.autograd.grad(outputs, list(leaves.values()), weights), strict=True))
        return {name: result.detach().cpu() for name, result in results.items()}

    def bounds(self) -> dict[str, Bound]:
        """Exact results and the errors that any correct evaluation stays below."""
        return self.bounds_of(self.x, self.factor, self.h0, self.grad_h, self.grad_last, **self.options)

    def slack(self, backend: str) -> float:
        """Factor by which a backend may exceed the bounds, 1 but for Triton's interpreter."""
        return rounding_slack(backend, self.x.dtype)

    def deviations(self, backend: str) -> dict[str, float]:
        """Largest error over its bound, by result; above 1 is a miss."""
        bounds, results = self.bounds(), self.run(backend)
        assert results["h"].dtype == self.x.dtype
        assert results["h_last"].dtype == (self.x if self.h0 is None else self.h0).dtype
        return {name: bounds[name].excess(result) / self.slack(backend) for name, result in results.items()}

    def check(self, backend: str) -> None:
        """Every result is within its bound.

        Raises:
            AssertionError: one is not; says which and by how much.
        """
        missed = {name: ratio for name, ratio in self.deviations(backend).items() if not ratio <= 1}
        assert not missed, f"error over bound: {missed}"

    def with_(self, **changes: Any) -> Case:
        """The case with other tensors."""
        return replace(self, **changes)

    def strided(self) -> Case:
        """The same numbers, those with a time axis neither contiguous nor in the usual order of axes."""
        moved: dict[str, Any] = {
            name: _strided(tensor)
            for name in ("x", "factor", "grad_h")
            if (tensor := getattr(self, name)) is not None and tensor.dim() == 3
        }
        return replace(self, **moved)


def _strided(tensor: Tensor) -> Tensor:
    """Every second row of memory that holds time before batch."""
    batch, length, channels = tensor.shape
    room = tensor.new_empty((length, 2 * batch, channels))[:, ::2].transpose(0, 1)
    return room.copy_(tensor)

"""Who computes what is timed: we, or a peer, each as a contestant that has a problem before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cofm_triton.evidence.problem import Problem

FORWARD = "forward"
FORWARD_BACKWARD = "forward + backward"
PASSES = (FORWARD, FORWARD_BACKWARD)


@dataclass(frozen=True)
class Contestant:
    """Something that computes a problem; whatever can be prepared once has been.

    Attributes:
        forward: runs the forward pass and returns its result.
        forward_backward: runs both passes and returns the gradients, that of x first; None where there is none.
        to_states: turns the result, and the gradient of x, into a (B, T, D) tensor, for the check in smoke mode.
    """

    forward: Callable[[], Any]
    forward_backward: Callable[[], Sequence[Any]] | None
    to_states: Callable[[Any], Tensor]

    def passes(self) -> dict[str, Callable[[], Any]]:
        """What it can run, by name of the pass."""
        both = {FORWARD: self.forward, FORWARD_BACKWARD: self.forward_backward}
        return {name: run for name, run in both.items() if run is not None}


class Unsupported(Exception):
    """A peer cannot do a case; the message is the reason that the report prints."""


@dataclass(frozen=True)
class Peer:
    """Somebody else's way to the same result.

    Attributes:
        name: heading of its column.
        prepare: name of an operator to the adapter that makes the contestant.
        modules: what must be importable.
        install: how to get it, for the printed reason.
        dtypes: what it accepts.
        max_steps: longest T; beyond it a single run takes minutes.
        same_work: whether its result is ours; others compute something comparable and are marked.
        slow_to_compile: a smoke run has no time for it, except once.
        devices: types of devices it runs on.
        in_triton: whether its kernels for GPUs are Triton's, so that their host time can be measured without a GPU.
    """

    name: str
    prepare: Mapping[str, Callable[[Problem], Contestant]]
    modules: Sequence[str] = ("torch",)
    install: str = "torch"
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16)
    max_steps: int | None = None
    same_work: bool = True
    slow_to_compile: bool = False
    devices: Sequence[str] = ("cpu", "cuda")
    in_triton: bool = False


def torch_contestant(
    function: Callable[..., Tensor],
    leaves: Sequence[Tensor],
    grad: Tensor,
    *,
    parameters: Sequence[Tensor] = (),
    to_states: Callable[[Tensor], Tensor] = torch.clone,
) -> Contestant:
    """A contestant from a differentiable function.

    Args:
        function: maps the leaves to the result.
        leaves: inputs to differentiate by; the first one is x.
        grad: derivative of the loss by the result, in the function's own layout.
        parameters: what `function` uses besides, to be differentiated by as well.
        to_states: from the function's layout to (B, T, D).
    """
    variables = [leaf.detach().requires_grad_() for leaf in leaves]

    def forward() -> Tensor:
        with torch.no_grad():
            return function(*leaves)

    def forward_backward() -> Sequence[Tensor]:
        return torch.autograd.grad(function(*variables), [*variables, *parameters], grad)

    return Contestant(forward, forward_backward, to_states)


def ours(problem: Problem, backend: str | None = None) -> Contestant:
    """The operator itself, on one of its backends."""
    names, function = tuple(problem.tensors), problem.operator.function

    def first(*tensors: Tensor) -> Tensor:
        found = function(**dict(zip(names, tensors, strict=True)), **problem.options, backend=backend)
        result: Tensor = found if isinstance(found, Tensor) else found[0]
        return result

    return torch_contestant(first, list(problem.tensors.values()), problem.grad)

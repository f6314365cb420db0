"""What is timed: a case (operator, shape, dtype), the tensors of a case, and a contestant that computes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cofm_triton.evidence.tolerance import Bound

FORWARD = "forward"
FORWARD_BACKWARD = "forward + backward"
PASSES = (FORWARD, FORWARD_BACKWARD)


@dataclass(frozen=True)
class Case:
    """One problem of one study.

    Attributes:
        operator: name in `registry.OPERATORS`.
        study: the question that the case belongs to, a heading of the table.
        shape: (B, T, D).
        dtype: of x and of the result.
    """

    operator: str
    study: str
    shape: tuple[int, int, int]
    dtype: torch.dtype

    @property
    def dtype_name(self) -> str:
        """`float32` for torch.float32."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def size(self) -> str:
        """`8x4096x256`."""
        return "x".join(map(str, self.shape))

    def label(self, pass_name: str) -> str:
        """Name of one pass over the case, for test ids and groups."""
        return "-".join([self.operator, self.study, self.size, self.dtype_name, pass_name])


@dataclass(frozen=True)
class Problem:
    """The tensors of a case.

    Attributes:
        case: what the tensors were made for.
        x: the input.
        grad: the derivative of a loss by the result, in the shape and dtype of the result.
        given: further inputs by name, as the operator defines them.
        copied: a tensor as large as the states, if x is smaller.
    """

    case: Case
    x: Tensor
    grad: Tensor
    given: Mapping[str, Tensor] = field(default_factory=dict)
    copied: Tensor | None = None

    @property
    def yardstick(self) -> Tensor:
        """What is copied, to compare times with: x, or a tensor of the size of the states."""
        return self.x if self.copied is None else self.copied


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


@dataclass(frozen=True)
class Operator:
    """One of our operators: registered once, timed everywhere.

    Attributes:
        name: the key of the registry.
        studies: name of a study to its shapes and dtypes.
        make: draws the tensors of a case, on a device.
        ours: our contestant.
        traffic: bytes that a pass must move, `traffic(case, backward)`; None where no model exists.
        bounds: exact "h" and "grad_x" with the largest error allowed; None where no definition exists.
        passes: those of `PASSES` that exist.
        scales: whether `cofm bench` shows how its time grows with the length of a sequence.
    """

    name: str
    studies: Mapping[str, tuple[Sequence[tuple[int, int, int]], Sequence[torch.dtype]]]
    make: Callable[[Case, torch.device], Problem]
    ours: Callable[[Problem], Contestant]
    traffic: Callable[[Case, bool], int] | None = None
    bounds: Callable[[Problem], Mapping[str, Bound]] | None = None
    passes: tuple[str, ...] = PASSES
    scales: bool = False

    def cases(self) -> list[Case]:
        """All cases of all studies."""
        return [
            Case(self.name, study, shape, dtype)
            for study, (shapes, dtypes) in self.studies.items()
            for dtype in dtypes
            for shape in shapes
        ]

    def bytes_moved(self, case: Case, pass_name: str) -> int | None:
        """Bytes that the passes together must move, by the operator's traffic model."""
        if self.traffic is None:
            return None
        forward = self.traffic(case, False)
        return forward if pass_name == FORWARD else forward + self.traffic(case, True)


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

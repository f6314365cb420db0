"""What is known of an operator: one entry, which validation, benchmark, compilation and tests read.

An entry is the `OPERATOR` of a file in `operators/`, found by itself. What does not apply to an operator it leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cofm_triton.evidence.benchmark.contract import FORWARD, PASSES, Contestant, ours
from cofm_triton.evidence.case import Case, Shape
from cofm_triton.evidence.compilation.launches import Options, rows_of_channels
from cofm_triton.evidence.problem import Problem
from cofm_triton.evidence.tolerance import Bound
from cofm_triton.ops.backends import BACKENDS

# What every recurrence returns, and what tests call the derivatives of a loss by it.
STATES = {"h": "grad_h", "h_last": "grad_last"}


@dataclass(frozen=True)
class Validation:
    """What is drawn, and where it is computed.

    Attributes:
        draws: variant, as `part+part`, to `draw(B, T, D, dtype=..., states=..., seed=...)`; a variant with the part
            "packed" is given `starts=[...]` as well, and B = 1.
        dtypes: that it accepts.
        backends: that compute it.
        functions: of a backend's module, by the pass that they compute.
        first_gradient: which result of the function for the backward pass is the first of its gradients.
        largest: most channels that are worth a try; None for no limit.
        splits: whether its Triton kernels walk time in segments where there are few channels.
        result: dtype of its results if it does not depend on that of the tensors.
    """

    draws: Mapping[str, Callable[..., Problem]]
    dtypes: tuple[torch.dtype, ...]
    backends: tuple[str, ...] = tuple(name for name in BACKENDS if name not in ("cpu", "reference"))
    functions: Mapping[str, str] = field(default_factory=lambda: {"forward": "forward", "backward": "backward"})
    first_gradient: int = 0
    largest: int | None = None
    splits: bool = False
    result: torch.dtype | None = None


@dataclass(frozen=True)
class Benchmark:
    """What is timed.

    Attributes:
        studies: the questions, headings of the table, to their shapes and dtypes.
        draw: the tensors of a case, on a device.
        ours: our contestant.
        traffic: bytes that a pass must move, `traffic(case, backward)`; None where no model exists.
        yardstick: what is copied, to compare times with: the input, or a tensor of the size of the states.
        passes: those of `PASSES` that exist.
        scales: whether `cofm bench` shows how its time grows with the length of a sequence.
    """

    studies: Mapping[str, tuple[Sequence[Shape], Sequence[torch.dtype]]]
    draw: Callable[[Case, torch.device], Problem]
    ours: Callable[[Problem], Contestant] = ours
    traffic: Callable[[Case, bool], int] | None = None
    yardstick: Callable[[Problem], Tensor] = lambda problem: problem.x
    passes: tuple[str, ...] = PASSES
    scales: bool = False

    def bytes_moved(self, case: Case, pass_name: str) -> int | None:
        """Bytes that the passes together must move, by the operator's traffic model."""
        if self.traffic is None:
            return None
        forward = self.traffic(case, False)
        return forward if pass_name == FORWARD else forward + self.traffic(case, True)


@dataclass(frozen=True)
class Compilation:
    """What is compiled, for every target.

    Attributes:
        launch: calls the launchers, both passes, with the options of a configuration.
        usual: the configurations that people use; a report shows these.
        others: every other flag, dtype and width, so that each kernel is compiled with each of its branches.
        bytes_per_element: of a kernel by the operator's traffic model, from its name, its constants and the options of
            the configuration; None where a kernel does part of a pass.
        elements: of one turn of the loop along time, all threads of a program together, from the constants.
    """

    launch: Callable[..., None]
    usual: Sequence[Options]
    others: Sequence[Options]
    bytes_per_element: Callable[[str, Options, Options], float | None]
    elements: Callable[[Options], int] = rows_of_channels

    def configurations(self, everything: bool) -> list[Options]:
        """The usual ones, or all."""
        return [*self.usual, *(self.others if everything else ())]


@dataclass(frozen=True)
class Operator:
    """One of our operators, or a layer or sweep that is measured as a whole.

    Attributes:
        name: of the operator, and of its file.
        function: what users call; but for layers and sweeps, `function(**tensors, **options, backend=...)`.
        results: names of what it returns, each with the name of a loss's derivative by it.
        bounds: exact results and the errors allowed, `bounds(**tensors, **pulls, **options)`; None where nothing is
            exact.
        sequences: names of tensors with an axis of time.
        validation: None for what is validated by its parts.
        benchmark: None for what is timed as a part of something else.
        compilation: None for what has no kernel of its own.
    """

    name: str
    function: Callable[..., Any]
    results: Mapping[str, str] = field(default_factory=lambda: STATES)
    bounds: Callable[..., Mapping[str, Bound]] | None = None
    sequences: tuple[str, ...] = ("x", "grad_h")
    validation: Validation | None = None
    benchmark: Benchmark | None = None
    compilation: Compilation | None = None

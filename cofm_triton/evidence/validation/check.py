"""Running a case in a place, and how far its results are from the exact ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from cofm_triton.evidence.case import Case
from cofm_triton.evidence.problem import Problem
from cofm_triton.evidence.registry import validations
from cofm_triton.evidence.tolerance import Bound
from cofm_triton.evidence.validation.cases import draw
from cofm_triton.evidence.validation.place import Place
from cofm_triton.experiment.training import one_thread
from cofm_triton.ops.dtypes import state_dtype


@dataclass(frozen=True)
class Element:
    """The element of a result with the largest error over its bound."""

    result: str
    index: list[int]
    actual: str
    exact: str
    allowed: float


@dataclass(frozen=True)
class Outcome:
    """One case in one place.

    Attributes:
        case: its text.
        place: its text.
        ratios: result to its largest error, in units of the tolerance; up to 1 is a pass.
        worst: element of the largest ratio; None if all results are empty or the call failed.
        failure: what the call raised, if it did.
    """

    case: str
    place: str
    ratios: dict[str, float]
    worst: Element | None = None
    failure: str | None = None

    @property
    def replay(self) -> str:
        """What `--replay` takes."""
        return f"{self.case}:{self.place}"

    @property
    def missed(self) -> bool:
        """Whether a result is off by more than its bound, or there is none."""
        return self.failure is not None or not self.largest() <= 1

    def largest(self, *, backward: bool | None = None) -> float:
        """Largest ratio of the forward or the backward pass, or of both (None); a failed call is infinitely off."""
        if self.failure is not None:
            return torch.inf
        chosen = [v for k, v in self.ratios.items() if backward is None or k.startswith("grad_") == backward]
        return max(chosen, default=0.0)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON; `from_dict` is the inverse."""
        return asdict(self)

    @staticmethod
    def from_dict(content: dict[str, Any]) -> Outcome:
        """An outcome from its dictionary; older files call a case a problem."""
        known = {"case" if name == "problem" else name: value for name, value in content.items()}
        worst = known["worst"]
        return Outcome(**{**known, "worst": None if worst is None else Element(**worst)})


def check(case: Case, places: Iterable[Place]) -> Iterator[Outcome]:
    """Run a case in some places; its exact results are computed once."""
    able = [place for place in places if place.backend in validations()[case.operator].backends]
    if not able:
        return
    with one_thread():  # processes side by side: threads would wait, spinning, for processors that others hold
        problem = draw(case)
        bounds = problem.bounds()
    for place in able:
        yield _compare(case, problem, bounds, place)


def _compare(case: Case, problem: Problem, bounds: dict[str, Bound], place: Place) -> Outcome:
    try:
        results = problem.run(place.backend, place.device)
    except Exception as error:  # whatever a kernel raises is a finding, and the others are still to be checked
        return Outcome(case.text, place.text, {}, failure=f"{type(error).__name__}: {error}")
    slack = problem.slack(place.backend)
    # What the operator returns, or the dtype of the tensors or the state; another one would hide its errors.
    wide, dtype = validations()[case.operator].result, case.dtype
    stored = (dtype, state_dtype(dtype)) if wide is None else (wide,)
    ratios = {
        name: bounds[name].excess(result) / slack if result.dtype in stored else torch.inf
        for name, result in results.items()
    }
    filled = {name: ratio for name, ratio in ratios.items() if results[name].numel()}
    if not filled:
        return Outcome(case.text, place.text, ratios)
    name = max(filled, key=lambda name: filled[name])
    return Outcome(case.text, place.text, ratios, _worst(name, results[name], bounds[name], slack))


def _worst(name: str, result: Tensor, bound: Bound, slack: float) -> Element:
    ratio = (result.to(bound.exact.dtype) - bound.exact).abs() / bound.error
    flat = int(torch.where(ratio.isnan(), torch.inf, ratio).argmax())
    index = [int(i) for i in torch.unravel_index(torch.tensor(flat), result.shape)]
    at = tuple(index)
    return Element(name, index, str(result[at].item()), str(bound.exact[at].item()), slack * bound.error[at].item())

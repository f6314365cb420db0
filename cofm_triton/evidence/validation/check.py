"""Running a problem in a place, and how far its results are from the exact ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from cofm_triton.evidence.tolerance import Bound
from cofm_triton.evidence.validation.place import Place
from cofm_triton.evidence.validation.problem import Checkable, Problem
from cofm_triton.evidence.validation.registry import draw, operators
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
    """One problem in one place.

    Attributes:
        problem: its text.
        place: its text.
        ratios: result to its largest error, in units of the tolerance; up to 1 is a pass.
        worst: element of the largest ratio; None if all results are empty or the call failed.
        failure: what the call raised, if it did.
    """

    problem: str
    place: str
    ratios: dict[str, float]
    worst: Element | None = None
    failure: str | None = None

    @property
    def replay(self) -> str:
        """What `--replay` takes."""
        return f"{self.problem}:{self.place}"

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
        """An outcome from its dictionary."""
        worst = content["worst"]
        return Outcome(**{**content, "worst": None if worst is None else Element(**worst)})


def check(problem: Problem, places: Iterable[Place]) -> Iterator[Outcome]:
    """Run a problem in some places; its exact results are computed once."""
    able = [place for place in places if place.backend in operators()[problem.operator].backends]
    if not able:
        return
    with _one_thread():
        case = draw(problem)
        bounds = case.bounds()
    for place in able:
        yield _compare(problem, case, bounds, place)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes work side by side: threads of each would wait, spinning, for processors that the others hold."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _compare(problem: Problem, case: Checkable, bounds: dict[str, Bound], place: Place) -> Outcome:
    try:
        results = case.run(place.backend, place.device)
    except Exception as error:  # whatever a kernel raises is a finding, and the others are still to be checked
        return Outcome(problem.text, place.text, {}, failure=f"{type(error).__name__}: {error}")
    slack = case.slack(place.backend)
    # What the operator returns, or the dtype of the tensors or the state; another one would hide its errors.
    wide, dtype = operators()[problem.operator].result, problem.torch_dtype
    stored = (dtype, state_dtype(dtype)) if wide is None else (wide,)
    ratios = {
        name: bounds[name].excess(result) / slack if result.dtype in stored else torch.inf
        for name, result in results.items()
    }
    filled = {name: ratio for name, ratio in ratios.items() if results[name].numel()}
    if not filled:
        return Outcome(problem.text, place.text, ratios)
    name = max(filled, key=lambda name: filled[name])
    return Outcome(problem.text, place.text, ratios, _worst(name, results[name], bounds[name], slack))


def _worst(name: str, result: Tensor, bound: Bound, slack: float) -> Element:
    ratio = (result.to(bound.exact.dtype) - bound.exact).abs() / bound.error
    flat = int(torch.where(ratio.isnan(), torch.inf, ratio).argmax())
    index = [int(i) for i in torch.unravel_index(torch.tensor(flat), result.shape)]
    at = tuple(index)
    return Element(name, index, str(result[at].item()), str(bound.exact[at].item()), slack * bound.error[at].item())

"""Memory of K copies of one model with different parameters, by the fastest way there is.

    linear one-layer models      closed form, the exact sup                  `diagonal.py`, `search.linear_supremum`
    other one-layer models       increments, never a difference, and search  `diagonal.py`, `search.search`
    with a dense recurrence      both of the above with a matrix             `dense.py`
    any other module, warm-ups   differences of its float64 outputs, search  `module.py`

A value that is not finite counts as infinite, so that no maximum can lose it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.memory.dense import DenseHeavisideCells
from cofm_triton.memory.diagonal import HeavisideCells
from cofm_triton.memory.module import ModuleAnswers, each_copy
from cofm_triton.memory.search import (
    NORMS,
    PAIRED,
    SHARED,
    Best,
    Domain,
    Effort,
    Response,
    directions,
    linear_supremum,
    over,
    search,
    turns,
)
from cofm_triton.modules.module_state import EvaluationMode
from cofm_triton.perturbation.stacking import BIAS, has_modes, is_stackable
from cofm_triton.support.progress import Finished, Progress, counting

SMALLEST_SHARE = 2.0**-20
"""Lower radius where there is no bias, in upper radii: as good as 0."""

_NUMBERS = 1 << 20  # numbers per tensor at a time: 8 MB, about the last-level cache of a CPU
_GPU_NUMBERS = 1 << 26  # on other devices: 512 MB, so that a sweep is a few launches
_FEWEST_INPUTS = 16  # inputs per call that are worth the call

Parameters = Mapping[str, Tensor]
Heaviside = HeavisideCells | DenseHeavisideCells


@dataclass(frozen=True)
class Memory:
    """Memories of K models at S steps, float64 on the CPU.

    Attributes:
        values: (K, S).
        argmax: (K, S, d).
        slowest: (K,), the smallest decay rate of the models' modes, 1 / time; NaN for modules of other kinds.
        floor: (K,), what is rounding; 0 where nothing was subtracted.
    """

    values: Tensor
    argmax: Tensor
    slowest: Tensor
    floor: Tensor


Found = tuple[Tensor, Tensor, Tensor, Tensor]
"""The fields of `Memory`, of some copies."""


class _Part(NamedTuple):
    """Some copies.

    Attributes:
        turns: of their search, 1 without one.
        compute: their memories; what it is given is told how many turns are finished.
    """

    turns: int
    compute: Callable[[Finished], Found]


class MemoryEvaluator:
    """Memories of copies of a model.

    Args:
        model: a module that maps (N, T, d) to (N, T, p) or to a tuple that starts with it.
        size: d.
        steps: (S,) int64, ascending from 0.
        dt: step, time.
        radius: R.
        min_radius: r; None: R for biased copies and norm "inf", else R / 2^20.
        norm: "inf" or "inf+1".
        probe: parameters of some copies, by which to judge whether there is a bias.
        inputs: (n, d) float64, the sup is over these alone.
        rest: y[-1] of a module that is no `RNNFunctional`, a number or (p,); None: see `ModuleAnswers.at_rest`.
        warm_up: steps of zero input before step 0, >= 0.
    """

    def __init__(
        self,
        model: nn.Module,
        size: int,
        steps: Tensor,
        dt: float,
        *,
        radius: float,
        min_radius: float | None,
        norm: str,
        probe: Parameters,
        inputs: Tensor | None = None,
        rest: Tensor | float | None = None,
        warm_up: int = 0,
    ) -> None:
        self.model, self.size, self.dt, self.rest, self.warm_up = model, size, dt, rest, warm_up
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.steps = steps.to(self.device)
        self.inputs = None if inputs is None else inputs.to(self.device)
        if inputs is not None:
            sizes = inputs.abs().amax(1)
            radius, min_radius = float(sizes.max()), float(sizes.min())
        if min_radius is None:
            whole_ball = norm != "inf" or not self._is_biased(probe)
            min_radius = radius * SMALLEST_SHARE if whole_ball else radius
        self.domain = Domain(min_radius, radius, norm)
        if not self._has_closed_increments(model):
            self._answers.check(radius)

    @cached_property
    def _answers(self) -> ModuleAnswers:
        """What calls a module of another kind."""
        return ModuleAnswers(self.model, self.size, self.steps, self.dt, self.rest, self.warm_up)

    def _has_closed_increments(self, model: nn.Module) -> TypeGuard[RNNFunctional]:
        """Whether increments of its outputs are known without a difference: from the state 0 alone."""
        return self.warm_up == 0 and is_stackable(model)

    @torch.no_grad()
    def __call__(self, parameters: Parameters, progress: Progress | None = None) -> Memory:
        """Memories of K copies.

        Args:
            parameters: {name: (K, *shape)}, every parameter of the model, real ones in float64.
            progress: called as `progress(done, total)`, in turns of the searches.
        """
        if self._has_closed_increments(self.model):
            parts = self._ours(self.model, parameters)
        else:
            count = self._turns(odd=False, effort=SHARED)
            parts = [_Part(count, partial(self._module, some)) for some in each_copy(parameters)]
        finished = counting(progress, sum(part.turns for part in parts))
        with EvaluationMode(self.model):
            found = [part.compute(finished) for part in parts]
        values, points, slowest, floor = (torch.cat(column).cpu() for column in zip(*found, strict=True))
        return Memory(values, points, slowest, floor)

    def _is_biased(self, parameters: Parameters) -> bool:
        """Whether the answer of any of K copies does not vanish with the input."""
        if self._has_closed_increments(self.model):
            return BIAS in parameters and bool((parameters[BIAS] != 0).any())
        return self._answers.is_biased(parameters)

    def _ours(self, model: RNNFunctional, parameters: Parameters) -> list[_Part]:
        """Some copies at a time: their answers to a few inputs at all steps fit the memory limit."""
        kind = HeavisideCells if has_modes(model) else DenseHeavisideCells
        cells: Heaviside = kind.of(model, parameters)
        size = max(1, self._numbers // (_FEWEST_INPUTS * len(self.steps) * cells.held))
        count = len(self._segments(cells)) * self._turns(
            odd=cells.cells.is_odd, effort=_effort(cells), is_linear=cells.cells.is_linear
        )
        return [_Part(count, partial(self._fused, cells[k : k + size])) for k in range(0, cells.cells.count, size)]

    def _turns(self, *, odd: bool, effort: Effort, is_linear: bool = False) -> int:
        """Of the search for one sup; 1 where there is none."""
        if is_linear or self.inputs is not None:
            return 1
        return turns(directions(self.size, odd=odd), self.domain, effort)

    @property
    def _numbers(self) -> int:
        return _NUMBERS if self.device.type == "cpu" else _GPU_NUMBERS

    def _fused(self, cells: Heaviside, finished: Finished) -> Found:
        """A few models."""
        parts = [self._segment(cells, steps, finished) for steps in self._segments(cells)]
        slowest = cells.slowest
        values, points = (torch.cat(column, 1) for column in zip(*parts, strict=True))
        return values, points, slowest, torch.zeros_like(slowest)

    def _segments(self, cells: Heaviside) -> tuple[Tensor, ...]:
        """Segments of steps where the closed forms answer each step by itself, else all steps."""
        return self.steps.split(max(1, self._numbers // cells.held)) if cells.is_closed else (self.steps,)

    def _segment(self, cells: Heaviside, steps: Tensor, finished: Finished) -> tuple[Tensor, Tensor]:
        models = cells.cells.count
        if cells.cells.is_linear and self.inputs is None:
            best = linear_supremum(cells.kernel(steps), self.domain)
            finished(1)
            return best.values, best.points
        chunk = max(1, self._numbers // (models * len(steps) * cells.held))

        def response(inputs: Tensor) -> Tensor:
            return cells.increments(inputs, steps)

        best = self._supremum(response, models, chunk, finished, odd=cells.cells.is_odd, effort=_effort(cells))
        return best.values, best.points

    def _supremum(
        self, response: Response, models: int, chunk: int, finished: Finished, *, odd: bool, effort: Effort
    ) -> Best:
        if self.inputs is not None:
            best = over(response, self.inputs, models, self.domain, chunk=chunk)
            finished(1)
            return best
        ways = directions(self.size, odd=odd).to(self.device)
        return search(response, ways, models, self.domain, chunk=chunk, effort=effort, finished=finished)

    def _module(self, parameters: Parameters, finished: Finished) -> Found:
        """One copy of any module."""
        answers, before = self._answers, self._answers.at_rest(parameters)
        largest = torch.zeros((), dtype=torch.float64, device=self.device)

        def response(inputs: Tensor) -> Tensor:
            nonlocal largest
            increments, size = answers.increments(parameters, inputs[0], before)
            largest = torch.maximum(largest, size)
            return increments[None]

        wide = max((length for p in self.model.parameters() for length in p.shape), default=1)
        chunk = max(1, self._numbers // ((answers.length + self.warm_up) * max(wide, self.size)))
        best = self._supremum(response, 1, chunk, finished, odd=False, effort=SHARED)
        floor = answers.rounding(largest) / (best.points.abs().amax() + NORMS[self.domain.norm])
        return best.values, best.points, answers.slowest(parameters), floor[None]


def _effort(cells: Heaviside) -> Effort:
    """Of the search: a closed form answers one input per step."""
    return PAIRED if cells.is_closed else SHARED

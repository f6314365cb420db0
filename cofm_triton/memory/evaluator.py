"""Memory of K copies of one model with different parameters, by the fastest way there is.

    linear one-layer models      closed form, the exact sup                  `HeavisideCells.kernel`
    other one-layer models       increments, never a difference, and search  `heaviside`, `memory_search`
    with a dense recurrence      both of the above with a matrix             `dense_heaviside`
    any other module             differences of its float64 outputs, and search

A value that is not finite counts as infinite, so that no maximum can lose it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cofm_triton.layers.stable_rnn import RNNFunctional, is_plain, reads_out_states
from cofm_triton.memory.dense import DenseHeavisideCells
from cofm_triton.memory.diagonal import HeavisideCells, slowest_decay
from cofm_triton.memory.search import (
    NORMS,
    PAIRED,
    SHARED,
    Best,
    Domain,
    Effort,
    Response,
    directions,
    over,
    search,
    turns,
)
from cofm_triton.modules.module_state import EvaluationMode, OtherTensors
from cofm_triton.perturbation.evaluator import check_separate, first_tensor
from cofm_triton.perturbation.stacking import BIAS, has_modes, is_stackable
from cofm_triton.support.progress import Finished, Progress, counting

SMALLEST_SHARE = 2.0**-20
"""Lower radius where there is no bias, in upper radii: as good as 0."""

_NUMBERS = 1 << 20  # numbers per tensor at a time: 8 MB, about the last-level cache of a CPU
_GPU_NUMBERS = 1 << 26  # on other devices: 512 MB, so that a sweep is a few launches
_FEWEST_INPUTS = 16  # inputs per call that are worth the call
_PROBED = 16  # steps on which a module shows whether it takes sequences one by one
_ROUNDING = 64  # units in the last place by which outputs of a module may be off
_AT_REST = 1e-12  # relative change of the answer to zero input that is rounding

Parameters = Mapping[str, Tensor]


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
        rest: y[-1] of a module that is no `RNNFunctional`, a number or (p,); None: see `_at_rest`.
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
    ) -> None:
        self.model, self.is_fused = model, is_stackable(model)
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.size, self.dt, self.rest = size, dt, rest
        self.steps = steps.to(self.device)
        self.inputs = None if inputs is None else inputs.to(self.device)
        if inputs is not None:
            sizes = inputs.abs().amax(1)
            radius, min_radius = float(sizes.max()), float(sizes.min())
        if min_radius is None:
            whole_ball = norm != "inf" or not self._is_biased(probe)
            min_radius = radius * SMALLEST_SHARE if whole_ball else radius
        self.domain = Domain(min_radius, radius, norm)
        if not self.is_fused:
            x = torch.tensor([0.0, radius], dtype=torch.float64, device=self.device)
            x = x[:, None, None].expand(-1, min(self._length, _PROBED), size)
            check_separate("model", model, x, torch.float64)

    @torch.no_grad()
    def __call__(self, parameters: Parameters, progress: Progress | None = None) -> Memory:
        """Memories of K copies.

        Args:
            parameters: {name: (K, *shape)}, every parameter of the model, real ones in float64.
            progress: called as `progress(done, total)`, in turns of the searches.
        """
        if is_stackable(self.model):
            parts = self._ours(self.model, parameters)
        else:
            count = self._turns(odd=False, effort=SHARED)
            parts = [_Part(count, partial(self._module, some)) for some in _each(parameters)]
        finished = counting(progress, sum(part.turns for part in parts))
        with EvaluationMode(self.model):
            found = [part.compute(finished) for part in parts]
        values, points, slowest, floor = (torch.cat(column).cpu() for column in zip(*found, strict=True))
        return Memory(values, points, slowest, floor)

    @torch.no_grad()
    def _is_biased(self, parameters: Parameters) -> bool:
        """Whether the answer of any of K copies does not vanish with the input."""
        if self.is_fused:
            return BIAS in parameters and bool((parameters[BIAS] != 0).any())
        with EvaluationMode(self.model):
            return any(not _is_constant(self._silence(some)) for some in _each(parameters))

    def _ours(self, model: RNNFunctional, parameters: Parameters) -> list[_Part]:
        """Some copies at a time: their answers to a few inputs at all steps fit the memory limit."""
        if has_modes(model):
            cells = HeavisideCells.of(model, parameters)
            size = self._models_at_a_time(_held(cells))
            count = len(self._segments(cells)) * self._turns(
                odd=cells.is_odd, effort=_effort(cells), is_linear=cells.cells.is_linear
            )
            return [_Part(count, partial(self._fused, cells[k : k + size])) for k in range(0, cells.cells.count, size)]
        dense = DenseHeavisideCells.of(model, parameters)
        size = self._models_at_a_time(dense.cells.readout.shape[1])
        count = self._turns(odd=dense.is_odd, effort=SHARED, is_linear=dense.cells.is_linear)
        return [_Part(count, partial(self._dense, dense[k : k + size])) for k in range(0, dense.cells.count, size)]

    def _turns(self, *, odd: bool, effort: Effort, is_linear: bool = False) -> int:
        """Of the search for one sup; 1 where there is none."""
        if is_linear or self.inputs is not None:
            return 1
        return turns(directions(self.size, odd=odd), self.domain, effort)

    def _models_at_a_time(self, held: int) -> int:
        return max(1, self._numbers // (_FEWEST_INPUTS * len(self.steps) * held))

    def _dense(self, cells: DenseHeavisideCells, finished: Finished) -> Found:
        """A few dense models."""
        models, outputs = cells.cells.readout.shape[:2]
        if cells.cells.is_linear and self.inputs is None:
            best = linear_supremum(cells.kernel(self.steps), self.domain)
            finished(1)
        else:
            chunk = max(1, self._numbers // (models * len(self.steps) * outputs))
            answer = partial(cells.increments, steps=self.steps)
            best = self._supremum(answer, models, chunk, finished, odd=cells.is_odd, effort=SHARED)
        slowest = cells.slowest
        return best.values, best.points, slowest, torch.zeros_like(slowest)

    @property
    def _numbers(self) -> int:
        return _NUMBERS if self.device.type == "cpu" else _GPU_NUMBERS

    def _fused(self, cells: HeavisideCells, finished: Finished) -> Found:
        """A few models."""
        parts = [self._segment(cells, steps, finished) for steps in self._segments(cells)]
        slowest = cells.slowest
        values, points = (torch.cat(column, 1) for column in zip(*parts, strict=True))
        return values, points, slowest, torch.zeros_like(slowest)

    def _segments(self, cells: HeavisideCells) -> tuple[Tensor, ...]:
        """Segments of steps where the closed forms answer each step by itself, else all steps."""
        width = cells.decay.shape[1]
        return self.steps.split(max(1, self._numbers // width)) if cells.is_closed else (self.steps,)

    def _segment(self, cells: HeavisideCells, steps: Tensor, finished: Finished) -> tuple[Tensor, Tensor]:
        models = cells.cells.count
        if cells.cells.is_linear and self.inputs is None:
            best = linear_supremum(cells.kernel(steps), self.domain)
            finished(1)
            return best.values, best.points
        chunk = max(1, self._numbers // (models * len(steps) * _held(cells)))

        def response(inputs: Tensor) -> Tensor:
            return cells.increments(inputs, steps)

        best = self._supremum(response, models, chunk, finished, odd=cells.is_odd, effort=_effort(cells))
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
        before = self._at_rest(parameters)
        largest = torch.zeros((), dtype=torch.float64, device=self.device)

        def response(inputs: Tensor) -> Tensor:
            nonlocal largest
            y = self._outputs(parameters, inputs[0])
            largest = torch.maximum(largest, y.abs().max())
            earlier = torch.where(self.steps[:, None] > 0, y[:, (self.steps - 1).clamp(min=0)], before)
            return ((y[:, self.steps] - earlier) / self.dt)[None]

        wide = max((length for p in self.model.parameters() for length in p.shape), default=1)
        chunk = max(1, self._numbers // (self._length * max(wide, self.size)))
        best = self._supremum(response, 1, chunk, finished, odd=False, effort=SHARED)
        size = best.points.abs().amax() + NORMS[self.domain.norm]
        floor = _ROUNDING * torch.finfo(torch.float64).eps * largest / self.dt / size
        return best.values, best.points, self._slowest(parameters), floor[None]

    def _slowest(self, parameters: Parameters) -> Tensor:
        """(1,); NaN for modules other than one layer of ours."""
        if not is_plain(self.model):
            return torch.full((1,), torch.nan, dtype=torch.float64, device=self.device)
        return slowest_decay(self.model, parameters)

    @property
    def _length(self) -> int:
        return int(self.steps[-1]) + 1

    def _outputs(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        """Outputs (n, T, p) of one copy under Heaviside inputs (n, d)."""
        x = inputs[:, None].expand(-1, self._length, -1)
        with self._moved(parameters):
            y = first_tensor(self.model(x))
        if y.shape[:2] != x.shape[:2]:
            raise ValueError(f"model must map {tuple(x.shape)} to (N, T, p) of the same N and T, got {tuple(y.shape)}")
        return y

    def _moved(self, parameters: Parameters) -> OtherTensors:
        """The module as one copy of it, in float64."""
        return OtherTensors(self.model, {name: value[0] for name, value in parameters.items()}, dtype=torch.float64)

    def _silence(self, parameters: Parameters) -> Tensor:
        """Outputs (T, p) of one copy under zero input."""
        return self._outputs(parameters, torch.zeros(1, self.size, dtype=torch.float64, device=self.device))[0]

    def _at_rest(self, parameters: Parameters) -> Tensor:
        """y[-1], (p,) or a number: what our models read out of the state 0; a module's constant answer to 0, or 0."""
        if self.rest is not None:
            rest = torch.as_tensor(self.rest, dtype=torch.float64, device=self.device)
            outputs = self._silence(parameters).shape[1]
            if rest.dim() and len(rest) != outputs:
                raise ValueError(f"initial_output must have {outputs} numbers or one, got {len(rest)}")
            return rest
        if reads_out_states(self.model):
            return self._read_out_of_rest(self.model, parameters)
        silence = self._silence(parameters)
        return silence[0] if _is_constant(silence) else torch.zeros_like(silence[0])

    def _read_out_of_rest(self, model: RNNFunctional, parameters: Parameters) -> Tensor:
        """The output of the state 0, (p,)."""
        width = model.rnn.hidden_size * (2 if model.rnn.bidirectional else 1)
        with self._moved(parameters):
            rest: Tensor = model.readout(torch.zeros(1, 1, width, dtype=torch.float64, device=self.device))
        return rest[0, 0]


def _effort(cells: HeavisideCells) -> Effort:
    """Of the search: a closed form answers one input per step."""
    return PAIRED if cells.is_closed else SHARED


def _held(cells: HeavisideCells) -> int:
    """Numbers that are held per model, input and step: states of all units where each step is answered by itself."""
    return cells.decay.shape[1] if cells.is_closed else cells.cells.readout.shape[1]


def linear_supremum(kernel: Tensor, domain: Domain) -> Best:
    """The exact sup for linear models.

        M = max over r in {smallest, largest} and outputs q of (r |kappa_q|_1 + |kb_q|) / (r + {0 or 1})

    The ratio is monotone in r, and corners of the cube |x|_inf = r maximise its numerator.

    Args:
        kernel: (K, p, d + 1, S), see `HeavisideCells.kernel`.
        domain: smallest and largest r.
    """
    kappa, constant = kernel[:, :, :-1], kernel[:, :, -1]
    best = None
    for size in (domain.largest, domain.smallest):
        ratio = (size * kappa.abs().sum(2) + constant.abs()) / (size + NORMS[domain.norm])
        values, output = torch.where(ratio.isnan(), torch.inf, ratio).max(1)
        index = output[:, None, None].expand(-1, 1, kappa.shape[2], -1)
        signs = _sign(kappa.gather(1, index)[:, 0]) * _sign(constant.gather(1, output[:, None]))
        points = size * signs.mT
        better = None if best is None else best.improved(values[:, None], points[:, None])
        best = Best(values, points) if better is None else better
    assert best is not None
    return best


def _sign(values: Tensor) -> Tensor:
    return torch.where(values < 0, -1.0, 1.0).to(values.dtype)


def _is_constant(outputs: Tensor) -> bool:
    """Whether outputs (T, p) do not change in time."""
    spread = (outputs - outputs[:1]).abs().max()
    return bool(spread <= _AT_REST * outputs.abs().max())


def _each(parameters: Parameters) -> Iterator[Parameters]:
    """The copies one by one; a module without parameters has one."""
    count = min((len(value) for value in parameters.values()), default=1)
    for k in range(count):
        yield {name: value[k : k + 1] for name, value in parameters.items()}

"""How any module answers a Heaviside input: differences of its outputs, in float64."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from cofm_triton.layers.rnn_functional import RNNFunctional, is_plain, reads_out_states
from cofm_triton.memory.diagonal import slowest_decay
from cofm_triton.modules.calls import check_separate, first_tensor
from cofm_triton.modules.module_state import EvaluationMode, OtherTensors

Parameters = Mapping[str, Tensor]

_PROBED = 16  # steps on which a module shows whether it takes sequences one by one
_ROUNDING = 64  # units in the last place by which outputs may be off
_AT_REST = 1e-12  # relative change of the answer to zero input that is rounding


class ModuleAnswers:
    """Answers of copies of a module.

    Args:
        model: maps (N, T, d) to (N, T, p) or to a tuple that starts with it.
        size: d.
        steps: (S,) int64, ascending from 0.
        dt: step, time.
        rest: y[-1] of a module that is no `RNNFunctional`, a number or (p,); None: see `at_rest`.
        warm_up: steps of zero input before step 0, >= 0.
    """

    def __init__(
        self, model: nn.Module, size: int, steps: Tensor, dt: float, rest: Tensor | float | None, warm_up: int = 0
    ) -> None:
        self.model, self.size, self.steps, self.dt, self.rest, self.warm_up = model, size, steps, dt, rest, warm_up
        self.length = int(steps[-1]) + 1

    def check(self, radius: float) -> None:
        """Raises ValueError unless the module takes sequences one by one."""
        x = torch.tensor([0.0, radius], dtype=torch.float64, device=self.steps.device)
        x = x[:, None, None].expand(-1, min(self.length, _PROBED), self.size)
        check_separate("model", self.model, x, torch.float64)

    @torch.no_grad()
    def is_biased(self, parameters: Parameters) -> bool:
        """Whether the answer of any of K copies does not vanish with the input."""
        with EvaluationMode(self.model):
            return any(not _is_constant(self._silence(some)) for some in each_copy(parameters))

    def at_rest(self, parameters: Parameters) -> Tensor:
        """y[-1], (p,) or a number.

        The last output of a warm-up; without one, what our models read out of the state 0; a module's constant answer
        to 0, or 0.
        """
        if self.warm_up:
            return self._called(parameters, self._zeros(1, self.warm_up))[0, -1]
        if self.rest is not None:
            rest = torch.as_tensor(self.rest, dtype=torch.float64, device=self.steps.device)
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
            rest: Tensor = model.readout(torch.zeros(1, 1, width, dtype=torch.float64, device=self.steps.device))
        return rest[0, 0]

    def increments(self, parameters: Parameters, inputs: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """v of one copy at the steps, (n, S, p), for inputs (n, d) and y[-1]; and the largest output."""
        y = self._outputs(parameters, inputs)
        earlier = torch.where(self.steps[:, None] > 0, y[:, (self.steps - 1).clamp(min=0)], before)
        return (y[:, self.steps] - earlier) / self.dt, y.abs().max()

    def rounding(self, largest: Tensor) -> Tensor:
        """What of v is rounding where outputs are as large as that."""
        return _ROUNDING * torch.finfo(torch.float64).eps * largest / self.dt

    def slowest(self, parameters: Parameters) -> Tensor:
        """The smallest decay rate of the modes, (1,), 1 / time; NaN for modules other than one layer of ours."""
        if not is_plain(self.model):
            return torch.full((1,), torch.nan, dtype=torch.float64, device=self.steps.device)
        return slowest_decay(self.model, parameters)

    def _outputs(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        """Outputs (n, T, p) of one copy under Heaviside inputs (n, d)."""
        x = inputs[:, None].expand(-1, self.length, -1)
        if self.warm_up:
            x = torch.cat((self._zeros(len(x), self.warm_up), x), 1)
        return self._called(parameters, x)[:, self.warm_up :]

    def _called(self, parameters: Parameters, x: Tensor) -> Tensor:
        """Outputs (n, T, p) of one copy, for inputs (n, T, d)."""
        with self._moved(parameters):
            y = first_tensor(self.model(x))
        if y.shape[:2] != x.shape[:2]:
            raise ValueError(f"model must map {tuple(x.shape)} to (N, T, p) of the same N and T, got {tuple(y.shape)}")
        return y

    def _zeros(self, n: int, length: int) -> Tensor:
        return torch.zeros(n, length, self.size, dtype=torch.float64, device=self.steps.device)

    def _moved(self, parameters: Parameters) -> OtherTensors:
        """The module as one copy of it, in float64."""
        return OtherTensors(self.model, {name: value[0] for name, value in parameters.items()}, dtype=torch.float64)

    def _silence(self, parameters: Parameters) -> Tensor:
        """Outputs (T, p) of one copy under zero input."""
        return self._outputs(parameters, self._zeros(1, 1)[:, 0])[0]


def _is_constant(outputs: Tensor) -> bool:
    """Whether outputs (T, p) do not change in time."""
    spread = (outputs - outputs[:1]).abs().max()
    return bool(spread <= _AT_REST * outputs.abs().max())


def each_copy(parameters: Parameters) -> Iterator[Parameters]:
    """The copies one by one; a module without parameters has one."""
    count = min((len(value) for value in parameters.values()), default=1)
    for k in range(count):
        yield {name: value[k : k + 1] for name, value in parameters.items()}

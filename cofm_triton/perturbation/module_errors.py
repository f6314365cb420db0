"""Errors of copies of any module: it is called with other parameters, a few copies on a few sequences at a time.

Calls go through `torch.func.vmap`; how many copies and sequences a call takes, a measurement says (`batching.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from cofm_triton.modules.calls import outputs_of_copies, under_vmap
from cofm_triton.modules.module_state import EvaluationMode
from cofm_triton.perturbation.batching import fitting
from cofm_triton.perturbation.quadratic_form import Loss, Metric, is_sup, step_weights
from cofm_triton.support.progress import Finished

Parameters = Mapping[str, Tensor]

STEERING_SEQUENCES = 64  # enough to point an ascent uphill
_SEQUENCES = 256  # per call


def log_gradients(errors: Callable[[Parameters], Tensor], parameters: Parameters) -> tuple[Tensor, Parameters]:
    """Errors of K copies, and the derivatives of their logarithms by the parameters.

    Args:
        errors: (K,), differentiable in what it is given.
        parameters: {name: (K, *shape)}.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    with torch.enable_grad():
        found = errors(leaves)
        total = torch.log(found.clamp(min=torch.finfo(found.dtype).tiny)).sum()
        gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    filled = (
        torch.zeros_like(leaf) if gradient is None else gradient
        for gradient, leaf in zip(gradients, leaves.values(), strict=True)
    )
    return found.detach(), dict(zip(leaves, filled, strict=True))


class ModuleErrors:
    """Errors of modules on fixed data.

    Args:
        inputs: (N, T, d).
        targets: (N, T, p).
        metric: as for `ErrorEvaluator`.
        memory_limit: bytes that copies may take at a time.
    """

    def __init__(self, inputs: Tensor, targets: Tensor, metric: Metric, memory_limit: int) -> None:
        self.inputs, self.targets, self.metric, self.memory_limit = inputs, targets, metric, memory_limit
        self._measured: WeakKeyDictionary[nn.Module, dict[tuple[int, bool], tuple[int, int]]] = WeakKeyDictionary()

    def __call__(self, model: nn.Module, parameters: Parameters, finished: Finished) -> Tensor:
        """Chunks of models times chunks of sequences, (K,) float64 sums over both."""
        errors = []
        with EvaluationMode(model), under_vmap():
            for some, n in self._copies_for_errors(model, parameters):
                batches = zip(self.inputs.split(n), self.targets.split(n), strict=True)
                parts = torch.stack([self._batch_errors(model, some, *batch) for batch in batches])
                errors.append(parts.amax(0) if is_sup(self.metric) else parts.sum(0))
                finished(parts.shape[1])
        return torch.cat(errors)

    def gradient(self, model: nn.Module, parameters: Parameters) -> tuple[Tensor, Parameters]:
        """`log_gradients` of the errors on the first `STEERING_SEQUENCES`; of the mean square for "sup"."""
        with EvaluationMode(model), under_vmap():
            parts = [self._steer(model, some) for some, _ in self._copies_for_gradients(model, parameters)]
        errors, gradients = zip(*parts, strict=True)
        return torch.cat(errors), {name: torch.cat([part[name] for part in gradients]) for name in parameters}

    def check_memory(self, model: nn.Module, *, gradient: bool) -> None:
        """Raises ValueError if one copy on one sequence takes more than `memory_limit`, also with its gradient."""
        one = {name: value.detach().double()[None] for name, value in model.named_parameters()}
        with EvaluationMode(model), under_vmap():
            with torch.no_grad():
                next(self._copies_for_errors(model, one))
            if gradient:
                next(self._copies_for_gradients(model, one))

    def _copies_for_errors(self, model: nn.Module, parameters: Parameters) -> Iterator[tuple[Parameters, int]]:
        """Copies that are computed together, and on how many sequences at a time."""

        def compute(some: Parameters, sequences: int) -> Tensor:
            return self._batch_errors(model, some, self.inputs[:sequences], self.targets[:sequences])

        return self._some_copies(model, compute, parameters, min(len(self.inputs), _SEQUENCES))

    def _copies_for_gradients(self, model: nn.Module, parameters: Parameters) -> Iterator[tuple[Parameters, int]]:
        """Copies that are differentiated together, on all steering sequences at once."""
        sequences = min(len(self.inputs), STEERING_SEQUENCES)
        return self._some_copies(model, partial(self._steer, model), parameters, sequences, divisible=False)

    def _some_copies(
        self,
        model: nn.Module,
        compute: Callable[[Parameters, int], object],
        parameters: Parameters,
        sequences: int,
        *,
        divisible: bool = True,
    ) -> Iterator[tuple[Parameters, int]]:
        """As many copies at a time as memory takes, and for how many sequences at a time.

        Args:
            model: whose copies they are; its memory is measured once, however many steps an ascent takes.
            compute: what is done with some copies, on the first so many sequences.
            parameters: {name: (K, *shape)}.
            sequences: the most at a time.
            divisible: whether fewer will do.
        """
        one = {name: value[:1] for name, value in parameters.items()}
        measured = self._measured.setdefault(model, {})
        if (sequences, divisible) not in measured:
            measured[sequences, divisible] = fitting(
                partial(compute, one), self.memory_limit, sequences, divisible=divisible
            )
        copies, together = measured[sequences, divisible]
        count = min((len(value) for value in parameters.values()), default=1)
        for first in range(0, count, copies):
            yield {name: value[first : first + copies] for name, value in parameters.items()}, together

    def _batch_errors(self, model: nn.Module, parameters: Parameters, inputs: Tensor, targets: Tensor) -> Tensor:
        """(K,): the summed share of the error, or the largest gap, of some sequences."""
        if callable(self.metric):
            return self._own_losses(self.metric, model, parameters, inputs, targets) * (len(inputs) / len(self.inputs))
        cast = {name: value.to(inputs) for name, value in parameters.items()}
        gaps = (outputs_of_copies(model, cast, inputs) - targets).double()
        if is_sup(self.metric):
            return gaps.abs().amax((1, 2, 3))
        weights = step_weights(inputs.shape[1], self.metric).to(gaps.device)
        total = (gaps * gaps * weights[:, None]).sum((1, 2, 3))
        return total / (len(self.targets) * targets.shape[2])

    def _own_losses(
        self, loss: Loss, model: nn.Module, parameters: Parameters, inputs: Tensor, targets: Tensor
    ) -> Tensor:
        """(K,) float64: the user's loss of every copy, one by one, for a loss need not know vmap."""
        cast = {name: value.to(inputs) for name, value in parameters.items()}
        outputs = outputs_of_copies(model, cast, inputs, sequence=False)
        return torch.stack([loss(output, targets).double().reshape(()) for output in outputs])

    def _steer(
        self, model: nn.Module, parameters: Parameters, sequences: int = STEERING_SEQUENCES
    ) -> tuple[Tensor, Parameters]:
        """Errors and gradients of copies that are computed together, on the first sequences."""
        inputs, targets = self.inputs[:sequences], self.targets[:sequences]
        if callable(self.metric):
            return log_gradients(
                partial(self._own_losses, self.metric, model, inputs=inputs, targets=targets), parameters
            )
        weights = steering_weights(inputs, targets, self.metric)

        def errors(some: Parameters) -> Tensor:
            cast = {name: value.to(inputs) for name, value in some.items()}
            gaps = (outputs_of_copies(model, cast, inputs) - targets).double()
            return (gaps * gaps * weights[:, None]).sum((1, 2, 3))

        return log_gradients(errors, parameters)


def steering_weights(inputs: Tensor, targets: Tensor, metric: Metric) -> Tensor:
    """What squares of gaps are multiplied by, (T,); those of the mean square for "sup"."""
    weights = step_weights(inputs.shape[1], "mse" if is_sup(metric) else metric).to(inputs.device) / len(inputs)
    return weights / targets.shape[2]

"""Errors of many parameter vectors of one model on the same data, by the fastest way there is.

    linear one-layer models             the quadratic form (`quadratic_form.py`), float64
    other one-layer models              the fused sweep (`ops/perturbation.py`)
    any other `torch.nn.Module`         calls of copies (`module_errors.py`)

A state that overflows in float32 is computed again in float64; what is still not finite counts as
an infinite error, so that no maximum can lose it.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import TypeGuard

import torch
from torch import Tensor, nn

from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.modules.calls import check_calls
from cofm_triton.ops.perturbation import is_compiled, sweep_errors, sweep_errors_and_gradients
from cofm_triton.perturbation.batching import check_memory_limit
from cofm_triton.perturbation.module_errors import STEERING_SEQUENCES, ModuleErrors, log_gradients, steering_weights
from cofm_triton.perturbation.quadratic_form import Loss, Metric, QuadraticForm, is_sup, step_weights
from cofm_triton.perturbation.stacking import is_stackable, stack, stack_together
from cofm_triton.step.activations import properties
from cofm_triton.step.stacked_cells import StackedCells
from cofm_triton.support.progress import Finished, ignore
from cofm_triton.support.scalars import check_choice
from cofm_triton.support.tensors import check_holds_numbers, check_tensor

METRICS = ("twe", "mse", "sup")

Parameters = Mapping[str, Tensor]


class ErrorEvaluator:
    """Errors of models on fixed data.

    Args:
        inputs: (N, T, d), float32 or float64, finite, N and T at least 1.
        targets: (N, T, p), of the same dtype and device; for a loss of one's own, (N, ...) of any dtype.
        metric: "twe" mean((v (yhat - y))^2) with temporal weights v, "mse", "sup" max|yhat - y|, or weights (T,) w of
            sum_k w_k mean((yhat_k - y_k)^2); or a loss (outputs, targets) -> scalar that is a mean over sequences.
        dtype: of the states of nonlinear one-layer models; None: that of the inputs.
        memory_limit: bytes that copies of any other module may take at a time; None:
            `batching.DEFAULT_LIMIT`.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        metric: Metric,
        dtype: torch.dtype | None = None,
        memory_limit: int | None = None,
    ) -> None:
        own = callable(metric)
        _check_data(inputs, targets, own=own)
        if isinstance(metric, Tensor):
            step_weights(inputs.shape[1], metric)
        elif not own:
            check_choice("metric", metric, METRICS)
        if dtype not in (None, torch.float32, torch.float64):
            raise TypeError(f"dtype must be torch.float32, torch.float64 or None, got {dtype}")
        self.inputs, self.targets, self.metric = inputs.detach(), targets.detach(), metric
        self.dtype = dtype or inputs.dtype
        self._own = own
        self.memory_limit = check_memory_limit(memory_limit)

    @cached_property
    def quadratic_form(self) -> QuadraticForm:
        """The quadratic form of the data, made when the first linear model asks for it."""
        return QuadraticForm.from_data(self.inputs, self.targets, metric=self.metric)

    @cached_property
    def _modules(self) -> ModuleErrors:
        """What computes modules that are called, made when the first one comes."""
        return ModuleErrors(self.inputs, self.targets, self.metric, self.memory_limit)

    @property
    def zero_error(self) -> float:
        """Error of the model that is always zero: what other errors are relative to."""
        if is_sup(self.metric):
            return float(self.targets.abs().max())
        weights = step_weights(self.targets.shape[1], self.metric).to(self.targets.device)
        return float((self.targets.double().square().mean((0, 2)) * weights).sum())

    def _stacks(self, model: nn.Module) -> TypeGuard[RNNFunctional]:
        """Whether its errors are computed without calling it."""
        return not self._own and is_stackable(model)

    def depends_on_threads(self, model: nn.Module) -> bool:
        """Whether the last bits of the errors follow `torch.get_num_threads()`: not those of the compiled sweep."""
        is_linear = (
            isinstance(model, RNNFunctional)
            and properties(model.rnn.nonlinearity).is_linear
            and not is_sup(self.metric)
        )
        in_pairs = is_stackable(model) and model.rnn.oscillating  # whose errors PyTorch sums
        return is_linear or in_pairs or not self._stacks(model) or not is_compiled(self.inputs.device)

    def check(self, model: nn.Module) -> None:
        """Raises TypeError or ValueError unless the model maps the inputs to the targets' shape."""
        output = check_calls("models", model, self.inputs, alone=not is_stackable(model), sequence=not self._own)
        if callable(self.metric):
            check_loss(self.metric, output, self.targets[:1])
        elif output.shape != self.targets[:1].shape:
            raise ValueError(
                f"targets must have the shape of the model's outputs, (N, T, p) = "
                f"{(len(self.inputs), *output.shape[1:])}, got {tuple(self.targets.shape)}"
            )
        if next(model.parameters(), None) is None:
            raise ValueError(f"models must have parameters to perturb, got {type(model).__name__} without any")

    def check_memory(self, model: nn.Module, *, gradient: bool = False) -> None:
        """Raises ValueError if one copy of a model on one sequence takes more than `memory_limit`.

        Args:
            model: checked by `check`; models of one layer of ours are never too large.
            gradient: whether its errors are to be differentiated too.
        """
        if not self._stacks(model):
            self._modules.check_memory(model, gradient=gradient)

    def __call__(self, model: nn.Module, parameters: Parameters, finished: Finished = ignore) -> Tensor:
        """Errors of K copies of a model.

        Args:
            model: checked by `check`.
            parameters: {name: (K, *shape) float64}, every parameter of the model.
            finished: told how many copies are.

        Returns:
            (K,) float64 on the CPU, +inf where a state overflowed.
        """
        with torch.no_grad():
            if self._stacks(model):
                errors = self._stacked(stack(model, parameters), finished)
            else:
                errors = self._modules(model, parameters, finished)
        return _infinite_where_lost(errors)

    def of_family(self, family: Sequence[tuple[nn.Module, Parameters]], finished: Finished = ignore) -> list[Tensor]:
        """Errors of copies of several models; nonlinear one-layer models of any width are computed in one sweep.

        Args:
            family: models and the parameters of their copies, as for a call.
            finished: told how many copies are.

        Returns:
            What a call returns, for each model.
        """
        found: dict[int, Tensor] = {}
        with torch.no_grad():
            stacks = () if self._own else stack_together(family, linear=is_sup(self.metric))
            for indices, counts, cells in stacks:
                errors = _infinite_where_lost(self._stacked(cells, finished))
                found.update(zip(indices, errors.split(counts), strict=True))
        return [
            found[index] if index in found else self(model, parameters, finished)
            for index, (model, parameters) in enumerate(family)
        ]

    def gradient(self, model: nn.Module, parameters: Parameters) -> tuple[Tensor, Parameters]:
        """Errors of K copies of a model and the derivatives of their logarithms.

        Linear one-layer models use all sequences (the quadratic form holds them), all others the
        first `STEERING_SEQUENCES`, and the mean squared metric of the same weights for "sup".

        Args:
            model: as for a call.
            parameters: as for a call.

        Returns:
            (K,) float64 on the CPU, and {name: (K, *shape)}.
        """
        if self._stacks(model):
            errors, gradients = log_gradients(partial(self._steer, model), parameters)
        else:
            errors, gradients = self._modules.gradient(model, parameters)
        return _infinite_where_lost(errors), gradients

    def _steer(self, model: RNNFunctional, parameters: Parameters) -> Tensor:
        """Differentiable errors of K copies."""
        cells = stack(model, parameters)
        if cells.is_linear and not is_sup(self.metric):
            return self.quadratic_form.errors(cells)
        inputs, targets = self.inputs[:STEERING_SEQUENCES], self.targets[:STEERING_SEQUENCES]
        weights = steering_weights(inputs, targets, self.metric)
        return sweep_errors_and_gradients(cells, inputs.to(self.dtype), targets.to(self.dtype), weights)

    def _stacked(self, cells: StackedCells, finished: Finished) -> Tensor:
        if cells.is_linear and not is_sup(self.metric):
            errors = self.quadratic_form.errors(cells)
            finished(cells.count)
            return errors
        errors = self._swept(cells, self.dtype, finished)
        lost = ~errors.isfinite()
        if self.dtype == torch.float32 and bool(lost.any()):
            errors[lost] = self._swept(cells[lost], torch.float64, ignore)
        return errors

    def _swept(self, cells: StackedCells, dtype: torch.dtype, finished: Finished) -> Tensor:
        weights = None
        if not is_sup(self.metric):
            share = len(self.targets) * self.targets.shape[2]
            length = self.inputs.shape[1]
            weights = (step_weights(length, self.metric) / share).to(self.inputs.device)
        return sweep_errors(cells, self.inputs.to(dtype), self.targets.to(dtype), weights, finished)


def _infinite_where_lost(errors: Tensor) -> Tensor:
    """On the CPU, +inf where a state overflowed."""
    return torch.where(errors.isfinite(), errors, torch.inf).cpu()


def check_loss(loss: Loss, output: Tensor, targets: Tensor) -> None:
    """Raises TypeError unless a loss of one's own gives one real number."""
    value = loss(output, targets)
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
        given = f"a {value.dtype} tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"metric must return one real number, a 0-dimensional tensor, got {given}")


def _check_data(inputs: Tensor, targets: Tensor, *, own: bool) -> None:
    """Raises TypeError or ValueError unless the data are as they should be, targets only in number for an own loss."""
    for name, value in (("inputs", inputs), ("targets", targets)):
        check_tensor(name, value)
        check_holds_numbers(name, value)
        if own and name == "targets":
            if value.shape[:1] != inputs.shape[:1] or value.device != inputs.device:
                raise ValueError(
                    f"targets must have N = {len(inputs)} entries on the device of inputs, {inputs.device}, "
                    f"got {tuple(value.shape)} on {value.device}"
                )
            return
        if value.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name} must be float32 or float64, got {value.dtype}")
        if value.dim() != 3 or 0 in value.shape:
            raise ValueError(
                f"{name} must have three dimensions (N, T, channels), none empty, got {tuple(value.shape)}"
                + ": labels and last steps take a loss of yours, metric=..." * (name == "targets")
            )
        if not _is_finite(value):
            raise ValueError(f"{name} must be finite, got NaN or infinity")
    if inputs.shape[:2] != targets.shape[:2]:
        raise ValueError(
            f"targets must have the N and T of inputs, {tuple(inputs.shape[:2])}, got {tuple(targets.shape[:2])}"
        )
    if inputs.dtype != targets.dtype or inputs.device != targets.device:
        raise TypeError(
            f"targets must have the dtype and device of inputs, {inputs.dtype} on {inputs.device}, "
            f"got {targets.dtype} on {targets.device}"
        )


def _is_finite(values: Tensor) -> bool:
    """Whether every number is finite: they are if their sum is, and only a sum that overflows needs a closer look."""
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())

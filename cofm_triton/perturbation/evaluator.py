"""Errors of many parameter vectors of one model on the same data, by the fastest way there is.

    linear one-layer models             the quadratic form (`quadratic_form`), float64
    other one-layer models              the fused sweep: compiled, on GPUs in Triton, else in PyTorch
    any other `torch.nn.Module`         calls with other tensors (`module_state`) under `torch.func.vmap`

A state that overflows in float32 is computed again in float64; what is still not finite counts as
an infinite error, so that no maximum can lose it.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.backends import mha
from torch.func import vmap
from torch.nn.parameter import is_lazy

from cofm_triton.layers.stable_rnn import RNNFunctional
from cofm_triton.modules.module_state import EvaluationMode, OtherTensors, cast
from cofm_triton.perturbation.batching import check_memory_limit, fitting
from cofm_triton.perturbation.fused_sweep import is_compiled, sweep_errors, sweep_errors_and_gradients
from cofm_triton.perturbation.quadratic_form import QuadraticForm, step_weights
from cofm_triton.perturbation.stacking import has_modes, is_stackable, stack
from cofm_triton.step.stacked_cells import StackedCells, join
from cofm_triton.support.progress import Finished, ignore
from cofm_triton.support.scalars import check_choice

METRICS = ("twe", "mse", "sup")

STEERING_SEQUENCES = 64  # enough to point an ascent uphill
_SEQUENCES = 256  # per call of an arbitrary module

Parameters = Mapping[str, Tensor]


class ErrorEvaluator:
    """Errors of models on fixed data.

    Args:
        inputs: (N, T, d), float32 or float64, finite, N and T at least 1.
        targets: (N, T, p), of the same dtype and device.
        metric: "twe" mean((v (yhat - y))^2) with temporal weights v, "mse", or "sup" max|yhat - y|.
        dtype: of the states of nonlinear one-layer models; None: that of the inputs.
        memory_limit: bytes that copies of any other module may take at a time; None:
            `memory_limit.DEFAULT_LIMIT`.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        metric: str,
        dtype: torch.dtype | None = None,
        memory_limit: int | None = None,
    ) -> None:
        _check_data(inputs, targets)
        check_choice("metric", metric, METRICS)
        if dtype not in (None, torch.float32, torch.float64):
            raise TypeError(f"dtype must be torch.float32, torch.float64 or None, got {dtype}")
        self.inputs, self.targets, self.metric = inputs.detach(), targets.detach(), metric
        self.dtype = dtype or inputs.dtype
        self.memory_limit = check_memory_limit(memory_limit)
        self._measured: WeakKeyDictionary[nn.Module, dict[tuple[int, bool], tuple[int, int]]] = WeakKeyDictionary()

    @cached_property
    def quadratic_form(self) -> QuadraticForm:
        """The quadratic form of the data, made when the first linear model asks for it."""
        return QuadraticForm.from_data(self.inputs, self.targets, metric=self.metric)

    @property
    def zero_error(self) -> float:
        """Error of the model that is always zero: what other errors are relative to."""
        if self.metric == "sup":
            return float(self.targets.abs().max())
        weights = step_weights(self.targets.shape[1], self.metric).to(self.targets.device)
        return float((self.targets.double().square().mean((0, 2)) * weights).sum())

    def depends_on_threads(self, model: nn.Module) -> bool:
        """Whether the last bits of the errors follow `torch.get_num_threads()`: not those of the compiled sweep."""
        is_linear = isinstance(model, RNNFunctional) and model.rnn.nonlinearity == "linear" and self.metric != "sup"
        return is_linear or not is_stackable(model) or not is_compiled(self.inputs.device)

    def check(self, model: nn.Module) -> None:
        """Raises TypeError or ValueError unless the model maps the inputs to the targets' shape."""
        check_module("models", model)
        for name, parameter in model.named_parameters():
            if parameter.dtype != self.inputs.dtype or parameter.device != self.inputs.device:
                raise TypeError(
                    f"models must have the dtype and device of inputs ({self.inputs.dtype}, "
                    f"{self.inputs.device}), got {parameter.dtype}, {parameter.device} in {name}"
                )
        output = first_output("models", model, self.inputs[:1])
        if output.shape != self.targets[:1].shape:
            raise ValueError(
                f"targets must have the shape of the model's outputs, (N, T, p) = "
                f"{(len(self.inputs), *output.shape[1:])}, got {tuple(self.targets.shape)}"
            )
        if not is_stackable(model):
            check_separate("models", model, self.inputs[:2])
        if next(model.parameters(), None) is None:
            raise ValueError(f"models must have parameters to perturb, got {type(model).__name__} without any")

    def check_memory(self, model: nn.Module, *, gradient: bool = False) -> None:
        """Raises ValueError if one copy of a model on one sequence takes more than `memory_limit`.

        Args:
            model: checked by `check`; models of one layer of ours are never too large.
            gradient: whether its errors are to be differentiated too.
        """
        if is_stackable(model):
            return
        one = {name: value.detach().double()[None] for name, value in model.named_parameters()}
        with EvaluationMode(model), _under_vmap():
            with torch.no_grad():
                next(self._copies_for_errors(model, one))
            if gradient:
                next(self._copies_for_gradients(model, one))

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
            if not is_stackable(model):
                errors = self._any_module(model, parameters, finished)
            else:
                errors = self._stacked(stack(model, parameters), finished)
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
        joined: dict[tuple[object, ...], list[tuple[int, StackedCells]]] = {}
        for index, (model, parameters) in enumerate(family):
            if has_modes(model) and (model.rnn.nonlinearity != "linear" or self.metric == "sup"):
                with torch.no_grad():
                    cells = stack(model, parameters)
                joined.setdefault(cells.kind, []).append((index, cells))
            else:
                found[index] = self(model, parameters, finished)
        for members in joined.values():
            indices, parts = zip(*members, strict=True)
            with torch.no_grad():
                errors = _infinite_where_lost(self._stacked(join(parts), finished))
            found.update(zip(indices, errors.split([part.count for part in parts]), strict=True))
        return [found[index] for index in range(len(family))]

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
        sequences = min(len(self.inputs), STEERING_SEQUENCES)
        if is_stackable(model):
            return self._log_gradients(model, parameters, sequences)
        with EvaluationMode(model), _under_vmap():
            parts = [
                self._log_gradients(model, some, sequences) for some, _ in self._copies_for_gradients(model, parameters)
            ]
        errors, gradients = zip(*parts, strict=True)
        return torch.cat(errors), {name: torch.cat([part[name] for part in gradients]) for name in parameters}

    def _log_gradients(self, model: nn.Module, parameters: Parameters, sequences: int) -> tuple[Tensor, Parameters]:
        """The same for copies that are computed together, on the first sequences."""
        leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        with torch.enable_grad():
            errors = self._steering(model, leaves, slice(0, sequences))
            total = torch.log(errors.clamp(min=torch.finfo(errors.dtype).tiny)).sum()
            gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        filled = (
            torch.zeros_like(leaf) if gradient is None else gradient
            for gradient, leaf in zip(gradients, leaves.values(), strict=True)
        )
        return _infinite_where_lost(errors.detach()), dict(zip(leaves, filled, strict=True))

    def _steering(self, model: nn.Module, parameters: Parameters, few: slice) -> Tensor:
        """Differentiable errors of K copies."""
        metric = "mse" if self.metric == "sup" else self.metric
        inputs, targets = self.inputs[few], self.targets[few]
        weights = step_weights(inputs.shape[1], metric).to(inputs.device) / len(inputs)
        weights = weights / targets.shape[2]
        if is_stackable(model):
            cells = stack(model, parameters)
            if cells.is_linear and self.metric != "sup":
                return self.quadratic_form.errors(cells)
            return sweep_errors_and_gradients(cells, inputs.to(self.dtype), targets.to(self.dtype), weights)
        cast = {name: value.to(inputs) for name, value in parameters.items()}
        gaps = (outputs_of_copies(model, cast, inputs) - targets).double()
        return (gaps * gaps * weights[:, None]).sum((1, 2, 3))

    def _stacked(self, cells: StackedCells, finished: Finished) -> Tensor:
        if cells.is_linear and self.metric != "sup":
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
        if self.metric != "sup":
            share = len(self.targets) * self.targets.shape[2]
            length = self.inputs.shape[1]
            weights = (step_weights(length, self.metric) / share).to(self.inputs.device)
        return sweep_errors(cells, self.inputs.to(dtype), self.targets.to(dtype), weights, finished)

    def _any_module(self, model: nn.Module, parameters: Parameters, finished: Finished) -> Tensor:
        """Chunks of models times chunks of sequences; float64 sums over both."""
        errors = []
        with EvaluationMode(model), _under_vmap():
            for some, n in self._copies_for_errors(model, parameters):
                batches = zip(self.inputs.split(n), self.targets.split(n), strict=True)
                parts = torch.stack([self._batch_errors(model, some, *batch) for batch in batches])
                errors.append(parts.amax(0) if self.metric == "sup" else parts.sum(0))
                finished(parts.shape[1])
        return torch.cat(errors)

    def _copies_for_errors(self, model: nn.Module, parameters: Parameters) -> Iterator[tuple[Parameters, int]]:
        """Copies that are computed together, and on how many sequences at a time."""

        def compute(some: Parameters, sequences: int) -> Tensor:
            return self._batch_errors(model, some, self.inputs[:sequences], self.targets[:sequences])

        return self._some_copies(model, compute, parameters, min(len(self.inputs), _SEQUENCES))

    def _copies_for_gradients(self, model: nn.Module, parameters: Parameters) -> Iterator[tuple[Parameters, int]]:
        """Copies that are differentiated together, on all steering sequences at once."""
        sequences = min(len(self.inputs), STEERING_SEQUENCES)
        return self._some_copies(model, partial(self._log_gradients, model), parameters, sequences, divisible=False)

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
        cast = {name: value.to(inputs) for name, value in parameters.items()}
        gaps = (outputs_of_copies(model, cast, inputs) - targets).double()
        if self.metric == "sup":
            return gaps.abs().amax((1, 2, 3))
        weights = step_weights(inputs.shape[1], self.metric).to(gaps.device)
        total = (gaps * gaps * weights[:, None]).sum((1, 2, 3))
        return total / (len(self.targets) * targets.shape[2])


@contextmanager
def _under_vmap() -> Iterator[None]:
    """No word about operators that vmap runs one by one, and transformer layers without their fused form for
    inference, which has no derivative.
    """
    fused = mha.get_fastpath_enabled()
    try:
        mha.set_fastpath_enabled(False)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*performance drop.*")
            yield
    finally:
        mha.set_fastpath_enabled(fused)


def _infinite_where_lost(errors: Tensor) -> Tensor:
    """On the CPU, +inf where a state overflowed."""
    return torch.where(errors.isfinite(), errors, torch.inf).cpu()


def outputs_of_copies(model: nn.Module, parameters: Parameters, inputs: Tensor) -> Tensor:
    """Outputs (K, N, T, p) of K copies of any module, one after the other where vmap cannot.

    Args:
        model: maps (N, T, d) to (N, T, p) or to a tuple that starts with it.
        parameters: {name: (K, *shape)}.
        inputs: (N, T, d).
    """

    def run(values: dict[str, Tensor]) -> Tensor:
        with OtherTensors(model, values):
            return first_tensor(model(inputs))

    values = dict(parameters)
    try:
        return vmap(run)(values)
    except (RuntimeError, NotImplementedError, ValueError):
        # No batching rule, or data-dependent control flow; an error of the model itself comes
        # again from the loop, as it is.
        count = len(next(iter(values.values())))
        return torch.stack([run({n: v[k] for n, v in values.items()}) for k in range(count)])


def check_module(argument: str, model: object) -> None:
    """Raises TypeError or ValueError unless it is a module that can be called with other tensors, on (N, T, d)."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{argument} must be a torch.nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            given = f"{type(module).__name__} {name!r}" if name else type(module).__name__
            raise TypeError(f"{argument} must be a module that torch.jit has not compiled, got {given}")
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(value):
            raise ValueError(f"{argument} must have its weights: call it once before, got {name!r} not yet made")
    if getattr(model, "batch_first", True) is False:
        raise ValueError(f"{argument} must take (N, T, d): make it with batch_first=True, got batch_first=False")


@torch.no_grad()
def first_output(argument: str, model: nn.Module, inputs: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Output (N, T, p) of a module as it is, in evaluation mode.

    Args:
        argument: what the model is called.
        model: maps (N, T, d) to (N, T, p) or to a tuple that starts with it.
        inputs: (N, T, d).
        dtype: of the module's floating-point tensors during the call; None: their own.

    Raises:
        ValueError: another output, or a module that makes its parameters when it is called.
    """
    own = {name: cast(value, dtype).clone() for name, value in model.named_parameters()}
    with EvaluationMode(model), OtherTensors(model, own, dtype=dtype):
        output = first_tensor(model(inputs))
        made = [name for name, _ in model.named_parameters() if name not in own]
    if made:
        raise ValueError(f"{argument} must have its weights: call it once before, got {made[0]!r} not yet made")
    return output


def check_separate(argument: str, model: nn.Module, inputs: Tensor, dtype: torch.dtype | None = None) -> None:
    """Raises ValueError if a sequence's output depends on the others: as in a module that takes time first.

    Args:
        argument: what the model is called.
        model: maps (N, T, d) to (N, T, p).
        inputs: (N, T, d), the last of which is computed by itself too.
        dtype: as for `first_output`.
    """
    together, alone = (first_output(argument, model, x, dtype)[-1] for x in (inputs, inputs[-1:]))
    gap, size = (together - alone).abs().max(), together.abs().max()
    if bool(gap > math.sqrt(torch.finfo(gap.dtype).eps) * (1 + size)):
        raise ValueError(
            f"{argument} must map every sequence of (N, T, d) by itself, got outputs that depend on other sequences: "
            "is a layer in it made without batch_first=True?"
        )


def first_tensor(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The output sequence of a module that returns it alone or first in a tuple."""
    result = output[0] if isinstance(output, (tuple, list)) else output
    if not isinstance(result, Tensor) or result.dim() != 3:
        given = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise ValueError(f"models must map (N, T, d) to (N, T, p), got {given}")
    return result


def _check_data(inputs: Tensor, targets: Tensor) -> None:
    for name, value in (("inputs", inputs), ("targets", targets)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
        if value.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name} must be float32 or float64, got {value.dtype}")
        if value.dim() != 3 or 0 in value.shape:
            raise ValueError(
                f"{name} must have three dimensions (N, T, channels), none empty, got {tuple(value.shape)}"
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

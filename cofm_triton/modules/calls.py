"""A user's module, called: what it must be, its outputs, and those of copies of it with other parameters."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.backends import mha
from torch.func import vmap
from torch.nn.parameter import is_lazy

from cofm_triton.modules.module_state import EvaluationMode, OtherTensors


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
def first_output(
    argument: str, model: nn.Module, inputs: Tensor, dtype: torch.dtype | None = None, *, sequence: bool = True
) -> Tensor:
    """Output (N, T, p) of a module as it is, in evaluation mode.

    Args:
        argument: what the model is called.
        model: maps (N, T, d) to (N, T, p) or to a tuple that starts with it.
        inputs: (N, T, d).
        dtype: of the module's floating-point tensors during the call; None: their own.
        sequence: whether the output must be one, see `first_tensor`.

    Raises:
        ValueError: another output, or a module that makes its parameters when it is called.
    """
    names = {name for name, _ in model.named_parameters()}
    with EvaluationMode(model), OtherTensors(model, dtype=dtype):
        output = first_tensor(model(inputs), sequence=sequence)
        made = [name for name, _ in model.named_parameters() if name not in names]
    if made:
        raise ValueError(f"{argument} must have its weights: call it once before, got {made[0]!r} not yet made")
    return output


def check_calls(argument: str, model: nn.Module, inputs: Tensor, *, alone: bool, sequence: bool = True) -> Tensor:
    """Output (1, T, p) of a module as it is on the first sequence, once it is one that can be called on all.

    Args:
        argument: what the model is called.
        model: whose dtype and device are those of the inputs.
        inputs: (N, T, d).
        alone: whether to look if it maps every sequence by itself; ours do.
        sequence: whether the output must be one, see `first_tensor`.

    Raises:
        TypeError, ValueError: as `check_module`, `first_output`, `check_separate`; or another dtype or device.
    """
    check_module(argument, model)
    for name, parameter in model.named_parameters():
        if parameter.dtype != inputs.dtype or parameter.device != inputs.device:
            raise TypeError(
                f"{argument} must have the dtype and device of inputs ({inputs.dtype}, "
                f"{inputs.device}), got {parameter.dtype}, {parameter.device} in {name}"
            )
    output = first_output(argument, model, inputs[:1], sequence=sequence)
    if alone:
        check_separate(argument, model, inputs[:2], sequence=sequence)
    return output


def check_separate(
    argument: str, model: nn.Module, inputs: Tensor, dtype: torch.dtype | None = None, *, sequence: bool = True
) -> None:
    """Raises ValueError if a sequence's output depends on the others: as in a module that takes time first.

    Args:
        argument: what the model is called.
        model: maps (N, T, d) to (N, T, p).
        inputs: (N, T, d), the last of which is computed by itself too.
        dtype: as for `first_output`.
        sequence: as for `first_output`.
    """
    together, alone = (first_output(argument, model, x, dtype, sequence=sequence)[-1] for x in (inputs, inputs[-1:]))
    gap, size = (together - alone).abs().max(), together.abs().max()
    if bool(gap > math.sqrt(torch.finfo(gap.dtype).eps) * (1 + size)):
        raise ValueError(
            f"{argument} must map every sequence of (N, T, d) by itself, got outputs that depend on other sequences: "
            "is a layer in it made without batch_first=True?"
        )


def first_tensor(output: Tensor | tuple[Tensor, ...], *, sequence: bool = True) -> Tensor:
    """The output of a module that returns it alone or first in a tuple: (N, T, p), or any (N, ...) if no sequence."""
    result = output[0] if isinstance(output, (tuple, list)) else output
    if not isinstance(result, Tensor) or (result.dim() != 3 if sequence else not result.dim()):
        given = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise ValueError(f"models must map (N, T, d) to {'(N, T, p)' if sequence else '(N, ...)'}, got {given}")
    return result


def outputs_of_copies(
    model: nn.Module, parameters: Mapping[str, Tensor], inputs: Tensor, *, sequence: bool = True
) -> Tensor:
    """Outputs (K, N, T, p) of K copies of any module, one after the other where vmap cannot.

    Args:
        model: maps (N, T, d) to (N, T, p) or to a tuple that starts with it.
        parameters: {name: (K, *shape)}.
        inputs: (N, T, d).
        sequence: whether outputs must be one, see `first_tensor`.
    """

    def run(values: dict[str, Tensor]) -> Tensor:
        with OtherTensors(model, values):
            return first_tensor(model(inputs), sequence=sequence)

    values = dict(parameters)
    try:
        return vmap(run)(values)
    except (RuntimeError, NotImplementedError, ValueError):
        # No batching rule, or data-dependent control flow; an error of the model itself comes
        # again from the loop, as it is.
        count = len(next(iter(values.values())))
        return torch.stack([run({n: v[k] for n, v in values.items()}) for k in range(count)])


@contextmanager
def under_vmap() -> Iterator[None]:
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

"""Checks of a layer's options and arguments, in the words of `torch.nn.RNN` where it has some."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from cofm_triton.layers.autocast import autocasts
from cofm_triton.layers.recurrences.contract import Layer
from cofm_triton.layers.recurrences.table import recurrence
from cofm_triton.ops.backends import BACKENDS
from cofm_triton.ops.checks import check_resets
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.step.activations import properties
from cofm_triton.step.gates import GATES
from cofm_triton.support.scalars import as_bool, as_int, as_number, check_number, described
from cofm_triton.support.tensors import check_tensor


class Sizes(Protocol):
    """What arguments of a call have to fit to."""

    input_size: int
    hidden_size: int
    num_layers: int
    bidirectional: bool

    @property
    def weight_ih_l0(self) -> Tensor:
        """Of their device and dtype."""


def check_size(argument: str, value: Any) -> int:
    """A number of features, units or layers."""
    number = as_int(value)
    if number is None:
        raise TypeError(f"{argument} should be of type int, got: {described(value)}")
    if number <= 0:
        raise ValueError(f"{argument} must be greater than zero, got {number}")
    return number


def check_flag(argument: str, value: Any) -> bool:
    """True or False."""
    flag = as_bool(value)
    if flag is None:
        raise TypeError(f"{argument} should be of type bool, got: {described(value)}")
    return flag


def check_known(look_up: Callable[[str], object], name: str) -> str:
    """A name that a table has; `look_up` raises an error for others."""
    look_up(name)
    return name


def check_slopes(layer: Layer) -> None:
    """Inside a recurrence, act must contract; on its output it need not."""
    act = properties(layer.nonlinearity)
    if not recurrence(layer.recurrence).acts_on_output and not act.is_contracting:
        raise ValueError(
            f"nonlinearity={act.name!r} needs recurrence='ssm', which has it on the output: inside a "
            f"recurrence slopes must lie in [0, 1] for stability, got {list(act.slopes)}"
        )


def check_elementwise(layer: Layer, argument: str, value: Any) -> bool:
    """An option that elementwise recurrences have, on unless it is switched off."""
    is_elementwise = recurrence(layer.recurrence).is_elementwise
    if value is None:
        return is_elementwise
    flag = check_flag(argument, value)
    if flag and not is_elementwise:
        raise ValueError(f"{argument}=True needs recurrence 'ssm' or 'diagonal', got {layer.recurrence!r}")
    return flag


def check_learnable_dt(layer: Layer, value: Any, dt_min: Any, dt_max: Any) -> tuple[bool, float | None, float | None]:
    """`learnable_dt`, `dt_min` and `dt_max` of a layer that has `dt` and `normalize_input`."""
    if not (flag := check_flag("learnable_dt", value)):
        for name, bound in (("dt_min", dt_min), ("dt_max", dt_max)):
            if bound is not None:
                raise ValueError(f"{name} needs learnable_dt=True, got {bound!r}")
        return False, None, None
    check_elementwise(layer, "learnable_dt", flag)
    if layer.normalize_input == "paper":
        raise ValueError("learnable_dt=True needs normalize_input=True or False, got 'paper'")
    high = None if dt_max is None else check_number("dt_max", dt_max)
    low = None if dt_min is None else check_number("dt_min", dt_min)
    if low is not None and low > (high or layer.dt):
        raise ValueError(f"dt_min must be at most dt_max, {high or layer.dt!r}, got {low!r}")
    return True, low, high


def check_gated(layer: Layer, value: Any) -> bool | str:
    """`gated` of a layer that has its other options: False, or the name of the gates."""
    flag = None if isinstance(value, str) else as_bool(value)
    if flag is False:
        return False
    if flag is None and value not in GATES:
        raise ValueError(f"gated must be a bool or one of {GATES}, got {value!r}")
    needed = {"recurrence": "ssm", "discretization": "exact", "normalize_input": True, "learnable_dt": False}
    for name, accepted in needed.items():
        if getattr(layer, name) != accepted:
            raise ValueError(f"gated={value!r} needs {name}={accepted!r}, got {getattr(layer, name)!r}")
    return GATES[0] if flag else value


def check_normalization(layer: Layer, value: Any) -> bool | str:
    """`normalize_input` of a layer that has its other options."""
    if not isinstance(value, str):
        return check_elementwise(layer, "normalize_input", value)
    if value != "paper":
        raise ValueError(f"normalize_input must be a bool or 'paper', got {value!r}")
    if (layer.parameterization, layer.recurrence) != ("lru", "diagonal") or layer.oscillating:
        raise ValueError(
            "normalize_input='paper' needs parameterization='lru', recurrence='diagonal' and oscillating=False, "
            f"got {layer.parameterization!r}, {layer.recurrence!r} and {layer.oscillating}"
        )
    return value


def check_angle(max_angle: Any, largest: float) -> float:
    """The largest angle of a fresh pair, radians."""
    if max_angle is None:
        return largest
    max_angle = check_number("max_angle", max_angle)
    if max_angle > largest:
        raise ValueError(f"max_angle must be at most {largest:g} for this recurrence, got {max_angle!r}")
    return max_angle


def check_backend(backend: Any) -> str | None:
    """None or one of `BACKENDS`."""
    if backend is not None and backend not in BACKENDS:
        raise ValueError(f"backend must be None or one of {BACKENDS}, got {backend!r}")
    return backend


def check_dropout(dropout: Any, num_layers: int) -> float:
    """A probability, with a word where it does nothing."""
    share = as_number(dropout)
    if share is None or not 0 <= share <= 1:
        raise ValueError(
            "dropout should be a number in range [0, 1] representing the probability of an "
            f"element being zeroed, got {dropout!r}"
        )
    if share > 0 and num_layers == 1:
        warnings.warn(
            "dropout option adds dropout after all but last recurrent layer, so non-zero dropout "
            f"expects num_layers greater than 1, but got dropout={share} and num_layers=1",
            stacklevel=3,
        )
    return share


def check_direction(layer: Layer, method: str) -> None:
    """A layer that can go step by step."""
    if layer.bidirectional:
        raise ValueError(f"{method} needs bidirectional=False: the backward units need the future")


def check_step(layer: Layer, x: Tensor) -> None:
    """What can be said of a step's input before hooks have made weights; `forward` says the rest."""
    check_direction(layer, "step")
    _check_features(layer, x, (1, 2), "x", "a torch.Tensor")


def check_input(
    layer: Sizes, x: Tensor, dims: tuple[int, ...], name: str = "input", kinds: str = "a torch.Tensor or PackedSequence"
) -> None:
    """Input of so many dimensions that fits the layer's weights."""
    _check_features(layer, x, dims, name, kinds)
    check_place(layer.weight_ih_l0, x)


def fits(weight: Tensor, x: Tensor) -> bool:
    """Whether products of an input with a weight can be formed."""
    return x.device == weight.device and (x.dtype == weight.dtype or autocasts(x.device))


def check_place(weight: Tensor, x: Tensor) -> None:
    """Input on the device and of the dtype of a weight."""
    if x.device != weight.device:
        raise ValueError(f"StableRNN input device ({x.device}) does not match weight device ({weight.device})")
    if not fits(weight, x):
        raise ValueError(
            f"StableRNN input dtype ({x.dtype}) does not match weight dtype "
            f"({weight.dtype}). Convert input: input.to({weight.dtype}), or convert model: "
            f"model.to({x.dtype})"
        )


def _check_features(layer: Sizes, x: Tensor, dims: tuple[int, ...], argument: str, accepted: str) -> None:
    check_tensor(argument, x, accepted)
    if x.dim() not in dims:
        shapes = " or ".join(f"{dim}D" for dim in dims)
        raise ValueError(f"StableRNN: Expected {argument} to be {shapes}, got {x.dim()}D tensor instead")
    if x.shape[-1] != layer.input_size:
        raise ValueError(
            f"{argument}.size(-1) must be equal to input_size. Expected {layer.input_size}, got {x.shape[-1]}"
        )


def check_episodes(resets: Any, reset_to: Any, input: Tensor) -> None:
    """Resets that are None or fit to a checked input, (T, B, d), (B, T, d) or (T, d)."""
    if isinstance(resets, Tensor):
        given, shape = tuple(resets.shape), tuple(input.shape[:-1])
        if given != shape:
            raise ValueError(f"resets must have the shape of input without features, {shape}, got {given}")
        if input.dim() == 2:
            resets, input = resets.unsqueeze(0), input.unsqueeze(0)
    check_resets(resets, reset_to, input)


def check_state(layer: Sizes, hx: Tensor | None, x: Tensor, batch: int | None) -> None:
    """Check hx against the input x; `batch` is None for unbatched input."""
    if hx is None:
        return
    if not isinstance(hx, Tensor):
        raise TypeError(f"hx must be a torch.Tensor or None, got {type(hx).__name__}")
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    sizes = () if batch is None else (batch,)
    expected = (count, *sizes, layer.hidden_size)
    if hx.dim() != len(expected):
        kind = "unbatched" if batch is None else "batched"
        raise ValueError(f"For {kind} input, hx should be {len(expected)}-D but got {hx.dim()}-D tensor")
    if tuple(hx.shape) != expected:
        raise ValueError(f"Expected hidden size of hx {expected}, got {list(hx.shape)}")
    if hx.device != x.device:
        raise ValueError(f"hx must be on the input's device {x.device}, got {hx.device}")
    state = state_dtype(x.dtype)
    if hx.dtype not in (x.dtype, state) and not autocasts(x.device):
        accepted = str(x.dtype) if x.dtype == state else f"{x.dtype}, or that of its states, {state}"
        raise ValueError(f"hx must have the input's dtype, {accepted}, got {hx.dtype}")

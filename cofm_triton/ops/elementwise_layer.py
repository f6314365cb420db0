"""One direction of an elementwise layer at once: coefficients, encoder, scan and the output's act in one
`autograd.Function`, on GPUs.

    h = scan(gain (U x + b)),   output = h or act(h)

One by one, each part has a node in autograd's graph, at every call, which takes the host as long as some launches. Here
all that a pass does is one launch plan (`launch_plan.py`). Second derivatives and what is no plain eager code take the
parts one by one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import parametrize

from cofm_triton.ops.backends import implementation, lanes, num_sms, on_device
from cofm_triton.ops.derivatives import differentiating, exporting, is_plain, keeps
from cofm_triton.ops.launch_plan import Planned, Signature, signature
from cofm_triton.ops.linear_scan import apply_linear_scan
from cofm_triton.ops.mode_coefficients import Kind, composed_coefficients, empty_gradients, kind_of, parts_of
from cofm_triton.ops.paired_rnn_scan import apply_paired_rnn_scan
from cofm_triton.ops.rnn_scan import apply_rnn_scan
from cofm_triton.step.activation import activation
from cofm_triton.step.coefficients import Options
from cofm_triton.step.parameterizations import PARAMETERIZATIONS

_DTYPES = (torch.float32, torch.float64)
_BACKEND = "triton"


class Inputs(NamedTuple):
    """What a layer's result depends on: x (B, T, d), U (D, d), b (D,), w (M,), frequency, log dt, h0 (B, D), and where
    episodes begin (B, T).
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    raw: Tensor
    free: Tensor | None
    log_dt: Tensor | None
    h0: Tensor | None
    resets: Tensor | None = None

    @property
    def numbers(self) -> tuple[Tensor | None, ...]:
        """All but the resets: what there are gradients of."""
        return self[:-1]


@dataclass(frozen=True, eq=False)  # equal to itself alone
class Known:
    """What calls of one kind and signature share, made once; it stands for them in the keys of plans.

    Attributes:
        kind: of the layer.
        fits: whether it is computed at once.
    """

    kind: Kind
    fits: bool


class Call(NamedTuple):
    """A call of a layer that is computed at once."""

    inputs: Inputs
    known: Known


_known: dict[tuple[Kind, Signature], Known] = {}
_MOST = 2**12  # entries, a kilobyte each
# The hooks that are about to see what is saved; a PyTorch that does not tell has some always.
_hooks: Any = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: True)


def at_once(options: Options, inputs: Inputs) -> Call | None:
    """The call, if `elementwise_layer` takes it, in Triton."""
    if (
        torch.compiler.is_compiling()
        or exporting()
        or differentiating()
        or getattr(parametrize, "_cache_enabled", False)
    ):
        return None
    key = signature(inputs)
    if key is None or torch.is_autocast_enabled(inputs.x.device.type):
        return None
    for tensor in inputs:
        if tensor is not None and tensor.is_neg():
            return None
    kind = kind_of(options, inputs.free)
    known = _known.get((kind, key))
    if known is None:
        if len(_known) >= _MOST:
            _known.clear()
        known = _known[kind, key] = Known(kind, _is_one(options, kind, inputs))
    return Call(inputs, known) if known.fits else None


def _is_one(options: Options, kind: Kind, inputs: Inputs) -> bool:
    """Whether kernels can do the layer: a known f, tensors that are plain, of one dtype, of shapes that fit."""
    x, weight, bias, raw, free, log_dt, h0, resets = inputs
    if (log_dt is not None and not kind.linear) or x.numel() == 0 or not _kernels().encodes(free, kind):
        return False
    modes = weight.shape[0] if free is None else weight.shape[0] // 2
    given = [tensor for tensor in (x, weight, bias, raw, free, log_dt, h0) if tensor is not None]
    alike = raw.dtype in _DTYPES and all(is_plain(tensor) and tensor.dtype == raw.dtype for tensor in given)
    whole = raw.shape[0] == modes and weight.shape[0] == (modes if free is None else 2 * modes)
    dense = all(tensor.is_contiguous() for tensor in (raw, free, log_dt, bias) if tensor is not None)
    known = options.parameterization in PARAMETERIZATIONS and (resets is None or is_plain(resets))
    return alike and whole and dense and known


def elementwise_layer(options: Options, call: Call, reset_to: str, act: str | None) -> tuple[Tensor, Tensor]:
    """The output (B, T, D), act of the states if it is given, and the last state (B, D), differentiable."""
    output, last = _Layer.apply(*call.inputs, (call.known, options, reset_to, act, keeps(*call.inputs.numbers)))
    return output, last


def composed_layer(options: Options, inputs: Inputs, reset_to: str) -> tuple[Tensor, Tensor]:
    """The same by its parts, differentiable to any order."""
    first, second = composed_coefficients(options, inputs.raw, inputs.free, inputs.log_dt)
    weight, bias = inputs.weight, inputs.bias
    if second is not None:
        weight, bias = second.unsqueeze(1) * weight, None if bias is None else second * bias
    e = F.linear(inputs.x, weight, bias)
    if kind_of(options, inputs.free).linear:
        return apply_linear_scan(e, first, inputs.h0, None, False, _BACKEND, inputs.resets, reset_to)
    kinds = (options.dt, options.nonlinearity, _BACKEND)
    episodes: dict[str, Any] = dict(resets=inputs.resets, reset_to=reset_to)
    if inputs.free is None:
        return apply_rnn_scan(e, first, inputs.h0, None, *kinds, **episodes)
    return apply_paired_rnn_scan(e, first[0], first[1], inputs.h0, None, *kinds, **episodes)


def composed_output(
    options: Options, inputs: Inputs, reset_to: str, act: str | None
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`composed_layer` with act of the states."""
    h, last = composed_layer(options, inputs, reset_to)
    return h if act is None else activation(act)(h), last


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, raw: Tensor, free: Tensor | None, log_dt: Tensor | None,
    h0: Tensor | None, resets: Tensor | None, kind: Kind, nonlinearity: str, reset_to: str, act: str | None, keep: bool,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Output and last state, and what the backward pass reads: the states where they are not the output, e, U with the
    gain, and the coefficients.
    """
    kernels, modes = _kernels(), raw.shape[0]
    layout = kernels.layout(free, kind, keep)
    made = raw.new_empty(layout.room(modes, raw.element_size()), dtype=torch.float64)
    first, second = layout.parts(made, modes, raw.dtype)
    encoder: tuple[Any, ...] = ()
    gained, gained_bias = weight, bias
    if second is not None:
        gained, gained_bias = weight.new_empty(weight.shape), None if bias is None else bias.new_empty(bias.shape)
        encoder = (weight, bias, gained, gained_bias)
    kernels.forward(raw, free, log_dt, made, kind, keep, *encoder)
    e, start = F.linear(x, gained, gained_bias), None if h0 is None else h0.contiguous()
    options = _options(x, kind, free, nonlinearity, resets, reset_to)
    h, last = _scan(kind, free).forward(e, *_taken(first, kind, free), start, None, **options)
    output = h if act is None else activation(act)(h)
    return output, last, None if act is None else h, None if kind.linear else e, gained, made


def _kernels() -> Any:
    return implementation(_BACKEND, "mode_coefficients")


def _scan(kind: Kind, free: Tensor | None) -> Any:
    """The module that runs the recurrence of a kind."""
    name = "linear_scan" if kind.linear else "rnn_scan" if free is None else "paired_rnn_scan"
    return implementation(_BACKEND, name)


def _options(
    x: Tensor, kind: Kind, free: Tensor | None, nonlinearity: str, resets: Tensor | None, reset_to: str
) -> dict[str, Any]:
    """Of either pass of that recurrence."""
    options: dict[str, Any] = dict(
        state_dtype=x.dtype, num_sms=num_sms(x.device), resets=None if resets is None else resets.contiguous(),
        reset_to=reset_to,
    )  # fmt: skip
    if kind.linear:
        return dict(options, reverse=False, lanes=lanes(x.device))
    options.update(dt=kind.dt, nonlinearity=nonlinearity)
    if free is None:
        return dict(options, parameterization="direct", discretization="euler")
    return dict(options, lanes=lanes(x.device))


def _taken(first: Tensor, kind: Kind, free: Tensor | None) -> tuple[Tensor, ...]:
    """The first coefficient as that recurrence takes it."""
    if free is None:
        return (first,)
    return (torch.view_as_complex(first),) if kind.linear else first.unbind()


def _backward(
    x: Tensor, weight: Tensor, bias: Tensor | None, raw: Tensor, free: Tensor | None, log_dt: Tensor | None,
    h0: Tensor | None, resets: Tensor | None, h: Tensor, e: Tensor | None, gained: Tensor, made: Tensor,
    grad_h: Tensor, grad_last: Tensor | None, kind: Kind, nonlinearity: str, reset_to: str, act: str | None,
    with_grad_x: bool,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Gradients by `Inputs.numbers`."""
    kernels = _kernels()
    first, second = kernels.layout(free, kind, True).parts(made, raw.shape[0], raw.dtype)
    h = h.contiguous()  # as it was, unless hooks on what is saved have changed that
    if act is not None:
        grad_h = implementation(_BACKEND, "activation_gradient").backward(grad_h, h, act)
    given = () if e is None else (e,)  # a linear scan's backward pass does without
    start, end = (None if states is None else states.contiguous() for states in (h0, grad_last))
    options = _options(x, kind, free, nonlinearity, resets, reset_to)
    grad_e, *pieces, grad_h0 = _scan(kind, free).backward(
        grad_h, end, *given, *_taken(first, kind, free), h, start, None, summed=False, **options
    )
    rows = grad_e.flatten(0, 1)
    grad_x = grad_e @ gained if with_grad_x else None
    grad_weight = rows.mT @ x.flatten(0, 1)
    grad_bias = None if bias is None else rows.sum(0)
    by_first = [piece.flatten(0, 1) for piece in pieces]
    if free is None:
        by_first.append(None)
    elif kind.linear:
        by_first = list(parts_of(by_first[0].unflatten(-1, (-1, 2)), True, True))
    encoder = () if second is None else (weight, bias, grad_weight, grad_bias)
    by_modes = empty_gradients(raw, free, log_dt)
    kernels.backward(*by_modes, *by_first, None, made, kind, *encoder)
    return grad_x, grad_weight, grad_bias, *by_modes, None if h0 is None else grad_h0


_forward_planned, _backward_planned = Planned(_forward), Planned(_backward)


def _places(tensors: Iterable[Tensor | None]) -> list[int | None]:
    """Where they lie."""
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        *tensors, (known, options, reset_to, act, keep) = inputs
        given = known.kind, options.nonlinearity, reset_to, act, keep
        with on_device(tensors[0].device):
            output, last, h, *made = _forward_planned.known((known, *given), *tensors, *given)
        ctx.save_for_backward(*tensors, output if h is None else h, *made)
        ctx.layer, ctx.places = (known, options, reset_to, act), None if _hooks(True) else _places(tensors)
        ctx.set_materialize_grads(False)
        return output, last

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        grad_output, grad_last = grads
        known, options, reset_to, act = ctx.layer
        tensors = ctx.saved_tensors
        inputs, h = Inputs(*tensors[:8]), tensors[8]
        if grad_output is None:
            if grad_last is None:
                return (None,) * 9
            grad_output = h.new_zeros(h.shape[-1:]).expand(h.shape)
        without = None, None  # resets and options
        if torch.is_grad_enabled():
            return *_differentiable_backward(options, inputs, reset_to, act, grad_output, grad_last), *without
        arguments = *tensors, grad_output, grad_last
        given = known.kind, options.nonlinearity, reset_to, act, ctx.needs_input_grad[0]
        # Hooks may give something else back than was saved, and `.data` of a parameter may be something else by now.
        key = signature(arguments[len(tensors) :] if ctx.places == _places(inputs) else arguments)
        with on_device(h.device):
            found = _backward_planned.known(None if key is None else (known, key, *given), *arguments, *given)
        return *found, *without


def _differentiable_backward(
    options: Options, inputs: Inputs, reset_to: str, act: str | None, grad_output: Tensor, grad_last: Tensor | None
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """The same by the parts."""

    def run(*there: Tensor) -> tuple[Tensor, ...]:
        rest = iter(there)
        given: list[Any] = [None if tensor is None else next(rest) for tensor in inputs.numbers]
        found = composed_output(options, Inputs(*given)._replace(resets=inputs.resets), reset_to, act)
        return found if grad_last is not None else found[:1]

    there = [tensor for tensor in inputs.numbers if tensor is not None]
    grads = (grad_output,) if grad_last is None else (grad_output, grad_last)
    found = iter(torch.func.vjp(run, *there)[1](grads))
    return tuple(None if tensor is None else next(found) for tensor in inputs.numbers)

"""One direction of an elementwise layer at once: coefficients, encoder and scan in one `autograd.Function`, on GPUs.

    h = scan(gain (U x + b))

One by one, each part has a node in autograd's graph, at every call, which takes the host as long as some launches. Here
all that a pass does is one launch plan (`launch_plan.py`). Second derivatives and what is no plain eager code take the
parts one by one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import parametrize

from cofm_triton.ops.backends import implementation, lanes, num_sms, on_device
from cofm_triton.ops.derivatives import is_plain, keeps
from cofm_triton.ops.launch_plan import Planned
from cofm_triton.ops.linear_scan import apply_linear_scan, linear_scan, linear_scan_backward
from cofm_triton.ops.mode_coefficients import (
    Kind,
    backward_coefficients,
    composed_coefficients,
    forward_coefficients,
    is_fused,
    kind_of,
)
from cofm_triton.ops.paired_rnn_scan import apply_paired_rnn_scan, backend_of
from cofm_triton.ops.rnn_scan import apply_rnn_scan, rnn_scan, rnn_scan_backward
from cofm_triton.step.coefficients import Options

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


def runs_at_once(options: Options, backend: str | None, inputs: Inputs) -> bool:
    """Whether `elementwise_layer` takes these inputs."""
    x, weight, bias, raw, free, log_dt, h0, resets = inputs
    if not is_fused(options, backend, raw, free, log_dt) or bool(getattr(parametrize, "_cache_enabled", False)):
        return False
    kind = kind_of(options, free)
    if kind.complex_gain or (log_dt is not None and not kind.linear) or x.numel() == 0:
        return False
    modes = weight.shape[0] if free is None else weight.shape[0] // 2
    given = [tensor for tensor in (x, weight, bias, h0) if tensor is not None]
    alike = raw.dtype in _DTYPES and all(is_plain(tensor) and tensor.dtype == raw.dtype for tensor in given)
    whole = raw.shape[0] == modes and weight.shape[0] == (modes if free is None else 2 * modes)
    alike = alike and (resets is None or is_plain(resets))
    return alike and whole and not torch.is_autocast_enabled(x.device.type)


def elementwise_layer(options: Options, inputs: Inputs, reset_to: str) -> tuple[Tensor, Tensor]:
    """All states (B, T, D) and the last one (B, D), differentiable; before the nonlinearity of the output."""
    kind = kind_of(options, inputs.free)
    keep = keeps(*[tensor for tensor in inputs.numbers if tensor is not None])
    h, last = _Layer.apply(*inputs, (kind, options, reset_to, keep))
    return h, last


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


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, raw: Tensor, free: Tensor | None, log_dt: Tensor | None,
    h0: Tensor | None, resets: Tensor | None, kind: Kind, nonlinearity: str, reset_to: str, keep: bool,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """h and the last state, and what the backward pass reads: e, U with the gain, both coefficients, their slopes."""
    first, second, slopes = forward_coefficients(raw, free, log_dt, kind, keep)
    gained = weight
    if second is not None:
        gained, bias = _gain().forward(weight, bias, second)
    e = F.linear(x, gained, bias)
    if kind.linear:
        h, last = linear_scan(e, _decay(first, free), h0, None, resets, False, reset_to, _BACKEND)
        return h, last, None, gained, first, second, slopes  # the scan's backward pass does without e
    if free is None:
        h, last = rnn_scan(e, first, h0, None, resets, kind.dt, nonlinearity, reset_to, _BACKEND, "auto")
    else:
        (pull, turn), start = first.unbind(), None if h0 is None else h0.contiguous()
        kinds = _of_pairs(e, kind, nonlinearity, resets, reset_to)
        h, last = backend_of(_BACKEND).forward(e, pull, turn, start, None, **kinds)
    return h, last, e, gained, first, second, slopes


def _gain() -> Any:
    return implementation(_BACKEND, "mode_coefficients_gain")


def _of_pairs(e: Tensor, kind: Kind, nonlinearity: str, resets: Tensor | None, reset_to: str) -> dict[str, Any]:
    device = e.device
    return dict(
        dt=kind.dt, nonlinearity=nonlinearity, state_dtype=e.dtype, num_sms=num_sms(device), lanes=lanes(device),
        resets=None if resets is None else resets.contiguous(), reset_to=reset_to,
    )  # fmt: skip


def _decay(first: Tensor, free: Tensor | None) -> Tensor:
    return first if free is None else torch.view_as_complex(first)


def _backward(
    x: Tensor, weight: Tensor, bias: Tensor | None, raw: Tensor, free: Tensor | None, log_dt: Tensor | None,
    h0: Tensor | None, resets: Tensor | None, h: Tensor, e: Tensor | None, gained: Tensor, first: Tensor,
    second: Tensor | None, slopes: Tensor, grad_h: Tensor, grad_last: Tensor | None, kind: Kind, nonlinearity: str,
    reset_to: str, with_grad_x: bool,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Gradients by `Inputs.numbers`."""
    if e is None:
        decay = _decay(first, free)
        found = linear_scan_backward(grad_h, grad_last, decay, h, h0, None, resets, False, reset_to, _BACKEND)
        grad_e, grad_first, grad_h0 = found
        grad_first = grad_first if free is None else torch.view_as_real(grad_first)
    elif free is None:
        kinds = (kind.dt, nonlinearity, reset_to, _BACKEND)
        found = rnn_scan_backward(grad_h, grad_last, e, first, h, h0, None, resets, *kinds)
        grad_e, grad_first, grad_h0 = found
    else:
        (pull, turn), end = first.unbind(), None if grad_last is None else grad_last.contiguous()
        start, pairs = None if h0 is None else h0.contiguous(), _of_pairs(e, kind, nonlinearity, resets, reset_to)
        grad_e, by_pull, by_turn, grad_h0 = backend_of(_BACKEND).backward(
            grad_h, end, e, pull, turn, h, start, None, **pairs
        )
        grad_first = torch.stack((by_pull, by_turn))
    rows = grad_e.flatten(0, 1)
    grad_x = (rows @ gained).view(x.shape) if with_grad_x else None
    grad_weight = rows.mT @ x.flatten(0, 1)
    grad_bias = None if bias is None else rows.sum(0)
    grad_second = None if second is None else _gain().backward(grad_weight, grad_bias, weight, bias, second)
    by_modes = backward_coefficients(raw, free, log_dt, grad_first, grad_second, slopes, kind)
    return grad_x, grad_weight, grad_bias, *by_modes, None if h0 is None else grad_h0


_forward_planned, _backward_planned = Planned(_forward), Planned(_backward)


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        *tensors, (kind, options, reset_to, keep) = inputs
        with on_device(tensors[0].device):
            h, last, *made = _forward_planned(*tensors, kind, options.nonlinearity, reset_to, keep)
        ctx.save_for_backward(*tensors, h, *made)
        ctx.layer = (kind, options, reset_to)
        ctx.set_materialize_grads(False)
        return h, last

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        grad_h, grad_last = grads
        kind, options, reset_to = ctx.layer
        tensors = ctx.saved_tensors
        inputs, h = Inputs(*tensors[:8]), tensors[8]
        if grad_h is None:
            if grad_last is None:
                return (None,) * 9
            grad_h = h.new_zeros(h.shape[-1:]).expand(h.shape)
        without = None, None  # resets and options
        if torch.is_grad_enabled():
            return *_differentiable_backward(options, inputs, reset_to, grad_h, grad_last), *without
        given = grad_h, grad_last, kind, options.nonlinearity, reset_to, ctx.needs_input_grad[0]
        with on_device(h.device):
            return *_backward_planned(*tensors, *given), *without


def _differentiable_backward(
    options: Options, inputs: Inputs, reset_to: str, grad_h: Tensor, grad_last: Tensor | None
) -> tuple[Tensor | None, ...]:
    """The same by the parts."""

    def run(*there: Tensor) -> tuple[Tensor, ...]:
        rest = iter(there)
        given: list[Any] = [None if tensor is None else next(rest) for tensor in inputs.numbers]
        found = composed_layer(options, Inputs(*given)._replace(resets=inputs.resets), reset_to)
        return found if grad_last is not None else found[:1]

    there = [tensor for tensor in inputs.numbers if tensor is not None]
    found = iter(torch.func.vjp(run, *there)[1]((grad_h,) if grad_last is None else (grad_h, grad_last)))
    return tuple(None if tensor is None else next(found) for tensor in inputs.numbers)

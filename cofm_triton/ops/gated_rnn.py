"""`cofm_triton::gated_rnn`: a linear recurrence whose gates are formed from logits inside the operator.

    h[t] = decay[t] * R h[t-1] + gain[t] * x[t],   decay[t] = exp(-rate * s[t]),   h[-1] = h0

Strength s and gain are made of logits p and q as `step/gates.py` says. R turns pairs of channels (2k, 2k + 1) by
`angle`, if it is given. Decays, gains and products are formed where they are used: none is ever stored.

Where derivatives are themselves differentiated (`create_graph=True`, `torch.func`) or taken forward, the same function
runs as gates and scan one after the other, `composed`, which PyTorch differentiates to any order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from cofm_triton.ops.backends import implementation, lanes, num_sms
from cofm_triton.ops.derivatives import directly, wanted
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.ops.linear_scan import apply_linear_scan
from cofm_triton.ops.pair_scan import pair_scan
from cofm_triton.ops.registration import register, register_derivative
from cofm_triton.ops.shapes import (
    empty_states,
    fold_batch,
    map_one_by_one,
    no_gradient,
    packed_starts,
    split_batch,
    start_gradient,
    start_gradient_of_nothing,
    states_of_nothing,
)
from cofm_triton.step.gates import Gates, coefficients, gates_of

# Tensors among the operator's arguments: x, rate_logit, input_logit, rate, angle, h0.
TENSORS = 6


class Backend(Protocol):
    """The module of a backend: both passes with T >= 1; rate, turn and what begins or ends a sequence in the state's
    dtype. q is None where the gates have none.

    turn is None or (2, D): `R h = turn[0] h + turn[1] swap(h)`, swap exchanges channels 2k and 2k + 1.
    """

    def forward(
        self, x: Tensor, p: Tensor, q: Tensor | None, rate: Tensor, turn: Tensor | None, h0: Tensor | None,
        seq_starts: Tensor | None, *, gates: Gates, resets: Tensor | None, reset_to: str, state_dtype: torch.dtype,
        num_sms: int, lanes: int,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """`(h, h_last)`, (B, T, D) in x's dtype and (S, D)."""

    def backward(
        self, grad_h: Tensor, grad_last: Tensor | None, x: Tensor, p: Tensor, q: Tensor | None, rate: Tensor,
        turn: Tensor | None, h: Tensor, h0: Tensor | None, seq_starts: Tensor | None, *,
        gates: Gates, resets: Tensor | None, reset_to: str, state_dtype: torch.dtype, num_sms: int, lanes: int,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor | None, Tensor]:  # fmt: skip
        """`(grad_x, grad_p, grad_q, grad_rate, grad_angle, grad_h0)`: like x, p and q, (D,), (D,) terms of which a pair
        has two, and (S, D).
        """


if TYPE_CHECKING:  # every backend has this signature
    from cofm_triton.cpu.blocked import gated_rnn as _blocked
    from cofm_triton.cpu.jit import gated_rnn as _jit
    from cofm_triton.kernels import gated_rnn as _kernels

    _BACKENDS: list[Backend] = [_kernels, _jit, _blocked]


def backend_of(backend: str) -> Backend:
    """What computes on a resolved backend."""
    module: Backend = implementation(backend, "gated_rnn")
    return module


def apply_gated_rnn(
    x: Tensor,
    rate_logit: Tensor,
    input_logit: Tensor | None,
    rate: Tensor,
    angle: Tensor | None,
    h0: Tensor | None,
    seq_starts: Tensor | None,
    gates: str,
    backend: str,
    resets: Tensor | None = None,
    reset_to: str = "h0",
) -> tuple[Tensor, Tensor]:
    """`(h, h_last)` for checked arguments: rate (D,) and angle (D // 2,) in the state's dtype, backend resolved."""
    tensors = (x, rate_logit, input_logit, rate, angle, h0)
    if not torch.compiler.is_compiling() and wanted():
        return composed(*tensors, seq_starts, resets, gates, reset_to, backend)
    call = gated_rnn_op if directly(*tensors) else _GatedRnn.apply
    results: tuple[Tensor, Tensor] = call(*tensors, seq_starts, resets, gates, reset_to, backend)
    return results


def composed(
    x: Tensor,
    rate_logit: Tensor,
    input_logit: Tensor | None,
    rate: Tensor,
    angle: Tensor | None,
    h0: Tensor | None,
    seq_starts: Tensor | None,
    resets: Tensor | None,
    gates: str,
    reset_to: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The same as gates in PyTorch and a scan: with all decays in memory, differentiable to any order."""
    if x.numel() == 0:
        return states_of_nothing(x, h0, seq_starts)
    state = state_dtype(x.dtype)
    q = None if input_logit is None else input_logit.to(state)
    decay, gain = coefficients(gates_of(gates), rate, rate_logit.to(state), q)
    drive, start = gain * x.to(state), None if h0 is None else h0.to(state)
    if angle is None:
        h, last = apply_linear_scan(drive, decay, start, seq_starts, False, backend, resets, reset_to)
    else:
        h, last = pair_scan(turned(decay, angle), drive, start, seq_starts, False, resets, reset_to)
    return h.to(x.dtype), last.to(x.dtype if h0 is None else h0.dtype)


def turned(decay: Tensor, angle: Tensor) -> Tensor:
    """What every step multiplies pairs by: (B, T, D // 2, 2, 2) of decays (B, T, D) and angles (D // 2,)."""
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.stack((torch.stack((cos, -sin), -1), torch.stack((sin, cos), -1)), -2)
    return decay.unflatten(-1, (-1, 2)).unsqueeze(-1) * matrix


def gated_rnn(
    x: Tensor,
    rate_logit: Tensor,
    input_logit: Tensor | None,
    rate: Tensor,
    angle: Tensor | None,
    h0: Tensor | None,
    seq_starts: Tensor | None,
    resets: Tensor | None,
    gates: str,
    reset_to: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The forward pass: h (B, T, D) in x's dtype, h_last (S, D) in h0's dtype, x's when h0 is None."""
    if x.numel() == 0:
        return states_of_nothing(x, h0, seq_starts)
    state = state_dtype(x.dtype)
    h, last = backend_of(backend).forward(
        x,
        rate_logit,
        input_logit,
        rate.contiguous(),
        _turn(angle),
        None if h0 is None else h0.to(state).contiguous(),
        packed_starts(seq_starts),
        gates=gates_of(gates),
        resets=None if resets is None else resets.contiguous(),
        reset_to=reset_to,
        state_dtype=state,
        num_sms=num_sms(x.device),
        lanes=lanes(x.device),
    )
    return h, last.to(x.dtype if h0 is None else h0.dtype)


def _gated_rnn_fake(
    x: Tensor, rate_logit: Tensor, input_logit: Tensor | None, rate: Tensor, angle: Tensor | None, h0: Tensor | None,
    seq_starts: Tensor | None, *options: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return empty_states(x, h0, seq_starts)


def gated_rnn_backward(
    grad_h: Tensor,
    grad_last: Tensor | None,
    x: Tensor,
    rate_logit: Tensor,
    input_logit: Tensor | None,
    rate: Tensor,
    angle: Tensor | None,
    h: Tensor,
    h0: Tensor | None,
    seq_starts: Tensor | None,
    resets: Tensor | None,
    gates: str,
    reset_to: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The adjoint: gradients of x, the logits, rate and angle like these, and grad_h0 (S, D) in the state's dtype.

    The gradient of what is None is empty.
    """
    state = state_dtype(x.dtype)
    if x.numel() == 0:
        grad_h0 = start_gradient_of_nothing(x, grad_last, seq_starts)
        no_p, no_q, no_rate, no_angle = (_zeros(tensor, rate) for tensor in (rate_logit, input_logit, rate, angle))
        return torch.empty_like(x), no_p, no_q, no_rate, no_angle, grad_h0
    grad_x, grad_p, grad_q, grad_rate, by_angle, grad_h0 = backend_of(backend).backward(
        grad_h,
        None if grad_last is None else grad_last.to(state).contiguous(),
        x,
        rate_logit,
        input_logit,
        rate.contiguous(),
        _turn(angle),
        h.contiguous(),
        None if h0 is None else h0.to(state).contiguous(),
        packed_starts(seq_starts),
        gates=gates_of(gates),
        resets=None if resets is None else resets.contiguous(),
        reset_to=reset_to,
        state_dtype=state,
        num_sms=num_sms(x.device),
        lanes=lanes(x.device),
    )
    grad_angle = None if by_angle is None else by_angle.unflatten(0, (-1, 2)).sum(1)
    grad_q = rate.new_empty(0) if grad_q is None else grad_q
    return grad_x, grad_p, grad_q, grad_rate, rate.new_empty(0) if grad_angle is None else grad_angle, grad_h0


def _gated_rnn_backward_fake(
    grad_h: Tensor, grad_last: Tensor | None, x: Tensor, rate_logit: Tensor, input_logit: Tensor | None, rate: Tensor,
    angle: Tensor | None, h: Tensor, h0: Tensor | None, seq_starts: Tensor | None, *options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    given = rate_logit, input_logit, rate, angle
    by_p, by_q, by_rate, by_angle = (rate.new_empty(0) if t is None else t.new_empty(t.shape) for t in given)
    return x.new_empty(x.shape), by_p, by_q, by_rate, by_angle, start_gradient(x, seq_starts)


def _zeros(tensor: Tensor | None, rate: Tensor) -> Tensor:
    return rate.new_empty(0) if tensor is None else torch.zeros_like(tensor)


def _turn(angle: Tensor | None) -> Tensor | None:
    """cos, and sin with the sign of its channel, (2, D)."""
    if angle is None:
        return None
    cos, sin = angle.double().cos(), angle.double().sin()
    return torch.stack((torch.stack((cos, cos), -1), torch.stack((-sin, sin), -1))).flatten(1).to(angle.dtype)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, seq_starts, resets, gates, reset_to, backend = inputs
    ctx.save_for_backward(*tensors, seq_starts, resets, output[0])
    ctx.options = (gates, reset_to, backend)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_h: Tensor | None, grad_last: Tensor | None) -> tuple[Tensor | None, ...]:
    *tensors, seq_starts, resets, h = ctx.saved_tensors
    nothing, options = (None,) * (TENSORS + 5), (seq_starts, resets, *ctx.options)
    if grad_h is None and grad_last is None:
        return nothing
    if grad_h is None:
        grad_h = no_gradient(h)
    if torch.is_grad_enabled():
        grads = _differentiable_backward(grad_h, grad_last, tensors, options)
    else:
        *first, h0 = tensors
        *grads, grad_h0 = gated_rnn_backward_op(grad_h, grad_last, *first, h, h0, *options)
        grads.append(None if h0 is None else grad_h0.to(h0.dtype))
    return *(None if t is None else grad for t, grad in zip(tensors, grads, strict=True)), *nothing[TENSORS:]


def _differentiable_backward(
    grad_h: Tensor, grad_last: Tensor | None, tensors: list[Tensor | None], options: tuple[Any, ...]
) -> list[Tensor | None]:
    """Gradients by all tensors that are given, as functions of them, by way of `composed`."""
    # Views, so that gradients stop at them, whatever the tensors were made of.
    views: list[Any] = [None if tensor is None else tensor.view_as(tensor) for tensor in tensors]
    tracked = [view for view in views if view is not None and view.requires_grad]
    arguments: list[Any] = [*views, *options]
    results: Any = composed(*arguments)
    weights = (grad_h, grad_last)
    pulled = [
        (result, weight.to(result.dtype))
        for result, weight in zip(results, weights, strict=True)
        if weight is not None and result.requires_grad
    ]
    if not pulled:  # nothing of h_last = h0 is asked for, and h has no numbers
        return [None] * len(views)
    outputs, weights = zip(*pulled, strict=True)
    found = iter(torch.autograd.grad(outputs, tracked, weights, create_graph=True, materialize_grads=True))
    return [next(found) if view is not None and view.requires_grad else None for view in views]


def _fold(arguments: tuple[Any, ...], in_dims: tuple[Any, ...], size: int, tensors: int) -> list[Any]:
    """A mapped axis of the first arguments joins the channels."""
    folded = [
        None if tensor is None else fold_batch(tensor, dim, size, True)
        for tensor, dim in zip(arguments[:tensors], in_dims, strict=False)
    ]
    return [*folded, *arguments[tensors:]]


def _gated_rnn_vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
    if in_dims[TENSORS + 1] is not None:  # channels share their resets
        return map_one_by_one(gated_rnn_op, info, in_dims, arguments)
    results = gated_rnn_op(*_fold(arguments, in_dims, info.batch_size, TENSORS))
    return tuple(split_batch(result, info.batch_size, True) for result in results), (0, 0)


def _gated_rnn_backward_vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
    size = info.batch_size
    if in_dims[TENSORS + 4] is not None:
        return map_one_by_one(gated_rnn_backward_op, info, in_dims, arguments)
    grads = gated_rnn_backward_op(*_fold(arguments, in_dims, size, TENSORS + 3))
    split = (g.new_empty((size, 0)) if g.numel() == 0 and g.dim() == 1 else split_batch(g, size, True) for g in grads)
    return tuple(split), (0,) * len(grads)


gated_rnn_op = register(gated_rnn, fake=_gated_rnn_fake, vmap=_gated_rnn_vmap)
gated_rnn_backward_op = register(
    gated_rnn_backward, fake=_gated_rnn_backward_fake, vmap=_gated_rnn_backward_vmap
)  # fmt: skip
_GatedRnn = register_derivative(gated_rnn_op, _setup_context, _backward, None)


def traffic(batch: int, length: int, channels: int, itemsize: int, *, gates: str, backward: bool) -> int:
    """Bytes that must move.

    Forward reads x and the logits and writes h; backward reads dh, x and the logits and writes their gradients: states
    are formed again from some of those that are stored.
    """
    logits = 2 if gates_of(gates).has_input_logit else 1
    elements = 3 + 2 * logits if backward else 2 + logits
    return elements * batch * length * channels * itemsize

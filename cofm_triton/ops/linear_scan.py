"""`cofm_triton::linear_scan`: registration with PyTorch, derivatives, traffic model.

    h[t] = decay[t] * h[t-1] + x[t],   h[-1] = h0

The decay is (D,), in the dtype of the state, or gates (B, T, D) of which any axis may have one entry in place of all:
backends read them where they are, and may leave the sum of their gradient over such an axis to the operator. A complex
decay of a real x is one number for a pair of neighbouring channels, D // 2 in place of D.

Resets (B, T) are True where a step goes on from h0 (`reset_to`: or zero) in place of the state before it, in the order
of the recurrence: that of the functions, moved by one step where the recurrence is reversed.

The adjoint of a scan is a scan in the other direction, and its tangent is a scan, which closes the operator under
differentiation: a backward pass that is itself differentiated (`create_graph=True`, `torch.func`) is written in terms
of `linear_scan`, any other one runs as one fused operator, `cofm_triton::linear_scan_backward`.

`torch.compile`, and eager code that can ask for no derivative, is given the registered operators; other eager code goes
through an `autograd.Function` around them, since PyTorch offers forward mode and `torch.func` for that only.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from cofm_triton.ops.backends import implementation, lanes, num_sms
from cofm_triton.ops.derivatives import directly, remember
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.ops.registration import register, register_derivative
from cofm_triton.ops.shapes import (
    empty_states,
    fold_batch,
    map_one_by_one,
    no_gradient,
    packed_starts,
    previous_states,
    resets_against,
    split_batch,
    start_gradient,
    start_gradient_of_nothing,
    start_gradients,
    states_of_nothing,
)
from cofm_triton.ops.small_calls import Small
from cofm_triton.step.pairs import as_complex, as_reals, in_pairs


class Backend(Protocol):
    """The module of a backend: both passes with T >= 1, the state and what begins or ends a sequence in its dtype.

    Kernels split time by the number of multiprocessors, and keep pairs of channels on one of the lanes of a warp.
    """

    def forward(
        self, x: Tensor, decay: Tensor, h0: Tensor | None, seq_starts: Tensor | None, *,
        reverse: bool, state_dtype: torch.dtype, resets: Tensor | None, reset_to: str, num_sms: int, lanes: int,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """`(h, h_last)`, (B, T, D) in x's dtype and (S, D)."""

    def backward(
        self, grad_h: Tensor, grad_last: Tensor | None, decay: Tensor, h: Tensor, h0: Tensor | None,
        seq_starts: Tensor | None, *, reverse: bool, state_dtype: torch.dtype, resets: Tensor | None, reset_to: str,
        num_sms: int, lanes: int,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """`(grad_x, grad_decay, grad_h0)`; grad_decay (D,), or (B, T, D) of gates, of which an axis may be summed."""


if TYPE_CHECKING:  # every backend has this signature
    from cofm_triton.cpu.blocked import linear_scan as _blocked
    from cofm_triton.cpu.jit import linear_scan as _jit
    from cofm_triton.kernels import linear_scan as _kernels

    _BACKENDS: list[Backend] = [_kernels, _jit, _blocked]


def backend_of(backend: str) -> Backend:
    """What computes on a resolved backend."""
    module: Backend = implementation(backend, "linear_scan")
    return module


def apply_linear_scan(
    x: Tensor,
    decay: Tensor,
    h0: Tensor | None,
    seq_starts: Tensor | None,
    reverse: bool,
    backend: str,
    resets: Tensor | None = None,
    reset_to: str = "h0",
) -> tuple[Tensor, Tensor]:
    """`(h, h_last)` for checked arguments: decay (D,) in the state's dtype or of three axes, backend resolved."""
    if directly(x, decay, h0):
        return linear_scan_op(x, decay, h0, seq_starts, resets, reverse, reset_to, backend)
    return _LinearScan.apply(x, decay, h0, seq_starts, resets, reverse, reset_to, backend)


def linear_scan(
    x: Tensor,
    decay: Tensor,
    h0: Tensor | None,
    seq_starts: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
    reset_to: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The forward pass: h (B, T, D) in x's dtype, h_last (S, D) in h0's dtype, x's when h0 is None."""
    if x.numel() == 0:
        return states_of_nothing(x, h0, seq_starts)
    state = state_dtype(x.dtype)
    h, last = backend_of(backend).forward(
        x,
        decay.contiguous() if decay.dim() == 1 else decay,
        None if h0 is None else h0.to(state).contiguous(),
        packed_starts(seq_starts),
        reverse=reverse,
        resets=None if resets is None else resets.contiguous(),
        reset_to=reset_to,
        state_dtype=state,
        num_sms=num_sms(x.device),
        lanes=lanes(x.device),
    )
    given = x.dtype if h0 is None else h0.dtype
    return h, last if last.dtype == given else last.to(given)


def _linear_scan_fake(
    x: Tensor, decay: Tensor, h0: Tensor | None, seq_starts: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor]:
    return empty_states(x, h0, seq_starts)


def linear_scan_backward(
    grad_h: Tensor,
    grad_last: Tensor | None,
    decay: Tensor,
    h: Tensor,
    h0: Tensor | None,
    seq_starts: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
    reset_to: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The adjoint: grad_x like h, grad_decay like decay, grad_h0 (S, D) in the state's dtype."""
    state = state_dtype(h.dtype)
    if h.numel() == 0:
        grad_h0 = start_gradient_of_nothing(h, grad_last, seq_starts)
        return torch.empty_like(h), torch.zeros_like(decay), grad_h0
    grad_x, grad_decay, grad_h0 = backend_of(backend).backward(
        grad_h,
        None if grad_last is None else grad_last.to(state).contiguous(),
        decay.contiguous() if decay.dim() == 1 else decay,
        h.contiguous(),
        None if h0 is None else h0.to(state).contiguous(),
        packed_starts(seq_starts),
        reverse=reverse,
        resets=None if resets is None else resets.contiguous(),
        reset_to=reset_to,
        state_dtype=state,
        num_sms=num_sms(h.device),
        lanes=lanes(h.device),
    )
    summed = grad_decay if grad_decay.shape == decay.shape else grad_decay.sum_to_size(decay.shape)
    return grad_x, summed, grad_h0


def _linear_scan_backward_fake(
    grad_h: Tensor, grad_last: Tensor | None, decay: Tensor, h: Tensor, h0: Tensor | None, seq_starts: Tensor | None,
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return h.new_empty(h.shape), decay.new_empty(decay.shape), start_gradient(h, seq_starts)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _x, decay, h0, seq_starts, resets, *options = inputs
    remember(ctx, decay, output[0], h0, seq_starts, resets)
    ctx.options = tuple(options)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_h: Tensor | None, grad_last: Tensor | None) -> tuple[Tensor | None, ...]:
    decay, h, h0, seq_starts, resets = ctx.saved_tensors
    nothing = (None,) * 8
    if grad_h is None and grad_last is None:
        return nothing
    if grad_h is None:
        grad_h = no_gradient(h)
    if torch.is_grad_enabled():
        grads = _differentiable_backward(grad_h, grad_last, decay, h, h0, seq_starts, resets, *ctx.options)
    else:
        grads = linear_scan_backward_op(grad_h, grad_last, decay, h, h0, seq_starts, resets, *ctx.options)
    grad_x, grad_decay, grad_h0 = grads
    return grad_x, grad_decay, None if h0 is None else grad_h0.to(h0.dtype), *nothing[3:]


def _differentiable_backward(
    grad_h: Tensor,
    grad_last: Tensor | None,
    decay: Tensor,
    h: Tensor,
    h0: Tensor | None,
    seq_starts: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
    reset_to: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The adjoint in terms of `linear_scan` and elementwise operations.

    With `lambda[t] = grad_h[t] + mu[t]`, `mu[t-1] = conj(decay[t]) lambda[t]`, `mu = grad_last` at the end, mu is a
    scan against the recurrence: `v[t] = conj(decay[t]) (v[t+1] + grad_h[t])`, and mu its states one step earlier. Cut
    where the recurrence is, it goes on from zero.
    """
    state = state_dtype(h.dtype)
    if in_pairs(h, decay):
        given, begin = (None if states is None else as_complex(states) for states in (grad_last, h0))
        grads = _differentiable_backward(
            as_complex(grad_h), given, decay, as_complex(h), begin, seq_starts, resets, reverse, reset_to, backend
        )
        return as_reals(grads[0]).to(h.dtype), grads[1], as_reals(grads[2])
    conjugate = decay.conj().resolve_conj()
    weighted = conjugate * grad_h.to(state)
    gates = conjugate if decay.dim() == 1 else conjugate.to(state)
    start = None if grad_last is None else grad_last.to(state)
    cuts = resets_against(resets, seq_starts, not reverse)
    v, mu = apply_linear_scan(weighted, gates, start, seq_starts, not reverse, backend, cuts, "zero")
    adjoint = grad_h.to(state) + previous_states(v, start, seq_starts, not reverse, cuts, "zero")
    before = previous_states(h.to(state), h0, seq_starts, reverse, resets, reset_to)
    grad_decay = (adjoint * before.conj()).sum_to_size(decay.shape).to(decay.dtype)
    return adjoint.to(h.dtype), grad_decay, start_gradients(v, mu, seq_starts, reverse, resets, reset_to)


def _jvp(ctx: Any, x: Tensor | None, decay: Tensor | None, h0: Tensor | None, *_: None) -> tuple[Tensor, Tensor]:
    """Tangent: `dh[t] = decay[t] dh[t-1] + ddecay[t] h[t-1] + dx[t]`, `dh[-1] = dh0`."""
    gates, h, start, seq_starts, resets = ctx.saved_tensors
    reverse, reset_to, backend = ctx.options
    # Tangents are not always of their tensors' dtype: PyTorch makes float64 ones where a number multiplies a sum.
    drive = h.new_zeros(h.shape) if x is None else x.to(h.dtype)
    if decay is not None:
        before = previous_states(h, start, seq_starts, reverse, resets, reset_to)
        turned = as_reals(decay * as_complex(before)) if in_pairs(h, gates) else decay * before
        drive = drive + turned.to(h.dtype)
    if start is not None:
        h0 = torch.zeros_like(start) if h0 is None else h0.to(start.dtype)
    return apply_linear_scan(drive, gates, h0, seq_starts, reverse, backend, resets, reset_to)


def _linear_scan_vmap(
    info: Any, in_dims: tuple[Any, ...], x: Tensor, decay: Tensor, h0: Tensor | None,
    seq_starts: Tensor | None, resets: Tensor | None, *options: Any,
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:  # fmt: skip
    """A mapped axis joins the batch, or the channels where the batch is packed or the decay is mapped: resets of their
    own no channels can have.
    """
    size, (x_dim, a_dim, h_dim, _, r_dim, *_) = info.batch_size, in_dims
    # Packed rows have no batch axis to fold into, and a mapped (D,) decay differs along the mapped axis.
    into_channels = seq_starts is not None or (decay.dim() - (a_dim is not None) == 1 and a_dim is not None)
    if into_channels and r_dim is not None:
        return map_one_by_one(linear_scan_op, info, in_dims, (x, decay, h0, seq_starts, resets, *options))
    if decay.dim() - (a_dim is not None) == 3:
        decay, a_dim = _full_gates(decay, a_dim, x, x_dim)
        decay = fold_batch(decay, a_dim, size, into_channels)
    elif into_channels:
        decay = fold_batch(decay, a_dim, size, True)
    x = fold_batch(x, x_dim, size, into_channels)
    h0 = None if h0 is None else fold_batch(h0, h_dim, size, into_channels)
    if resets is not None and not into_channels:
        resets = fold_batch(resets, r_dim, size, False)
    h, last = linear_scan_op(x, decay, h0, seq_starts, resets, *options)
    return (split_batch(h, size, into_channels), split_batch(last, size, into_channels)), (0, 0)


def _linear_scan_backward_vmap(
    info: Any, in_dims: tuple[Any, ...], grad_h: Tensor, grad_last: Tensor | None, decay: Tensor, h: Tensor,
    h0: Tensor | None, seq_starts: Tensor | None, resets: Tensor | None, *options: Any,
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:  # fmt: skip
    """A mapped axis joins the channels, since each of its entries has a grad_decay of its own."""
    size, (g_dim, last_dim, a_dim, h_dim, _, _, r_dim, *_) = info.batch_size, in_dims
    if r_dim is not None:
        given = (grad_h, grad_last, decay, h, h0, seq_starts, resets, *options)
        return map_one_by_one(linear_scan_backward_op, info, in_dims, given)
    one = decay.shape if a_dim is None else decay.shape[:a_dim] + decay.shape[a_dim + 1 :]
    if len(one) == 3:
        decay, a_dim = _full_gates(decay, a_dim, h, h_dim)
    folded = [
        None if tensor is None else fold_batch(tensor, dim, size, True)
        for tensor, dim in zip((grad_h, grad_last, decay, h, h0), (g_dim, last_dim, a_dim, *in_dims[3:]), strict=False)
    ]
    grads = linear_scan_backward_op(*folded, seq_starts, resets, *options)
    grad_x, grad_decay, grad_h0 = (split_batch(grad, size, True) for grad in grads)
    return (grad_x, grad_decay.sum_to_size((size, *one)), grad_h0), (0, 0, 0)


def _full_gates(decay: Tensor, a_dim: int | None, x: Tensor, x_dim: int | None) -> tuple[Tensor, int | None]:
    """Gates with all entries of every axis but the mapped one, which is the first if there is one, and where that is:
    what is folded has to have the shape of x.
    """
    batch, length, channels = x.shape if x_dim is None else x.shape[:x_dim] + x.shape[x_dim + 1 :]
    shape = (batch, length, channels // 2 if in_pairs(x, decay) else channels)
    return (decay.expand(shape), None) if a_dim is None else (decay.movedim(a_dim, 0).expand(-1, *shape), 0)


linear_scan_op = register(linear_scan, fake=_linear_scan_fake, vmap=_linear_scan_vmap)
linear_scan_backward_op = register(
    linear_scan_backward, fake=_linear_scan_backward_fake, vmap=_linear_scan_backward_vmap
)
_LinearScan = register_derivative(linear_scan_op, _setup_context, _backward, _jvp)


def small_linear_scan(x: Tensor, decay: Tensor, h0: Tensor | None, reverse: bool) -> Any:
    """What computes calls with tensors like these, x, decay and h0, on the compiled backend, if they are small ones."""
    if x.numel() == 0:
        return None
    module = implementation("numba", "linear_scan")
    compute = module.small_forward(x, decay, h0, reverse)
    options = (None, None, reverse, "h0", "numba")
    choose = partial(module.small_backward, reverse)
    return None if compute is None else _LinearScan.of_small(Small(compute, options, choose))


def traffic(batch: int, length: int, channels: int, itemsize: int, *, gated: bool, backward: bool) -> int:
    """Bytes that must move.

    Forward reads x and writes h, backward reads dh and h and writes dx; a gated scan also reads the decay, and its
    backward pass writes ddecay. Few channels over many steps move more on a GPU: in chunks of time it reads x or dh,
    and the decay, once more.
    """
    elements = {(False, False): 2, (True, False): 3, (False, True): 3, (True, True): 5}[gated, backward]
    return elements * batch * length * channels * itemsize

"""`cofm_triton::dense_rnn`: registration with PyTorch, derivatives, traffic and work models.

    h[t] = h[t-1] + dt * act(z[t]),   z[t] = x[t] - weight @ h[t-1],   h[-1] = h0

The adjoint, with s[t] = act'(z[t]) and mu what arrives from later steps, is `cofm_triton::dense_rnn_backward`:

    lambda[t] = g[t] + mu[t],   dx[t] = dt * s[t] * lambda[t],   mu[t-1] = lambda[t] - weight^T dx[t],   dh0 = mu[-1]
    dweight = -sum_t dx[t] h[t-1]^T

Where `resets` is True, h[t-1] is the start state, h0 or zero, and mu[t-1] ends there: it is added to dh0, or dropped.

The sum over time is one matrix product after the loop. A forward pass that will be differentiated keeps the slopes s,
which would otherwise cost a product of the same size again. A backward pass that is itself differentiated, and forward
mode, go step by step through PyTorch's own operations. At the kinks of hardtanh and relu act' is PyTorch's, 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from cofm_triton.ops.backends import implementation, lanes
from cofm_triton.ops.derivatives import directly, keeps, remember
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.ops.registration import register, register_derivative
from cofm_triton.ops.shapes import (
    empty_states,
    fold_batch,
    map_one_by_one,
    no_gradient,
    previous_states,
    split_batch,
    start_gradient_of_nothing,
    states_of_nothing,
)
from cofm_triton.step.activation import activation_slope


class Backend(Protocol):
    """The module of a backend: both passes with T >= 1, weight and state in its dtype; bfloat16 weights are Triton's.

    Kernels lay the matrix out by the lanes of a warp.
    """

    def forward(
        self, x: Tensor, weight: Tensor, h0: Tensor | None, resets: Tensor | None, *, reset_to: str,
        dt: float, nonlinearity: str, precision: str, keep: bool, state_dtype: torch.dtype, lanes: int,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """`(h, h_last, slope)`; the slopes (B, 0, D) unless kept."""

    def adjoint(
        self, grad_h: Tensor, grad_last: Tensor | None, slope: Tensor, weight: Tensor, resets: Tensor | None, *,
        reset_to: str, dt: float, precision: str, lanes: int,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """`(grad_x, grad_h0)`, both in the state's dtype."""


if TYPE_CHECKING:  # every backend has this signature
    from cofm_triton.cpu.blocked import dense_rnn as _blocked
    from cofm_triton.cpu.jit import dense_rnn as _jit
    from cofm_triton.kernels import dense_rnn as _kernels

    _BACKENDS: list[Backend] = [_kernels, _jit, _blocked]


def backend_of(backend: str) -> Backend:
    """What computes on a resolved backend."""
    module: Backend = implementation(backend, "dense_rnn")
    return module


def apply_dense_rnn(
    x: Tensor, weight: Tensor, h0: Tensor | None, resets: Tensor | None, reset_to: str, dt: float, nonlinearity: str,
    precision: str, backend: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`(h, h_last)` for checked arguments: weight (D, D) in x's dtype or the state's, backend resolved."""
    run = dense_rnn_op if directly(x, weight, h0) else _DenseRNN.apply
    keep = keeps(x, weight, h0)
    h, last, _slope = run(x, weight, h0, resets, reset_to, dt, nonlinearity, precision, backend, keep)
    return h, last


def dense_rnn(
    x: Tensor, weight: Tensor, h0: Tensor | None, resets: Tensor | None, reset_to: str, dt: float, nonlinearity: str,
    precision: str, backend: str, keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The forward pass: h (B, T, D) in x's dtype, h_last (B, D) in h0's dtype, x's when h0 is None, and the slopes.

    The slopes act'(z) are (B, T, D) in the state's dtype if `keep`, otherwise (B, 0, D).
    """
    state = state_dtype(x.dtype)
    if x.numel() == 0:
        return *states_of_nothing(x, h0, None), x.new_empty(_kept(x, keep), dtype=state)
    h, last, slope = backend_of(backend).forward(
        x,
        _for_kernels(weight, backend, state),
        None if h0 is None else h0.to(state).contiguous(),
        None if resets is None else resets.contiguous(),
        reset_to=reset_to,
        dt=dt,
        nonlinearity=nonlinearity,
        precision=_for_compiler(precision),
        keep=keep,
        state_dtype=state,
        lanes=lanes(x.device),
    )
    return h, last.to(x.dtype if h0 is None else h0.dtype), slope


def _for_kernels(weight: Tensor, backend: str, state: torch.dtype) -> Tensor:
    """In the state's dtype, except that Triton's kernels hold bfloat16 as it is."""
    as_it_is = backend == "triton" and weight.dtype == torch.bfloat16
    return (weight if as_it_is else weight.to(state)).contiguous()


def _for_compiler(precision: str) -> str:
    """AMD's has no products of TF32 numbers in threes."""
    return "ieee" if torch.version.hip is not None else precision


def _dense_rnn_fake(
    x: Tensor, weight: Tensor, h0: Tensor | None, resets: Tensor | None, reset_to: str, dt: float, nonlinearity: str,
    precision: str, backend: str, keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return *empty_states(x, h0, None), x.new_empty(_kept(x, keep), dtype=state_dtype(x.dtype))


def _kept(x: Tensor, keep: bool) -> tuple[int, int, int]:
    """Shape of the slopes."""
    return x.shape[0], x.shape[1] if keep else 0, x.shape[2]


def dense_rnn_backward(
    grad_h: Tensor,
    grad_last: Tensor | None,
    slope: Tensor,
    weight: Tensor,
    h: Tensor,
    h0: Tensor | None,
    resets: Tensor | None,
    reset_to: str,
    dt: float,
    precision: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The adjoint: grad_x like h, grad_weight (D, D) and grad_h0 (B, D) in the state's dtype."""
    state = slope.dtype
    if h.numel() == 0:
        return torch.empty_like(h), slope.new_zeros(weight.shape), start_gradient_of_nothing(h, grad_last, None)
    grad_z, grad_h0 = backend_of(backend).adjoint(
        grad_h,
        None if grad_last is None else grad_last.to(state).contiguous(),
        slope.contiguous(),
        _for_kernels(weight, backend, state),
        None if resets is None else resets.contiguous(),
        reset_to=reset_to,
        dt=dt,
        precision=_for_compiler(precision),
        lanes=lanes(h.device),
    )
    before = previous_states(h.to(state), h0, None, False, resets, reset_to)
    return _in_dtype(grad_z, h.dtype), _weight_gradient(grad_z, before), grad_h0


def _dense_rnn_backward_fake(
    grad_h: Tensor,
    grad_last: Tensor | None,
    slope: Tensor,
    weight: Tensor,
    h: Tensor,
    h0: Tensor | None,
    resets: Tensor | None,
    reset_to: str,
    dt: float,
    precision: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_h0 = slope.new_empty((h.shape[0], h.shape[2]))
    return torch.empty_like(h), slope.new_empty(weight.shape), grad_h0


def _in_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _weight_gradient(grad_z: Tensor, before: Tensor) -> Tensor:
    """`-sum over b and t of grad_z[b, t] before[b, t]^T`, one product of (D, B T) and (B T, D)."""
    return -(grad_z.flatten(0, 1).T @ before.flatten(0, 1))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, h0, resets, *options, _keep = inputs
    h, _last, slope = output
    # The same tensors for both: PyTorch's rule for `vmap` remembers the mapped axes of one list only.
    remember(ctx, x, weight, h0, resets, h, slope)
    ctx.mark_non_differentiable(slope)
    ctx.options = options
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, grad_h: Tensor | None, grad_last: Tensor | None, _grad_slope: Tensor | None
) -> tuple[Tensor | None, ...]:
    x, weight, h0, resets, h, slope = ctx.saved_tensors
    reset_to, dt, nonlinearity, precision, backend = ctx.options
    if grad_h is None and grad_last is None:
        return (None,) * 10
    wide = weight.to(slope.dtype)
    if grad_h is None:
        grad_h = no_gradient(h)
    if torch.is_grad_enabled():
        grads = _differentiable_backward(grad_h, grad_last, x, wide, h, h0, resets, reset_to, dt, nonlinearity)
    else:
        if slope.shape != h.shape:
            slope = linearize_dense(x, wide, h, h0, resets, reset_to, nonlinearity)[1]
        options = (resets, reset_to, dt, precision, backend)
        grads = dense_rnn_backward_op(grad_h, grad_last, slope, weight, h, h0, *options)
    grad_x, grad_weight, grad_h0 = grads
    grad_weight, start = grad_weight.to(weight.dtype), None if h0 is None else grad_h0.to(h0.dtype)
    return grad_x, grad_weight, start, *(None,) * 7


def linearize_dense(
    x: Tensor, weight: Tensor, h: Tensor, h0: Tensor | None, resets: Tensor | None, reset_to: str, nonlinearity: str
) -> tuple[Tensor, Tensor]:
    """`(before, slope)`: h[t-1] and act'(z[t]), (B, T, D) in the state's dtype, as the weight is here."""
    before = previous_states(h.to(weight.dtype), h0, None, False, resets, reset_to)
    return before, activation_slope(nonlinearity)(x.to(weight.dtype) - before @ weight.T)


def _differentiable_backward(
    grad_h: Tensor,
    grad_last: Tensor | None,
    x: Tensor,
    weight: Tensor,
    h: Tensor,
    h0: Tensor | None,
    resets: Tensor | None,
    reset_to: str,
    dt: float,
    nonlinearity: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The adjoint step by step, every operation PyTorch's."""
    before, slope = linearize_dense(x, weight, h, h0, resets, reset_to, nonlinearity)
    grad = grad_h.to(before.dtype)
    mu = grad.new_zeros((h.shape[0], h.shape[2])) if grad_last is None else grad_last.to(before.dtype)
    grad_h0, rows = torch.zeros_like(mu), []
    for t in reversed(range(h.shape[1])):
        adjoint = grad[:, t] + mu
        rows.append(dt * slope[:, t] * adjoint)
        mu = adjoint - rows[-1] @ weight
        if resets is not None:
            cut = resets[:, t, None]
            grad_h0 = grad_h0 if reset_to == "zero" else torch.where(cut, grad_h0 + mu, grad_h0)
            mu = torch.where(cut, 0.0, mu)
    grad_z = torch.stack(rows[::-1], 1) if rows else slope
    return grad_z.to(x.dtype), _weight_gradient(grad_z, before), grad_h0 + mu


def _jvp(
    ctx: Any, x_tangent: Tensor | None, weight_tangent: Tensor | None, h0_tangent: Tensor | None, *_: None
) -> tuple[Tensor, Tensor, None]:
    """Tangent: `dh[t] = dh[t-1] + dt act'(z[t]) (dx[t] - dweight h[t-1] - weight dh[t-1])`, `dh[-1] = dh0`."""
    x, weight, h0, resets, h, _slope = ctx.saved_tensors
    reset_to, dt, nonlinearity, _precision, _backend = ctx.options
    weight = weight.to(state_dtype(x.dtype))
    before, slope = linearize_dense(x, weight, h, h0, resets, reset_to, nonlinearity)
    drive = torch.zeros_like(before) if x_tangent is None else x_tangent.to(before.dtype)
    if weight_tangent is not None:
        drive = drive - before @ weight_tangent.to(before.dtype).T
    state = torch.zeros_like(h[:, :0].sum(1), dtype=before.dtype) if h0_tangent is None else h0_tangent
    state = state.to(before.dtype)
    start, rows = torch.zeros_like(state) if reset_to == "zero" else state, []
    for t in range(h.shape[1]):
        if resets is not None:
            state = torch.where(resets[:, t, None], start, state)
        state = state + dt * slope[:, t] * (drive[:, t] - state @ weight.T)
        rows.append(state)
    tangent = torch.stack(rows, 1) if rows else drive
    return tangent.to(h.dtype), state.to(h.dtype if h0 is None else h0.dtype), None


def _dense_rnn_vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
    """A mapped axis joins the batch; where weights differ along it, its entries run one after the other."""
    size, (x_dim, weight_dim, h_dim, resets_dim, *_) = info.batch_size, in_dims
    if weight_dim is not None:
        return map_one_by_one(dense_rnn_op, info, in_dims, arguments)
    x, weight, h0, resets, *options = arguments
    x = fold_batch(x, x_dim, size, False)
    h0 = None if h0 is None else fold_batch(h0, h_dim, size, False)
    resets = None if resets is None else fold_batch(resets, resets_dim, size, False)
    results = dense_rnn_op(x, weight, h0, resets, *options)
    return tuple(split_batch(result, size, False) for result in results), (0, 0, 0)


def _dense_rnn_backward_vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
    """Entries run one after the other: each has a grad_weight of its own."""
    return map_one_by_one(dense_rnn_backward_op, info, in_dims, arguments)


dense_rnn_op = register(dense_rnn, fake=_dense_rnn_fake, vmap=_dense_rnn_vmap)
dense_rnn_backward_op = register(dense_rnn_backward, fake=_dense_rnn_backward_fake, vmap=_dense_rnn_backward_vmap)
_DenseRNN = register_derivative(dense_rnn_op, _setup_context, _backward, _jvp)


def traffic(batch: int, length: int, channels: int, itemsize: int, *, backward: bool, keep: bool = True) -> int:
    """Bytes that must move with the weight on chip.

    Forward reads x and writes h and, if kept, the slopes; the adjoint reads dh and the slopes and writes dx. Slopes,
    and dx until the gradient of the weight has been taken, are in the state's dtype, at least 4 bytes.
    """
    wide = max(itemsize, 4)
    each = itemsize + 2 * wide if backward else 2 * itemsize + (wide if keep else 0)
    return each * batch * length * channels


def step_traffic(batch: int, channels: int, itemsize: int, *, backward: bool, keep: bool = True) -> int:
    """Bytes that a launch of one step must move: the weight, which has no place on chip between launches, and rows.

    Forward reads x and the states and writes h, the next states and, if kept, the slopes. The adjoint reads dh, the
    slopes, the adjoint states and the next step's dx, and writes dx and the next adjoint states.
    """
    wide = max(itemsize, 4)
    row = itemsize + 5 * wide if backward else 2 * itemsize + (3 if keep else 2) * wide
    return wide * channels * channels + row * batch * channels


def work(batch: int, length: int, channels: int, *, backward: bool) -> int:
    """Multiply-adds of the matrix products: one per step forward, two backward (adjoint and weight gradient)."""
    return (2 if backward else 1) * batch * length * channels * channels

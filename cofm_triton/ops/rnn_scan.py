"""`cofm_triton::rnn_scan`: registration with PyTorch, derivatives, traffic model.

    h[t] = h[t-1] + dt * act(z[t]),   z[t] = x[t] - rate * h[t-1],   h[-1] = h0

The rates come out of a raw parameter w, (D,), by a parameterisation and a discretisation, see `step/step_rate.py`;
backends do that themselves, the gradient's way back to w included. Rates that vary in time, (B, T, D), are taken as
they are. Resets (B, T) are True where a step goes on from h0 (`reset_to`: or zero) in place of the state before it.

The adjoint of a nonlinear recurrence is affine, and so is its tangent, both with the Jacobian
`J[t] = 1 - dt * rate * act'(z[t])`: a backward pass that is itself differentiated is written in terms of `linear_scan`
with the gates J, any other one runs as one fused operator, `cofm_triton::rnn_scan_backward`. At the kinks of hardtanh
and relu act' is PyTorch's subgradient, 0.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from cofm_triton.ops.backends import implementation, num_sms
from cofm_triton.ops.derivatives import directly, remember
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.ops.linear_scan import apply_linear_scan
from cofm_triton.ops.registration import register, register_derivative
from cofm_triton.ops.shapes import (
    empty_states,
    map_adjoint,
    map_scan,
    no_gradient,
    packed_starts,
    previous_states,
    resets_against,
    start_gradient,
    start_gradient_of_nothing,
    start_gradients,
    states_of_nothing,
)
from cofm_triton.ops.small_calls import Small
from cofm_triton.step.activation import activation_slope
from cofm_triton.step.parameterizations import PARAMETERIZATIONS
from cofm_triton.step.step_rate import step_rate, step_rate_slope


class Backend(Protocol):
    """The module of a backend: both passes with T >= 1, w and the state in its dtype."""

    def forward(
        self, x: Tensor, w: Tensor, h0: Tensor | None, seq_starts: Tensor | None, *,
        dt: float, nonlinearity: str, parameterization: str, discretization: str, state_dtype: torch.dtype,
        num_sms: int, sequential: bool = False, resets: Tensor | None = None, reset_to: str = "h0",
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """`(h, h_last)`, (B, T, D) in x's dtype and (S, D); `sequential`: no sequence is cut on a GPU."""

    def backward(
        self, grad_h: Tensor, grad_last: Tensor | None, x: Tensor, w: Tensor, h: Tensor, h0: Tensor | None,
        seq_starts: Tensor | None, *, dt: float, nonlinearity: str, parameterization: str, discretization: str,
        state_dtype: torch.dtype, num_sms: int, resets: Tensor | None = None, reset_to: str = "h0",
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """`(grad_x, grad_w, grad_h0)`."""


if TYPE_CHECKING:  # every backend has this signature
    from cofm_triton.cpu.blocked import rnn_scan as _blocked
    from cofm_triton.cpu.jit import rnn_scan as _jit
    from cofm_triton.kernels import rnn_scan as _kernels

    _BACKENDS: list[Backend] = [_kernels, _jit, _blocked]


def backend_of(backend: str) -> Backend:
    """What computes on a resolved backend."""
    module: Backend = implementation(backend, "rnn_scan")
    return module


def apply_rnn_scan(
    x: Tensor,
    w: Tensor,
    h0: Tensor | None,
    seq_starts: Tensor | None,
    dt: float,
    nonlinearity: str,
    backend: str,
    solver: str = "auto",
    parameterization: str = "direct",
    discretization: str = "euler",
    resets: Tensor | None = None,
    reset_to: str = "h0",
) -> tuple[Tensor, Tensor]:
    """`(h, h_last)` for checked arguments: w (D,) in the state's dtype or rates (B, T, D), backend resolved."""
    call = rnn_scan_op if directly(x, w, h0) else _RnnScan.apply
    results: tuple[Tensor, Tensor] = call(
        x, w, h0, seq_starts, resets, dt, nonlinearity, reset_to, backend, solver, parameterization, discretization
    )
    return results


def rnn_scan(
    x: Tensor,
    w: Tensor,
    h0: Tensor | None,
    seq_starts: Tensor | None,
    resets: Tensor | None,
    dt: float,
    nonlinearity: str,
    reset_to: str,
    backend: str,
    solver: str = "auto",
    parameterization: str = "direct",
    discretization: str = "euler",
) -> tuple[Tensor, Tensor]:
    """The forward pass: h (B, T, D) in x's dtype, h_last (S, D) in h0's dtype, x's when h0 is None."""
    if x.numel() == 0:
        return states_of_nothing(x, h0, seq_starts)
    state = state_dtype(x.dtype)
    w, *kinds = _given(w, dt, backend, parameterization, discretization)
    h, last = backend_of(backend).forward(
        x,
        w.contiguous() if w.dim() == 1 else w,
        None if h0 is None else h0.to(state).contiguous(),
        packed_starts(seq_starts),
        dt=dt,
        nonlinearity=nonlinearity,
        parameterization=kinds[0],
        discretization=kinds[1],
        state_dtype=state,
        num_sms=num_sms(x.device),
        sequential=solver == "sequential",
        resets=None if resets is None else resets.contiguous(),
        reset_to=reset_to,
    )
    given = x.dtype if h0 is None else h0.dtype
    return h, last if last.dtype == given else last.to(given)


def _given(w: Tensor, dt: float, backend: str, parameterization: str, discretization: str) -> tuple[Tensor, str, str]:
    """The parameters as a backend takes them, and what they are: kernels know the functions of the table alone."""
    if backend == "triton" and parameterization not in PARAMETERIZATIONS:
        return step_rate(w, dt, parameterization, discretization), "direct", "euler"
    return w, parameterization, discretization


def _rnn_scan_fake(
    x: Tensor, w: Tensor, h0: Tensor | None, seq_starts: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor]:
    return empty_states(x, h0, seq_starts)


def rnn_scan_backward(
    grad_h: Tensor,
    grad_last: Tensor | None,
    x: Tensor,
    w: Tensor,
    h: Tensor,
    h0: Tensor | None,
    seq_starts: Tensor | None,
    resets: Tensor | None,
    dt: float,
    nonlinearity: str,
    reset_to: str,
    backend: str,
    parameterization: str = "direct",
    discretization: str = "euler",
) -> tuple[Tensor, Tensor, Tensor]:
    """The adjoint: grad_x like h, grad_w like w, and grad_h0 (S, D) in the state's dtype."""
    state = state_dtype(x.dtype)
    if x.numel() == 0:
        return torch.empty_like(h), torch.zeros_like(w), start_gradient_of_nothing(x, grad_last, seq_starts)
    given, *kinds = _given(w, dt, backend, parameterization, discretization)
    grad_x, grad_w, grad_h0 = backend_of(backend).backward(
        grad_h,
        None if grad_last is None else grad_last.to(state).contiguous(),
        x,
        given.contiguous() if given.dim() == 1 else given,
        h.contiguous(),
        None if h0 is None else h0.to(state).contiguous(),
        packed_starts(seq_starts),
        dt=dt,
        nonlinearity=nonlinearity,
        parameterization=kinds[0],
        discretization=kinds[1],
        state_dtype=state,
        num_sms=num_sms(x.device),
        resets=None if resets is None else resets.contiguous(),
        reset_to=reset_to,
    )
    if given is not w:
        grad_w = grad_w * step_rate_slope(w, dt, parameterization, discretization)
    return grad_x, grad_w, grad_h0


def _rnn_scan_backward_fake(
    grad_h: Tensor, grad_last: Tensor | None, x: Tensor, w: Tensor, h: Tensor, h0: Tensor | None,
    seq_starts: Tensor | None, *options: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return x.new_empty(x.shape), w.new_empty(w.shape), start_gradient(x, seq_starts)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, w, h0, seq_starts, resets, dt, nonlinearity, reset_to, backend, _, *kinds = inputs
    remember(ctx, x, w, output[0], h0, seq_starts, resets)
    ctx.options = (dt, nonlinearity, reset_to, backend, *kinds)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_h: Tensor | None, grad_last: Tensor | None) -> tuple[Tensor | None, ...]:
    x, w, h, h0, seq_starts, resets = ctx.saved_tensors
    nothing = (None,) * 12
    if grad_h is None and grad_last is None:
        return nothing
    if grad_h is None:
        grad_h = no_gradient(h)
    backward = _differentiable_backward if torch.is_grad_enabled() else rnn_scan_backward_op
    grad_x, grad_w, grad_h0 = backward(grad_h, grad_last, x, w, h, h0, seq_starts, resets, *ctx.options)
    return grad_x, grad_w, None if h0 is None else grad_h0.to(h0.dtype), *nothing[3:]


def linearize(
    x: Tensor, rate: Tensor, h: Tensor, h0: Tensor | None, seq_starts: Tensor | None, dt: float, nonlinearity: str,
    resets: Tensor | None = None, reset_to: str = "h0",
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`(before, slope, jacobian)`: h[t-1], dt * act'(z[t]) and J[t], (B, T, D) in the state's dtype."""
    state = state_dtype(x.dtype)
    before = previous_states(h.to(state), h0, seq_starts, False, resets, reset_to)
    slope = dt * activation_slope(nonlinearity)(x.to(state) - rate * before)
    return before, slope, 1 - rate * slope


def _differentiable_backward(
    grad_h: Tensor,
    grad_last: Tensor | None,
    x: Tensor,
    w: Tensor,
    h: Tensor,
    h0: Tensor | None,
    seq_starts: Tensor | None,
    resets: Tensor | None,
    dt: float,
    nonlinearity: str,
    reset_to: str,
    backend: str,
    parameterization: str,
    discretization: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The adjoint in terms of `linear_scan`: `v[t] = J[t] (v[t+1] + grad_h[t])`, `lambda[t] = grad_h[t] + v[t+1]`."""
    kinds = (dt, parameterization, discretization)
    rate = step_rate(w.to(state_dtype(x.dtype)), *kinds)
    before, slope, jacobian = linearize(x, rate, h, h0, seq_starts, dt, nonlinearity, resets, reset_to)
    grad = grad_h.to(before.dtype)
    start = None if grad_last is None else grad_last.to(before.dtype)
    cuts = resets_against(resets, seq_starts, True)
    v, first = apply_linear_scan(jacobian * grad, jacobian, start, seq_starts, True, backend, cuts, "zero")
    grad_x = slope * (grad + previous_states(v, start, seq_starts, True, cuts, "zero"))
    grad_rate = -(grad_x * before).sum_to_size(w.shape)
    grad_w = (grad_rate * step_rate_slope(w, *kinds) if w.dim() == 1 else grad_rate).to(w.dtype)
    return grad_x.to(x.dtype), grad_w, start_gradients(v, first, seq_starts, False, resets, reset_to)


def _jvp(
    ctx: Any, x_tangent: Tensor | None, w_tangent: Tensor | None, h0_tangent: Tensor | None, *_: None
) -> tuple[Tensor, Tensor]:
    """Tangent: `dh[t] = J[t] dh[t-1] + dt act'(z[t]) (dx[t] - drate h[t-1])`, `dh[-1] = dh0`."""
    x, w, h, h0, seq_starts, resets = ctx.saved_tensors
    dt, nonlinearity, reset_to, backend, *kinds = ctx.options
    rate = step_rate(w.to(state_dtype(x.dtype)), dt, *kinds)
    before, slope, jacobian = linearize(x, rate, h, h0, seq_starts, dt, nonlinearity, resets, reset_to)
    drive = torch.zeros_like(before) if x_tangent is None else x_tangent.to(before.dtype)
    if w_tangent is not None:
        tangent = w_tangent.to(before.dtype)
        drive = drive - (step_rate_slope(w, dt, *kinds) * tangent if w.dim() == 1 else tangent) * before
    if h0 is not None:
        h0_tangent = (torch.zeros_like(h0) if h0_tangent is None else h0_tangent).to(before.dtype)
    tangent, last = apply_linear_scan(slope * drive, jacobian, h0_tangent, seq_starts, False, backend, resets, reset_to)
    return tangent.to(h.dtype), last.to(h.dtype if h0 is None else h0.dtype)


def _rnn_scan_vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
    return map_scan(rnn_scan_op, 1, info, in_dims, arguments)


def _rnn_scan_backward_vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
    return map_adjoint(rnn_scan_backward_op, 6, info, in_dims, arguments)


rnn_scan_op = register(rnn_scan, fake=_rnn_scan_fake, vmap=_rnn_scan_vmap)
rnn_scan_backward_op = register(rnn_scan_backward, fake=_rnn_scan_backward_fake, vmap=_rnn_scan_backward_vmap)
_RnnScan = register_derivative(rnn_scan_op, _setup_context, _backward, _jvp)


def small_rnn_scan(x: Tensor, w: Tensor, h0: Tensor | None, dt: float, nonlinearity: str, *kinds: str) -> Any:
    """What computes calls with tensors like these, x, w and h0, on the compiled backend, if they are small ones; kinds
    are parameterization and discretization.
    """
    if x.numel() == 0:
        return None
    module, rule = implementation("numba", "rnn_scan"), (dt, nonlinearity, *kinds)
    compute = module.small_forward(rule, x, w, h0)
    options = (None, None, dt, nonlinearity, "h0", "numba", "auto", *kinds)
    choose = partial(module.small_backward, rule)
    return None if compute is None else _RnnScan.of_small(Small(compute, options, choose))


def traffic(batch: int, length: int, channels: int, itemsize: int, *, gated: bool = False, backward: bool) -> int:
    """Bytes that must move: forward reads x and writes h; backward reads dh and x and writes dx (h is recomputed).

    Rates that vary in time (`gated`) are read in both, and their gradient is written.
    """
    elements = {(False, False): 2, (True, False): 3, (False, True): 3, (True, True): 5}[gated, backward]
    return elements * batch * length * channels * itemsize

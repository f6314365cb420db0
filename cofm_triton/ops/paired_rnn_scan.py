"""`cofm_triton::paired_rnn_scan`: registration with PyTorch, derivatives.

    h[t] = h[t-1] + dt * act(z[t]),   z[t] = x[t] - A h[t-1],   A = [[alpha, -omega], [omega, alpha]],   h[-1] = h0

for every pair of channels (2k, 2k + 1), with a damping alpha and a turning omega each, (D // 2,); PyTorch functions
make them of rates and frequencies, see `step.oscillation`. To kernels they are two rows of D numbers, `pull` and
`turn`, with `z = x - pull * h + turn * swap(h)`.

Adjoint and tangent are affine, with a 2 x 2 matrix for each pair and step, `J[t] = I - dt S[t] A`, S[t] = diag(act'):
a backward pass that is itself differentiated is written in terms of `pair_scan` with these, any other one runs as one
fused operator, `cofm_triton::paired_rnn_scan_backward`. Traffic is that of `rnn_scan`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from cofm_triton.ops.backends import implementation, lanes, num_sms
from cofm_triton.ops.derivatives import directly, remember
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.ops.pair_scan import pair_scan
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
from cofm_triton.step.activation import activation_slope


class Backend(Protocol):
    """The module of a backend: both passes with T >= 1, rows and state in its dtype."""

    def forward(
        self, x: Tensor, pull: Tensor, turn: Tensor, h0: Tensor | None, seq_starts: Tensor | None, *,
        dt: float, nonlinearity: str, state_dtype: torch.dtype, num_sms: int, lanes: int, sequential: bool = False,
        resets: Tensor | None = None, reset_to: str = "h0",
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """`(h, h_last)`, (B, T, D) in x's dtype and (S, D); `sequential`: no sequence is cut on a GPU."""

    def backward(
        self, grad_h: Tensor, grad_last: Tensor | None, x: Tensor, pull: Tensor, turn: Tensor, h: Tensor,
        h0: Tensor | None, seq_starts: Tensor | None, *,
        dt: float, nonlinearity: str, state_dtype: torch.dtype, num_sms: int, lanes: int,
        resets: Tensor | None = None, reset_to: str = "h0",
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """`(grad_x, grad_pull, grad_turn, grad_h0)`; the rows' (D,)."""


if TYPE_CHECKING:  # every backend has this signature
    from cofm_triton.cpu.blocked import paired_rnn_scan as _blocked
    from cofm_triton.cpu.jit import paired_rnn_scan as _jit
    from cofm_triton.kernels import paired_rnn_scan as _kernels

    _BACKENDS: list[Backend] = [_kernels, _jit, _blocked]


def backend_of(backend: str) -> Backend:
    """What computes on a resolved backend."""
    module: Backend = implementation(backend, "paired_rnn_scan")
    return module


def apply_paired_rnn_scan(
    x: Tensor,
    alpha: Tensor,
    omega: Tensor,
    h0: Tensor | None,
    seq_starts: Tensor | None,
    dt: float,
    nonlinearity: str,
    backend: str,
    solver: str = "auto",
    resets: Tensor | None = None,
    reset_to: str = "h0",
) -> tuple[Tensor, Tensor]:
    """`(h, h_last)` for checked arguments: alpha, omega (D // 2,) in the state's dtype, backend resolved."""
    call = paired_rnn_scan_op if directly(x, alpha, omega, h0) else _PairedRnnScan.apply
    results: tuple[Tensor, Tensor] = call(
        x, alpha, omega, h0, seq_starts, resets, dt, nonlinearity, reset_to, backend, solver
    )
    return results


def paired_rnn_scan(
    x: Tensor,
    alpha: Tensor,
    omega: Tensor,
    h0: Tensor | None,
    seq_starts: Tensor | None,
    resets: Tensor | None,
    dt: float,
    nonlinearity: str,
    reset_to: str,
    backend: str,
    solver: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The forward pass: h (B, T, D) in x's dtype, h_last (S, D) in h0's dtype, x's when h0 is None."""
    if x.numel() == 0:
        return states_of_nothing(x, h0, seq_starts)
    state = state_dtype(x.dtype)
    h, last = backend_of(backend).forward(
        x,
        *rows_of_pairs(alpha, omega),
        None if h0 is None else h0.to(state).contiguous(),
        packed_starts(seq_starts),
        dt=dt,
        nonlinearity=nonlinearity,
        state_dtype=state,
        num_sms=num_sms(x.device),
        lanes=lanes(x.device),
        sequential=solver == "sequential",
        resets=None if resets is None else resets.contiguous(),
        reset_to=reset_to,
    )
    return h, last.to(x.dtype if h0 is None else h0.dtype)


def _paired_rnn_scan_fake(
    x: Tensor, alpha: Tensor, omega: Tensor, h0: Tensor | None, seq_starts: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor]:
    return empty_states(x, h0, seq_starts)


def paired_rnn_scan_backward(
    grad_h: Tensor,
    grad_last: Tensor | None,
    x: Tensor,
    alpha: Tensor,
    omega: Tensor,
    h: Tensor,
    h0: Tensor | None,
    seq_starts: Tensor | None,
    resets: Tensor | None,
    dt: float,
    nonlinearity: str,
    reset_to: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The adjoint: grad_x like h, grad_alpha and grad_omega (D // 2,) and grad_h0 (S, D) in the state's dtype."""
    state = state_dtype(x.dtype)
    if x.numel() == 0:
        grad_h0 = start_gradient_of_nothing(x, grad_last, seq_starts)
        return torch.empty_like(h), torch.zeros_like(alpha), torch.zeros_like(omega), grad_h0
    grad_x, grad_pull, grad_turn, grad_h0 = backend_of(backend).backward(
        grad_h,
        None if grad_last is None else grad_last.to(state).contiguous(),
        x,
        *rows_of_pairs(alpha, omega),
        h.contiguous(),
        None if h0 is None else h0.to(state).contiguous(),
        packed_starts(seq_starts),
        dt=dt,
        nonlinearity=nonlinearity,
        state_dtype=state,
        num_sms=num_sms(x.device),
        lanes=lanes(x.device),
        resets=None if resets is None else resets.contiguous(),
        reset_to=reset_to,
    )
    even, odd = grad_turn.unflatten(0, (-1, 2)).unbind(1)
    return grad_x, grad_pull.unflatten(0, (-1, 2)).sum(1), even - odd, grad_h0


def _paired_rnn_scan_backward_fake(
    grad_h: Tensor, grad_last: Tensor | None, x: Tensor, alpha: Tensor, omega: Tensor, h: Tensor, h0: Tensor | None,
    seq_starts: Tensor | None, *options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    by_rows = alpha.new_empty(alpha.shape), omega.new_empty(omega.shape)
    return x.new_empty(x.shape), *by_rows, start_gradient(x, seq_starts)


def rows_of_pairs(alpha: Tensor, omega: Tensor) -> tuple[Tensor, Tensor]:
    """pull and turn, (D,): `A h = pull * h - turn * swap(h)`; differentiable."""
    return alpha.repeat_interleave(2), torch.stack((omega, -omega), -1).flatten()


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, alpha, omega, h0, seq_starts, resets, *options, _ = inputs
    remember(ctx, x, alpha, omega, output[0], h0, seq_starts, resets)
    ctx.options = tuple(options)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_h: Tensor | None, grad_last: Tensor | None) -> tuple[Tensor | None, ...]:
    x, alpha, omega, h, h0, seq_starts, resets = ctx.saved_tensors
    nothing = (None,) * 11
    if grad_h is None and grad_last is None:
        return nothing
    if grad_h is None:
        grad_h = no_gradient(h)
    backward = _differentiable_backward if torch.is_grad_enabled() else paired_rnn_scan_backward_op
    *grads, grad_h0 = backward(grad_h, grad_last, x, alpha, omega, h, h0, seq_starts, resets, *ctx.options)
    return *grads, None if h0 is None else grad_h0.to(h0.dtype), *nothing[4:]


def swap_pairs(row: Tensor) -> Tensor:
    """The row with channels 2k and 2k + 1 exchanged."""
    return row.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)


def linearize_pairs(
    x: Tensor, alpha: Tensor, omega: Tensor, h: Tensor, h0: Tensor | None, seq_starts: Tensor | None, dt: float,
    nonlinearity: str, resets: Tensor | None = None, reset_to: str = "h0",
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`(before, slope, jacobian)`: h[t-1] and dt * act'(z[t]), (B, T, D), and J[t], (B, T, D // 2, 2, 2)."""
    state = state_dtype(x.dtype)
    before = previous_states(h.to(state), h0, seq_starts, False, resets, reset_to)
    pull, turn = rows_of_pairs(alpha, omega)
    slope = dt * activation_slope(nonlinearity)(x.to(state) - pull * before + turn * swap_pairs(before))
    matrix = torch.stack((torch.stack((alpha, -omega), -1), torch.stack((omega, alpha), -1)), -2)
    eye = torch.eye(2, dtype=state, device=x.device)
    return before, slope, eye - slope.unflatten(-1, (-1, 2)).unsqueeze(-1) * matrix


def _differentiable_backward(
    grad_h: Tensor, grad_last: Tensor | None, x: Tensor, alpha: Tensor, omega: Tensor, h: Tensor, h0: Tensor | None,
    seq_starts: Tensor | None, resets: Tensor | None, dt: float, nonlinearity: str, reset_to: str, backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The adjoint as a composition: `v[t] = J[t]^T (v[t+1] + grad_h[t])`, `lambda[t] = grad_h[t] + v[t+1]`."""
    if x.numel() == 0:
        # Nothing but the way from h_last to h0 is left, and what comes out of it can be differentiated as it is.
        grad_h0 = start_gradient_of_nothing(x, grad_last, seq_starts)
        return grad_h.to(x.dtype), 0 * alpha, 0 * omega, grad_h0
    before, slope, jacobian = linearize_pairs(x, alpha, omega, h, h0, seq_starts, dt, nonlinearity, resets, reset_to)
    grad = grad_h.to(before.dtype)
    start = None if grad_last is None else grad_last.to(before.dtype)
    transposed = jacobian.transpose(-1, -2)
    drive = (transposed * grad.unflatten(-1, (-1, 2)).unsqueeze(-2)).sum(-1).flatten(-2)
    cuts = resets_against(resets, seq_starts, True)
    v, first = pair_scan(transposed, drive, start, seq_starts, True, cuts, "zero")
    grad_x = slope * (grad + previous_states(v, start, seq_starts, True, cuts, "zero"))
    grad_h0 = start_gradients(v, first, seq_starts, False, resets, reset_to)
    even, odd = (grad_x * swap_pairs(before)).sum((0, 1)).unflatten(0, (-1, 2)).unbind(1)
    grad_alpha = -(grad_x * before).sum((0, 1)).unflatten(0, (-1, 2)).sum(1)
    return grad_x.to(x.dtype), grad_alpha, even - odd, grad_h0


def _jvp(
    ctx: Any, x_tangent: Tensor | None, alpha_tangent: Tensor | None, omega_tangent: Tensor | None,
    h0_tangent: Tensor | None, *_: None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Tangent: `dh[t] = J[t] dh[t-1] + dt S[t] (dx[t] - dA h[t-1])`, `dh[-1] = dh0`."""
    x, alpha, omega, h, h0, seq_starts, resets = ctx.saved_tensors
    dt, nonlinearity, reset_to, _ = ctx.options
    before, slope, jacobian = linearize_pairs(x, alpha, omega, h, h0, seq_starts, dt, nonlinearity, resets, reset_to)
    drive = torch.zeros_like(before) if x_tangent is None else x_tangent.to(before.dtype)
    if alpha_tangent is not None:
        drive = drive - alpha_tangent.repeat_interleave(2) * before
    if omega_tangent is not None:
        drive = drive + torch.stack((omega_tangent, -omega_tangent), -1).flatten() * swap_pairs(before)
    if h0 is not None:
        h0_tangent = (torch.zeros_like(h0) if h0_tangent is None else h0_tangent).to(before.dtype)
    last_dtype = h.dtype if h0 is None else h0.dtype
    if x.numel() == 0:
        sequences = x.shape[0] if seq_starts is None else seq_starts.shape[0]
        last = before.new_zeros((sequences, x.shape[2])) if h0_tangent is None else h0_tangent
        return drive.to(h.dtype), last.to(last_dtype)
    tangent, last = pair_scan(jacobian, slope * drive, h0_tangent, seq_starts, False, resets, reset_to)
    return tangent.to(h.dtype), last.to(last_dtype)


def _paired_rnn_scan_vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
    return map_scan(paired_rnn_scan_op, 2, info, in_dims, arguments)


def _paired_rnn_scan_backward_vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
    return map_adjoint(paired_rnn_scan_backward_op, 7, info, in_dims, arguments)


paired_rnn_scan_op = register(paired_rnn_scan, fake=_paired_rnn_scan_fake, vmap=_paired_rnn_scan_vmap)
paired_rnn_scan_backward_op = register(
    paired_rnn_scan_backward, fake=_paired_rnn_scan_backward_fake, vmap=_paired_rnn_scan_backward_vmap
)
_PairedRnnScan = register_derivative(paired_rnn_scan_op, _setup_context, _backward, _jvp)

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

from typing import Any

import torch
from torch import Tensor

from cofm_triton.ops.backends import implementation, lanes, num_sms
from cofm_triton.ops.derivatives import directly, signed
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.ops.pair_scan import pair_scan
from cofm_triton.ops.registration import register, register_derivative
from cofm_triton.ops.shapes import fold_batch, packed_starts, previous_states, split_batch
from cofm_triton.step.activation import activation_slope


def apply_paired_rnn_scan(
    x: Tensor,
    alpha: Tensor,
    omega: Tensor,
    h0: Tensor | None,
    seq_starts: Tensor | None,
    dt: float,
    nonlinearity: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """`(h, h_last)` for checked arguments: alpha, omega (D // 2,) in the state's dtype, backend resolved."""
    call = paired_rnn_scan_op if directly(x, alpha, omega, h0) else _PairedRnnScan.apply
    results: tuple[Tensor, Tensor] = call(x, alpha, omega, h0, seq_starts, dt, nonlinearity, backend)
    return results


def paired_rnn_scan(
    x: Tensor,
    alpha: Tensor,
    omega: Tensor,
    h0: Tensor | None,
    seq_starts: Tensor | None,
    dt: float,
    nonlinearity: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The forward pass: h (B, T, D) in x's dtype, h_last (S, D) in h0's dtype, x's when h0 is None."""
    dtype = x.dtype if h0 is None else h0.dtype
    state = state_dtype(x.dtype)
    if x.numel() == 0:
        sequences = x.shape[0] if seq_starts is None else seq_starts.shape[0]
        last = x.new_zeros((sequences, x.shape[2]), dtype=dtype) if h0 is None else h0.clone()
        return x.new_empty(x.shape), last
    h, last = implementation(backend, "paired_rnn_scan").forward(
        x,
        *_rows(alpha, omega),
        None if h0 is None else h0.to(state).contiguous(),
        packed_starts(seq_starts),
        **_options(x, dt, nonlinearity, backend),
    )
    return h, last.to(dtype)


def _paired_rnn_scan_fake(
    x: Tensor,
    alpha: Tensor,
    omega: Tensor,
    h0: Tensor | None,
    seq_starts: Tensor | None,
    dt: float,
    nonlinearity: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    sequences = x.shape[0] if seq_starts is None else seq_starts.shape[0]
    last = x.new_empty((sequences, x.shape[2]), dtype=x.dtype if h0 is None else h0.dtype)
    return x.new_empty(x.shape), last


def paired_rnn_scan_backward(
    grad_h: Tensor,
    grad_last: Tensor | None,
    x: Tensor,
    alpha: Tensor,
    omega: Tensor,
    h: Tensor,
    h0: Tensor | None,
    seq_starts: Tensor | None,
    dt: float,
    nonlinearity: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The adjoint: grad_x like h, grad_alpha and grad_omega (D // 2,) and grad_h0 (S, D) in the state's dtype."""
    state = state_dtype(x.dtype)
    if x.numel() == 0:
        sequences = x.shape[0] if seq_starts is None else seq_starts.shape[0]
        nothing = x.new_zeros((sequences, x.shape[2]), dtype=state)
        grad_h0 = nothing if grad_last is None else grad_last.to(state, copy=True)
        return torch.empty_like(h), torch.zeros_like(alpha), torch.zeros_like(omega), grad_h0
    grad_x, grad_pull, grad_turn, grad_h0 = implementation(backend, "paired_rnn_scan").backward(
        grad_h,
        None if grad_last is None else grad_last.to(state).contiguous(),
        x,
        *_rows(alpha, omega),
        h.contiguous(),
        None if h0 is None else h0.to(state).contiguous(),
        packed_starts(seq_starts),
        **_options(x, dt, nonlinearity, backend),
    )
    even, odd = grad_turn.unflatten(0, (-1, 2)).unbind(1)
    return grad_x, grad_pull.unflatten(0, (-1, 2)).sum(1), even - odd, grad_h0


def _paired_rnn_scan_backward_fake(
    grad_h: Tensor,
    grad_last: Tensor | None,
    x: Tensor,
    alpha: Tensor,
    omega: Tensor,
    h: Tensor,
    h0: Tensor | None,
    seq_starts: Tensor | None,
    dt: float,
    nonlinearity: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sequences = x.shape[0] if seq_starts is None else seq_starts.shape[0]
    grad_h0 = x.new_empty((sequences, x.shape[2]), dtype=state_dtype(x.dtype))
    return x.new_empty(x.shape), alpha.new_empty(alpha.shape), omega.new_empty(omega.shape), grad_h0


def _rows(alpha: Tensor, omega: Tensor) -> tuple[Tensor, Tensor]:
    """pull and turn, (D,): `A h = pull * h - turn * swap(h)`; differentiable."""
    return alpha.repeat_interleave(2), torch.stack((omega, -omega), -1).flatten()


def _options(x: Tensor, dt: float, nonlinearity: str, backend: str) -> dict[str, Any]:
    options: dict[str, Any] = dict(dt=dt, nonlinearity=nonlinearity, state_dtype=state_dtype(x.dtype))
    if backend == "triton":
        options.update(num_sms=num_sms(x.device), lanes=lanes(x.device))
    return options


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, alpha, omega, h0, seq_starts, *options = inputs
    ctx.save_for_backward(x, alpha, omega, output[0], h0, seq_starts)
    ctx.save_for_forward(x, alpha, omega, output[0], h0, seq_starts)
    ctx.options = tuple(options)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_h: Tensor | None, grad_last: Tensor | None) -> tuple[Tensor | None, ...]:
    x, alpha, omega, h, h0, seq_starts = ctx.saved_tensors
    nothing = (None,) * 8
    if grad_h is None and grad_last is None:
        return nothing
    if grad_h is None:
        grad_h = h.new_zeros(h.shape[-1:]).expand(h.shape)  # rows at one address: no memory and no traffic
    backward = _differentiable_backward if torch.is_grad_enabled() else paired_rnn_scan_backward_op
    *grads, grad_h0 = backward(grad_h, grad_last, x, alpha, omega, h, h0, seq_starts, *ctx.options)
    return *grads, None if h0 is None else grad_h0.to(h0.dtype), *nothing[4:]


def _swap(row: Tensor) -> Tensor:
    return row.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)


def _linearize(
    x: Tensor, alpha: Tensor, omega: Tensor, h: Tensor, h0: Tensor | None, seq_starts: Tensor | None, dt: float,
    nonlinearity: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`(before, slope, jacobian)`: h[t-1] and dt * act'(z[t]), (B, T, D), and J[t], (B, T, D // 2, 2, 2)."""
    state = state_dtype(x.dtype)
    before = previous_states(h.to(state), h0, seq_starts, False)
    pull, turn = _rows(alpha, omega)
    slope = dt * activation_slope(nonlinearity)(x.to(state) - pull * before + turn * _swap(before))
    matrix = torch.stack((torch.stack((alpha, -omega), -1), torch.stack((omega, alpha), -1)), -2)
    eye = torch.eye(2, dtype=state, device=x.device)
    return before, slope, eye - slope.unflatten(-1, (-1, 2)).unsqueeze(-1) * matrix


def _differentiable_backward(
    grad_h: Tensor, grad_last: Tensor | None, x: Tensor, alpha: Tensor, omega: Tensor, h: Tensor, h0: Tensor | None,
    seq_starts: Tensor | None, dt: float, nonlinearity: str, backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The adjoint as a composition: `v[t] = J[t]^T (v[t+1] + grad_h[t])`, `lambda[t] = grad_h[t] + v[t+1]`."""
    if x.numel() == 0:
        # Nothing but the way from h_last to h0 is left, and what comes out of it can be differentiated as it is.
        start = None if grad_last is None else grad_last.to(state_dtype(x.dtype))
        nothing = x.new_zeros((x.shape[0] if seq_starts is None else seq_starts.shape[0], x.shape[2]))
        return grad_h.to(x.dtype), 0 * alpha, 0 * omega, nothing.to(alpha.dtype) if start is None else start
    before, slope, jacobian = _linearize(x, alpha, omega, h, h0, seq_starts, dt, nonlinearity)
    grad = grad_h.to(before.dtype)
    start = None if grad_last is None else grad_last.to(before.dtype)
    transposed = jacobian.transpose(-1, -2)
    drive = (transposed * grad.unflatten(-1, (-1, 2)).unsqueeze(-2)).sum(-1).flatten(-2)
    v, grad_h0 = pair_scan(transposed, drive, start, seq_starts, True)
    grad_x = slope * (grad + previous_states(v, start, seq_starts, True))
    even, odd = (grad_x * _swap(before)).sum((0, 1)).unflatten(0, (-1, 2)).unbind(1)
    grad_alpha = -(grad_x * before).sum((0, 1)).unflatten(0, (-1, 2)).sum(1)
    return grad_x.to(x.dtype), grad_alpha, even - odd, grad_h0


class _PairedRnnScan(torch.autograd.Function):
    """The operator for eager code: reverse mode, forward mode and `torch.func`, to any order."""

    generate_vmap_rule = True

    @staticmethod
    @signed
    def forward(*inputs: Any) -> tuple[Tensor, Tensor]:
        return paired_rnn_scan_op(*inputs)

    setup_context = staticmethod(_setup_context)
    backward = staticmethod(_backward)

    @staticmethod
    def jvp(
        ctx: Any, x_tangent: Tensor | None, alpha_tangent: Tensor | None, omega_tangent: Tensor | None,
        h0_tangent: Tensor | None, *_: None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Tangent: `dh[t] = J[t] dh[t-1] + dt S[t] (dx[t] - dA h[t-1])`, `dh[-1] = dh0`."""
        x, alpha, omega, h, h0, seq_starts = ctx.saved_tensors
        dt, nonlinearity, _ = ctx.options
        before, slope, jacobian = _linearize(x, alpha, omega, h, h0, seq_starts, dt, nonlinearity)
        drive = torch.zeros_like(before) if x_tangent is None else x_tangent.to(before.dtype)
        if alpha_tangent is not None:
            drive = drive - alpha_tangent.repeat_interleave(2) * before
        if omega_tangent is not None:
            drive = drive + torch.stack((omega_tangent, -omega_tangent), -1).flatten() * _swap(before)
        if h0 is not None:
            h0_tangent = (torch.zeros_like(h0) if h0_tangent is None else h0_tangent).to(before.dtype)
        last_dtype = h.dtype if h0 is None else h0.dtype
        if x.numel() == 0:
            sequences = x.shape[0] if seq_starts is None else seq_starts.shape[0]
            last = before.new_zeros((sequences, x.shape[2])) if h0_tangent is None else h0_tangent
            return drive.to(h.dtype), last.to(last_dtype)
        tangent, last = pair_scan(jacobian, slope * drive, h0_tangent, seq_starts, False)
        return tangent.to(h.dtype), last.to(last_dtype)


def _paired_rnn_scan_vmap(
    info: Any, in_dims: tuple[Any, ...], x: Tensor, alpha: Tensor, omega: Tensor, h0: Tensor | None,
    seq_starts: Tensor | None, dt: float, nonlinearity: str, backend: str,
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:  # fmt: skip
    """A mapped axis joins the batch; the channels where parameters differ along it, or where rows are packed."""
    size, (x_dim, alpha_dim, omega_dim, h_dim, *_) = info.batch_size, in_dims
    into_channels = seq_starts is not None or alpha_dim is not None or omega_dim is not None
    x = fold_batch(x, x_dim, size, into_channels)
    h0 = None if h0 is None else fold_batch(h0, h_dim, size, into_channels)
    if into_channels:
        alpha, omega = fold_batch(alpha, alpha_dim, size, True), fold_batch(omega, omega_dim, size, True)
    h, last = paired_rnn_scan_op(x, alpha, omega, h0, seq_starts, dt, nonlinearity, backend)
    return (split_batch(h, size, into_channels), split_batch(last, size, into_channels)), (0, 0)


def _paired_rnn_scan_backward_vmap(
    info: Any, in_dims: tuple[Any, ...], grad_h: Tensor, grad_last: Tensor | None, x: Tensor, alpha: Tensor,
    omega: Tensor, h: Tensor, h0: Tensor | None, seq_starts: Tensor | None, dt: float, nonlinearity: str, backend: str,
) -> tuple[tuple[Tensor, ...], tuple[int, int, int, int]]:  # fmt: skip
    """A mapped axis joins the channels, since each of its entries has gradients of its own."""
    size = info.batch_size
    folded = [
        None if tensor is None else fold_batch(tensor, dim, size, True)
        for tensor, dim in zip((grad_h, grad_last, x, alpha, omega, h, h0), in_dims, strict=False)
    ]
    grads = paired_rnn_scan_backward_op(*folded, seq_starts, dt, nonlinearity, backend)
    return tuple(split_batch(grad, size, True) for grad in grads), (0, 0, 0, 0)


paired_rnn_scan_op = register(paired_rnn_scan, fake=_paired_rnn_scan_fake, vmap=_paired_rnn_scan_vmap)
paired_rnn_scan_backward_op = register(
    paired_rnn_scan_backward, fake=_paired_rnn_scan_backward_fake, vmap=_paired_rnn_scan_backward_vmap
)
register_derivative("paired_rnn_scan", _backward, _setup_context)

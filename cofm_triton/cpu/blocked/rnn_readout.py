"""Read-out of a diagonal recurrence in plain PyTorch: time in chunks, states of one chunk at a time.

    h[t] = h[t-1] + dt * act_in(U x[t] + b - a h[t-1]),   y[t] = c^T act_out(h[t])

The states at the start of each chunk are all that the forward pass keeps. Backward runs the chunks again, from the last
to the first, and each one's adjoint as the blocked linear scan with the Jacobians as gates.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cofm_triton.cpu.blocked import linear_scan, rnn_scan
from cofm_triton.step.activation import activation, activation_slope


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor, *,
    dt: float, act_in: str, act_out: str, chunk: int, keep: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`(y, states)` with B, T >= 1, all in the state's dtype: y (B, T, p), states (B, chunks or 0, D)."""
    state = x.new_zeros(x.shape[0], rate.shape[0])
    states, outputs = [], []
    for part in x.split(chunk, 1):
        states.append(state)
        h, state = _states(part, state, weight, bias, rate, dt, act_in)
        outputs.append(F.linear(activation(act_out)(h), readout))
    kept = torch.stack(states, 1) if keep else state.new_empty(x.shape[0], 0, rate.shape[0])
    return torch.cat(outputs, 1), kept


def backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor, states: Tensor, *,
    dt: float, act_in: str, act_out: str, chunk: int, with_grad_x: bool,
) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients by x (None unless asked for), weight, bias, rate and readout, like them in the state's dtype."""
    grad_x = torch.empty_like(x) if with_grad_x else None
    grads = [torch.zeros_like(tensor) for tensor in (weight, bias, rate, readout)]
    mu = torch.zeros_like(states[:, 0])
    parts = zip(x.split(chunk, 1), grad_y.split(chunk, 1), states.unbind(1), strict=True)
    for index, (part, pull, start) in reversed(list(enumerate(parts))):
        h, _ = _states(part, start, weight, bias, rate, dt, act_in)
        before = torch.cat((start.unsqueeze(1), h[:, :-1]), 1)
        z = F.linear(part, weight, bias) - rate * before
        slope = dt * activation_slope(act_in)(z)
        jacobian = 1 - rate * slope
        drive = activation_slope(act_out)(h) * F.linear(pull, readout.T)
        drive[:, -1] += mu
        adjoint = linear_scan.scan(drive, jacobian.roll(-1, 1), torch.zeros_like(mu), True, mu.dtype)
        mu = jacobian[:, 0] * adjoint[:, 0]
        dz = slope * adjoint
        grads[0] += torch.einsum("btd,btj->dj", dz, part)
        grads[1] += dz.sum((0, 1))
        grads[2] -= (dz * before).sum((0, 1))
        grads[3] += torch.einsum("btq,btd->qd", pull, activation(act_out)(h))
        if grad_x is not None:
            grad_x[:, index * chunk : index * chunk + part.shape[1]] = F.linear(dz, weight.T)
    return grad_x, grads[0], grads[1], grads[2], grads[3]


def _states(
    x: Tensor, start: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, dt: float, act: str
) -> tuple[Tensor, Tensor]:
    """All states (B, steps, D) of a chunk, and the last one."""
    return rnn_scan.forward(
        F.linear(x, weight, bias), rate, start, None, dt=dt, nonlinearity=act, state_dtype=start.dtype
    )

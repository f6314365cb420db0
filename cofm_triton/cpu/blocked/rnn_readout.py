"""Read-out of a diagonal recurrence in plain PyTorch: time in chunks, states of one chunk at a time.

    h[t] = h[t-1] + dt * act_in(U x[t] + b - a h[t-1]),   y[t] = c^T act_out(h[t])

for every unit, or, with `turn`, for pairs of units. The states at the start of each chunk are all that the forward pass
keeps. Backward runs the chunks again, from the last to the first, and each one's adjoint.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cofm_triton.cpu.blocked import paired_rnn_scan, rnn_scan
from cofm_triton.step.activation import activation, activation_slope

_RATES: dict[str, Any] = dict(parameterization="direct", discretization="euler")  # rates as they are


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor, *,
    dt: float, act_in: str, act_out: str, chunk: int, keep: bool, turn: Tensor | None = None, lanes: int = 32,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`(y, states)` with B, T >= 1, all in the state's dtype: y (B, T, p), states (B, chunks or 0, D)."""
    state = x.new_zeros(x.shape[0], rate.shape[0])
    states, outputs = [], []
    for part in x.split(chunk, 1):
        states.append(state)
        h, state = _states(F.linear(part, weight, bias), state, rate, turn, dt, act_in)
        outputs.append(F.linear(activation(act_out)(h), readout))
    kept = torch.stack(states, 1) if keep else state.new_empty(x.shape[0], 0, rate.shape[0])
    return torch.cat(outputs, 1), kept


def backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor, states: Tensor, *,
    dt: float, act_in: str, act_out: str, chunk: int, with_grad_x: bool, turn: Tensor | None = None,
    lanes: int = 32,
) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Gradients by x (None unless asked for), weight, bias, rate, readout and turn (None unless given), like them in
    the state's dtype.
    """
    grad_x = torch.empty_like(x) if with_grad_x else None
    by_weight, by_bias, by_rate, by_readout = (torch.zeros_like(tensor) for tensor in (weight, bias, rate, readout))
    by_turn = None if turn is None else torch.zeros_like(turn)
    mu = torch.zeros_like(states[:, 0])
    options: dict[str, Any] = dict(dt=dt, nonlinearity=act_in, state_dtype=mu.dtype)
    parts = zip(x.split(chunk, 1), grad_y.split(chunk, 1), states.unbind(1), strict=True)
    for index, (part, pull, start) in reversed(list(enumerate(parts))):
        e = F.linear(part, weight, bias)
        h, _ = _states(e, start, rate, turn, dt, act_in)
        drive = activation_slope(act_out)(h) * F.linear(pull, readout.T)
        if turn is None or by_turn is None:
            dz, more, mu = rnn_scan.backward(drive, mu, e, rate, h, start, None, **options, **_RATES)
        else:
            dz, more, more_turn, mu = paired_rnn_scan.backward(drive, mu, e, rate, turn, h, start, None, **options)
            by_turn += more_turn
        by_rate += more
        by_weight += torch.einsum("btd,btj->dj", dz, part)
        by_bias += dz.sum((0, 1))
        by_readout += torch.einsum("btq,btd->qd", pull, activation(act_out)(h))
        if grad_x is not None:
            grad_x[:, index * chunk : index * chunk + part.shape[1]] = F.linear(dz, weight.T)
    return grad_x, by_weight, by_bias, by_rate, by_readout, by_turn


def _states(e: Tensor, start: Tensor, rate: Tensor, turn: Tensor | None, dt: float, act: str) -> tuple[Tensor, Tensor]:
    """All states (B, steps, D) of a chunk with the encoded inputs e, and the last one."""
    options: dict[str, Any] = dict(dt=dt, nonlinearity=act, state_dtype=start.dtype)
    if turn is None:
        return rnn_scan.forward(e, rate, start, None, **options, **_RATES)
    return paired_rnn_scan.forward(e, rate, turn, start, None, **options)

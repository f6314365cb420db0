"""Diagonal nonlinear recurrence  h[t] = h[t-1] + dt * act(x[t] - rate * h[t-1]), and pairs of units that also turn."""

from typing import Any

import torch
from torch import Tensor

from .nonlinearity import nonlinearity as lookup
from .packing import run_packed
from .precision import output_dtype, state_dtype
from .resets import state_before


def rnn_scan(
    x: Tensor,
    rate: Tensor,
    h0: Tensor | None = None,
    *,
    dt: float = 1.0,
    nonlinearity: str = "hardtanh",
    frequency: Tensor | None = None,
    seq_starts: Tensor | None = None,
    resets: Tensor | None = None,
    reset_to: str = "h0",
) -> tuple[Tensor, Tensor]:
    """Diagonal residual recurrence, one step after the other.

        h[t] = h[t-1] + dt * act(x[t] - rate * h[t-1]),   h[-1] = h0

    Euler's method for dh/dt = act(x - rate * h), arXiv 2305.19190 eq (1) with W = -diag(rate).

    Rates that vary in time, (B, T, D), make it a gated recurrence. It is stable for every choice of rates with
    0 < dt * rate[t] <= 1, because act is 0 at 0 and has slopes in [0, 1]: h[t] then lies between h[t-1] and
    x[t] / rate[t], so that |h[t]| <= max(|h[t-1]|, |x[t] / rate[t]|), and two states under the same inputs never
    move apart. Exact steps of positive rates, `effective_rate`, are in that range.

    With `frequency`, W is block diagonal, and A h takes the place of rate * h: channels (2k, 2k+1) are a pair with the
    matrix A = [[rate, -frequency], [frequency, rate]]; `oscillation.effective_pair` makes exact steps of it.

    Args:
        x: (B, T, D), the pre-activation input U x + b, any T >= 0.
        rate: (D,), 1 / time, or (B, T, D); (D // 2,) with `frequency`.
        h0: (B, D), zeros when None; (S, D) with `seq_starts`.
        dt: step, time.
        nonlinearity: name of act, see `nonlinearity`.
        frequency: (D // 2,), 1 / time, one for each pair of channels; D is even.
        seq_starts: (S,) start indices of sequences packed into one row (B = 1).
        resets: (B, T) bool or None, see `resets`.
        reset_to: "h0" or "zero".

    Returns:
        h: (B, T, D), every state, in the dtype of `x`.
        h_last: (B, D), or (S, D) with `seq_starts`: the last state, `h0` when there are no steps.

    Raises:
        ValueError: unknown nonlinearity.

    Example:
        >>> h, _ = rnn_scan(torch.full((1, 3, 1), 5.0), torch.tensor([1.0]))
        >>> h.flatten().tolist()
        [1.0, 2.0, 3.0]
    """
    if seq_starts is not None:

        def part(span: slice, state: Tensor | None) -> tuple[Tensor, Tensor]:
            mine, cut = rate if rate.dim() == 1 else rate[:, span], None if resets is None else resets[:, span]
            kinds: dict[str, Any] = dict(dt=dt, nonlinearity=nonlinearity, frequency=frequency)
            return rnn_scan(x[:, span], mine, state, resets=cut, reset_to=reset_to, **kinds)

        return run_packed(part, seq_starts, h0, x.shape)
    act = lookup(nonlinearity).act
    compute, output = state_dtype(x, rate, h0), output_dtype(x, rate, h0)
    inputs = x.to(compute)
    state = inputs.new_zeros(x.shape[0], x.shape[2]) if h0 is None else h0.to(compute)
    start, rates, turns = state, rate.to(compute), None
    if frequency is not None:
        # Row 2k of A h is rate h[2k] - frequency h[2k+1], row 2k + 1 is rate h[2k+1] + frequency h[2k].
        rates = rates.repeat_interleave(2)
        turns = torch.stack((-frequency, frequency), -1).flatten().to(compute)
    rows = [
        inputs[:, :0] * (rates if rates.dim() == 1 else rates[:, :0])
    ]  # nothing, but it ties T = 0 to the arguments
    if turns is not None:
        rows[0] = rows[0] * turns
    for t in range(x.shape[1]):
        state = state_before(t, state, start, resets, reset_to)
        pulled = (rates if rates.dim() == 1 else rates[:, t]) * state
        if turns is not None:
            pulled = pulled + turns * state.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
        state = state + dt * act(inputs[:, t] - pulled)
        rows.append(state.unsqueeze(1))
    return torch.cat(rows, 1).to(output), state.to(output if h0 is None else output_dtype(h0, x, rate))

"""Dense nonlinear recurrence  h[t] = h[t-1] + dt * act(x[t] - weight @ h[t-1])."""

import torch
from torch import Tensor

from .nonlinearity import nonlinearity as lookup
from .precision import output_dtype, state_dtype
from .resets import state_before


def dense_rnn(
    x: Tensor,
    weight: Tensor,
    h0: Tensor | None = None,
    *,
    dt: float = 1.0,
    nonlinearity: str = "hardtanh",
    resets: Tensor | None = None,
    reset_to: str = "h0",
) -> tuple[Tensor, Tensor]:
    """Dense residual recurrence, one step after the other.

        h[t] = h[t-1] + dt * act(x[t] - weight @ h[t-1]),   h[-1] = h0

    Euler's method for arXiv 2305.19190 eq (1) with W = -weight.

    Args:
        x: (B, T, D), the pre-activation input U x + b, any T >= 0.
        weight: (D, D), 1 / time; row i drives unit i.
        h0: (B, D), zeros when None.
        dt: step, time.
        nonlinearity: name of act, see `nonlinearity`.
        resets: (B, T) bool, True where a new episode begins: the state before that step is the start state.
        reset_to: the start state of episodes, "h0" or "zero".

    Returns:
        h: (B, T, D), every state, in the dtype of `x`.
        h_last: (B, D), the last state, `h0` when T = 0.

    Raises:
        ValueError: unknown nonlinearity or `reset_to`.

    Example:
        >>> swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> h, _ = dense_rnn(torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]), swap)
        >>> h[0].tolist()
        [[1.0, 0.0], [1.0, -1.0]]
    """
    act = lookup(nonlinearity).act
    compute, output = state_dtype(x, weight, h0), output_dtype(x, weight, h0)
    inputs, matrix = x.to(compute), weight.to(compute)
    state = inputs.new_zeros(x.shape[0], x.shape[2]) if h0 is None else h0.to(compute)
    start = state
    rows = [inputs[:, :0] @ matrix.T]  # nothing, but it ties T = 0 to the arguments
    for t in range(x.shape[1]):
        state = state_before(t, state, start, resets, reset_to)
        state = state + dt * act(inputs[:, t] - state @ matrix.T)
        rows.append(state.unsqueeze(1))
    return torch.cat(rows, 1).to(output), state.to(output if h0 is None else output_dtype(h0, x, weight))

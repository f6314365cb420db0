"""Launches of the nonlinear recurrence of pairs of channels: the kernels are those of `rnn_scan.py`, PAIRED.

    h[t] = h[t-1] + dt * act(z[t]),   z[t] = x[t] - pull * h[t-1] + turn * swap(h[t-1])

A lane holds both channels of a pair, so that exchanging them renames registers.
"""

from __future__ import annotations

from typing import Any

from cofm_triton.kernels.rnn_scan import buffers, starts_from_h0, walk_backward, walk_forward

# The kernels' rates are coefficients as they are.
PLAIN = dict(PARAMETERIZATION="direct", EXACT=False)


def forward(
    x: Any, pull: Any, turn: Any, h0: Any, seq_starts: Any, *,
    dt: float, nonlinearity: str, state_dtype: Any, num_sms: int, lanes: int, sequential: bool = False,
    resets: Any = None, reset_to: str = "h0",
) -> tuple[Any, Any]:  # fmt: skip
    """`(h, h_last)` with T >= 1: h (B, T, D) in x's dtype, h_last (S, D) in the state's, which is that of the rows."""
    x = _in_pairs(x)
    h, last, block, shape = buffers([x], seq_starts, state_dtype, num_sms, pair_lanes=lanes)
    walk_forward(
        x, pull, turn, h0, seq_starts, resets, h, last, block, num_sms, sequential, dt=dt, NONLINEARITY=nonlinearity,
        TO_H0=starts_from_h0(h0, resets, reset_to), **PLAIN, **shape,
    )  # fmt: skip
    return h, last


def backward(
    grad_h: Any, grad_last: Any, x: Any, pull: Any, turn: Any, h: Any, h0: Any, seq_starts: Any, *,
    dt: float, nonlinearity: str, state_dtype: Any, num_sms: int, lanes: int, resets: Any = None, reset_to: str = "h0",
    summed: bool = True,
) -> tuple[Any, Any, Any, Any]:  # fmt: skip
    """`(grad_x, grad_pull, grad_turn, grad_h0)` with T >= 1; (D,), (D,), or both in pieces, and (S, D) in the state's
    dtype.
    """
    x, grad_h = _in_pairs(x), _in_pairs(grad_h)
    grad_x, grad_h0, block, shape = buffers([x, grad_h], seq_starts, state_dtype, num_sms, pair_lanes=lanes)
    grad_pull, grad_turn, grad_h0 = walk_backward(
        grad_h, grad_last, x, pull, turn, h, h0, seq_starts, resets, grad_x, grad_h0, block, num_sms, summed, dt=dt,
        NONLINEARITY=nonlinearity, TO_H0=starts_from_h0(h0, resets, reset_to), **PLAIN, **shape,
    )  # fmt: skip
    return grad_x, grad_pull, grad_turn, grad_h0


def _in_pairs(x: Any) -> Any:
    """x with the channels of a pair next to each other, and pairs at addresses that are multiples of their size;
    copied only where they are not.
    """
    stride_b, stride_t, stride_d = x.stride()
    together = stride_d == 1 and stride_b % 2 == 0 and stride_t % 2 == 0 and x.data_ptr() % (2 * x.element_size()) == 0
    return x if together else x.new_empty(x.shape).copy_(x)

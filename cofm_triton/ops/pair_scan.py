"""Affine recurrence of pairs of channels, with a matrix for each pair and step, as a composition of PyTorch functions.

    h[t] = J[t] h[t-1] + u[t]

What the nonlinear recurrence of pairs has for a tangent and for an adjoint. Neighbouring steps are joined into one
until one is left: O(T) work in log2(T) rounds of operations that can be differentiated to any order, and batched.
Products of matrices that grow may overflow before the states do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cofm_triton.ops.shapes import last_states, previous_states


def pair_scan(
    jacobian: Tensor, drive: Tensor, h0: Tensor | None, seq_starts: Tensor | None, reverse: bool,
    resets: Tensor | None = None, reset_to: str = "h0",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`(h, h_last)` with T >= 1; `reverse` runs from the last step to the first.

    Args:
        jacobian: J, (B, T, D // 2, 2, 2).
        drive: u, (B, T, D).
        h0: (S, D), zeros when None.
        seq_starts: (S,) start indices of packed sequences, or None.
        reverse: h0 enters at the end, and h_last is the state at the first step of every sequence.
        resets: (B, T), True where a step goes on from a start state, in the order of the recurrence, or None.
        reset_to: which one, "h0" or "zero".

    Example:
        >>> pair_scan(torch.eye(2).expand(1, 3, 1, 2, 2), torch.ones(1, 3, 2), None, None, False)[1].tolist()
        [[3.0, 3.0]]
    """
    # Where a sequence or a piece of it begins, its first state becomes a part of the drive, and the matrix is 0.
    sequences = drive.shape[0] if seq_starts is None else seq_starts.shape[0]
    start = drive.new_zeros((sequences, drive.shape[2])) if h0 is None else h0
    entering = previous_states(torch.zeros_like(drive), start, seq_starts, reverse, resets, reset_to)
    inner = previous_states(torch.ones_like(drive), torch.zeros_like(start), seq_starts, reverse, resets, "zero")
    u = _pairs(drive) + _times(jacobian, _pairs(entering))
    matrices = jacobian * _pairs(inner).unsqueeze(-1)
    if reverse:
        h = _scan(matrices.flip(1), u.flip(1)).flip(1).flatten(-2)
        return h, _first_states(h, start, seq_starts)
    h = _scan(matrices, u).flatten(-2)
    return h, last_states(h, start, seq_starts)


def _pairs(row: Tensor) -> Tensor:
    return row.unflatten(-1, (-1, 2))


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix * vector.unsqueeze(-2)).sum(-1)


def _scan(matrices: Tensor, u: Tensor) -> Tensor:
    """Every state (B, T, D // 2, 2) from a start at zero."""
    length = u.shape[1]
    if length == 1:
        return u
    whole = length // 2 * 2
    early, late = matrices[:, 0:whole:2], matrices[:, 1:whole:2]
    joined = (late.unsqueeze(-1) * early.unsqueeze(-3)).sum(-2)
    odd = _scan(joined, _times(late, u[:, 0:whole:2]) + u[:, 1:whole:2])
    before = torch.cat((torch.zeros_like(odd[:, :1]), odd), 1)[:, : (length + 1) // 2]
    even = _times(matrices[:, 0::2], before) + u[:, 0::2]
    both = torch.stack((even[:, : whole // 2], odd), 2).flatten(1, 2)
    return torch.cat((both, even[:, whole // 2 :]), 1)


def _first_states(h: Tensor, start: Tensor, seq_starts: Tensor | None) -> Tensor:
    """The state at the first step of each sequence, (S, D); the start of an empty one."""
    if seq_starts is None:
        return h[:, 0]
    starts = seq_starts.long()
    ends = torch.cat([starts[1:], starts.new_full((1,), h.shape[1])])
    return torch.where((ends > starts).unsqueeze(1), h[0, starts.clamp(max=h.shape[1] - 1)], start)

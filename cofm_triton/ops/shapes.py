"""Shapes shared by the operators: earlier states, axes that `torch.func.vmap` adds, and sizes that nobody knows yet."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def previous_states(h: Tensor, h0: Tensor | None, seq_starts: Tensor | None, reverse: bool) -> Tensor:
    """`h[t-1]` at every t, with h0 (zeros when None) before the first step of each sequence.

    Args:
        h: (B, T, D) states.
        h0: (S, D) initial states, S = B unless packed.
        seq_starts: (S,) start indices of packed sequences, or None.
        reverse: the recurrence runs from t = T-1 down, so the earlier state is `h[t+1]`.

    Returns:
        (B, T, D) in the dtype of h: widen h to that of the state first, lest h0 lose digits.
    """
    if h.shape[1] == 0:
        return h
    if seq_starts is None:
        first = torch.zeros_like(h[:, 0]) if h0 is None else h0.to(h.dtype)
        if reverse:
            return torch.cat([h[:, 1:], first.unsqueeze(1)], 1)
        return torch.cat([first.unsqueeze(1), h[:, :-1]], 1)
    length = h.shape[1]
    starts = seq_starts.long()
    ends = torch.cat([starts[1:], starts.new_full((1,), length)])
    occupied = ends > starts
    entries = torch.where(occupied, ends - 1 if reverse else starts, length)
    states = h.new_zeros((starts.shape[0], h.shape[2])) if h0 is None else h0.to(h.dtype)
    # The row of h, or of h0 behind it, that comes before each step; an extra step takes those of empty sequences.
    steps = torch.arange(length + 1, device=h.device)
    of_sequence = length + torch.arange(starts.shape[0], device=h.device)
    rows = (steps + 1 if reverse else steps - 1).index_copy(0, entries, of_sequence)[:-1]
    return torch.cat([h[0], states]).index_select(0, rows).unsqueeze(0)


def last_states(h: Tensor, h0: Tensor | None, seq_starts: Tensor | None) -> Tensor:
    """The state after the last step of each sequence, (S, D); h0 (zeros when None) of an empty one.

    Args:
        h: (B, T, D) states, T >= 1.
        h0: (S, D) initial states in the dtype of h, or None.
        seq_starts: (S,) start indices of packed sequences, or None.
    """
    if seq_starts is None:
        return h[:, -1].clone()
    starts = seq_starts.long()
    ends = torch.cat([starts[1:], starts.new_full((1,), h.shape[1])])
    first = h.new_zeros((1, h.shape[2])) if h0 is None else h0
    return torch.where((ends > starts).unsqueeze(1), h[0, (ends - 1).clamp(min=0)], first)


def fold_batch(tensor: Tensor, dim: int | None, size: int, into_channels: bool) -> Tensor:
    """Fold a mapped axis of `size` entries (absent when `dim` is None) into the first or the last axis."""
    mapped = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    if into_channels:
        mapped = mapped.movedim(0, -2)
        return mapped.reshape(*mapped.shape[:-2], size * mapped.shape[-1])
    return mapped.reshape(size * mapped.shape[1], *mapped.shape[2:])


def split_batch(tensor: Tensor, size: int, from_channels: bool) -> Tensor:
    """Undo `fold_batch`: the mapped axis comes first."""
    if from_channels:
        return tensor.unflatten(-1, (size, -1)).movedim(-2, 0)
    return tensor.unflatten(0, (size, -1))


def holds(condition: Any) -> bool:
    """Whether a condition on sizes holds; while a graph is made, whether it holds for all sizes that the graph is for.

    To branch on such a condition would bind the graph to the sizes of its example.

    Example:
        >>> holds(2 < 8), holds(9 < 8)
        (True, False)
    """
    if isinstance(condition, Tensor):  # what sizes are to `torch.jit.trace`
        return False
    if isinstance(condition, bool) and not torch.compiler.is_compiling():
        return condition
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # takes a second to import

    return statically_known_true(condition)


def packed_starts(seq_starts: Tensor | None) -> Tensor | None:
    """Start indices next to each other in memory, where kernels look for them."""
    return None if seq_starts is None else seq_starts.contiguous()

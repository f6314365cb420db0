"""Shapes shared by the operators: earlier states, resets, results of calls without steps, axes that `torch.func.vmap`
adds, and sizes that nobody knows yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cofm_triton.ops.dtypes import state_dtype


def previous_states(
    h: Tensor, h0: Tensor | None, seq_starts: Tensor | None, reverse: bool, resets: Tensor | None = None,
    reset_to: str = "h0",
) -> Tensor:  # fmt: skip
    """`h[t-1]` at every t, with h0 (zeros when None) before the first step of each sequence.

    Args:
        h: (B, T, D) states.
        h0: (S, D) initial states, S = B unless packed.
        seq_starts: (S,) start indices of packed sequences, or None.
        reverse: the recurrence runs from t = T-1 down, so the earlier state is `h[t+1]`.
        resets: (B, T), True where a step goes on from the start state of its sequence, or None.
        reset_to: the start state that resets mean, "h0" or "zero".

    Returns:
        (B, T, D) in the dtype of h: widen h to that of the state first, lest h0 lose digits.
    """
    if h.shape[1] == 0:
        return h
    if resets is not None:
        before = previous_states(h, h0, seq_starts, reverse)
        if h0 is None or reset_to == "zero":
            return before.masked_fill(resets.unsqueeze(2), 0)
        start = h0.unsqueeze(1) if seq_starts is None else h0[sequence_of_steps(seq_starts, h.shape[1])].unsqueeze(0)
        return torch.where(resets.unsqueeze(2), start.to(h.dtype), before)
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


def sequence_of_steps(seq_starts: Tensor, length: int) -> Tensor:
    """(T,): the packed sequence that each step belongs to.

    Example:
        >>> sequence_of_steps(torch.tensor([0, 2, 2]), 4).tolist()
        [0, 0, 2, 2]
    """
    steps = torch.arange(length, device=seq_starts.device, dtype=seq_starts.dtype)
    return torch.searchsorted(seq_starts.contiguous(), steps, right=True).sub(1).clamp(min=0)


def resets_against(resets: Tensor | None, seq_starts: Tensor | None, reverse: bool) -> Tensor | None:
    """The same cuts for a recurrence in the other direction, which `reverse` names.

    A cut lies between two steps. `resets` is True at the later one in the order of its recurrence: that is the other
    one of the two where the order is the opposite. Beyond the ends of a sequence there is no step.

    Example:
        >>> resets_against(torch.tensor([[True, False, True]]), None, reverse=True)
        tensor([[False,  True, False]])
    """
    if resets is None:
        return None
    return previous_states(resets.unsqueeze(2), None, seq_starts, reverse).squeeze(2)


def start_gradients(
    mu: Tensor, first: Tensor, seq_starts: Tensor | None, reverse: bool, resets: Tensor | None, reset_to: str
) -> Tensor:
    """The gradient of h0 (S, D): the sum of what arrives before all steps that go on from it.

    Args:
        mu: (B, T, D), the derivative by the state before every step.
        first: (S, D), that before the first step of each sequence, in the order of the recurrence.
        seq_starts: of the recurrence, as for `previous_states`.
        reverse: likewise.
        resets: likewise.
        reset_to: likewise.
    """
    if resets is None:
        return first
    has_before = previous_states(torch.ones_like(resets).unsqueeze(2), None, seq_starts, reverse)
    cut = resets.unsqueeze(2)
    if reset_to == "zero":
        dropped = _sum_of_steps((cut & ~has_before).to(first.real.dtype), seq_starts, first.shape[0])
        return first.masked_fill(dropped > 0, 0)
    return first + _sum_of_steps(mu.masked_fill(~(cut & has_before), 0), seq_starts, first.shape[0])


def _sum_of_steps(rows: Tensor, seq_starts: Tensor | None, sequences: int) -> Tensor:
    """(S, D) sums over the steps of each sequence of rows (B, T, D)."""
    if seq_starts is None:
        return rows.sum(1)
    sums = rows.new_zeros((sequences, rows.shape[2]))
    return sums.index_add(0, sequence_of_steps(seq_starts, rows.shape[1]), rows[0])


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


def empty_states(x: Tensor, h0: Tensor | None, seq_starts: Tensor | None) -> tuple[Tensor, Tensor]:
    """`(h, h_last)` without numbers: h like x, (B, T, D), and h_last, (S, D), in h0's dtype, x's when h0 is None."""
    sequences = x.shape[0] if seq_starts is None else seq_starts.shape[0]
    return x.new_empty(x.shape), x.new_empty((sequences, x.shape[2]), dtype=x.dtype if h0 is None else h0.dtype)


def states_of_nothing(x: Tensor, h0: Tensor | None, seq_starts: Tensor | None) -> tuple[Tensor, Tensor]:
    """`(h, h_last)` of a call without numbers in x: every sequence stays where it starts."""
    h, last = empty_states(x, h0, seq_starts)
    return h, last.zero_() if h0 is None else h0.clone()


def start_gradient(h: Tensor, seq_starts: Tensor | None) -> Tensor:
    """grad_h0 without numbers, (S, D) in the state's dtype."""
    sequences = h.shape[0] if seq_starts is None else seq_starts.shape[0]
    return h.new_empty((sequences, h.shape[2]), dtype=state_dtype(h.dtype))


def start_gradient_of_nothing(h: Tensor, grad_last: Tensor | None, seq_starts: Tensor | None) -> Tensor:
    """grad_h0 of a call without numbers in h: h_last is h0."""
    grad = start_gradient(h, seq_starts)
    return grad.zero_() if grad_last is None else grad_last.to(grad.dtype, copy=True)


def no_gradient(h: Tensor) -> Tensor:
    """Zeros like h, whose rows lie at one address: no memory and no traffic."""
    return h.new_zeros(h.shape[-1:]).expand(h.shape)


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


def map_scan(
    operator: Callable[..., Any], parameters: int, info: Any, in_dims: tuple[Any, ...], arguments: tuple[Any, ...]
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """`operator(x, *parameters, h0, seq_starts, resets, ...)` for a mapped axis: it joins the batch, or the channels
    where parameters that are a row each differ along it, or where rows are packed. Resets of their own no channels can
    have.
    """
    end = parameters + 1
    rows = [i for i in range(1, end) if arguments[i].dim() - (in_dims[i] is not None) == 1]
    into_channels = arguments[end + 1] is not None or any(in_dims[i] is not None for i in rows)
    if into_channels and in_dims[end + 2] is not None:
        return map_one_by_one(operator, info, in_dims, arguments)
    folded = list(arguments)
    for i in range(end + 1) if into_channels else (*range(end + 1), end + 2):
        if isinstance(arguments[i], Tensor) and (into_channels or i not in rows):
            folded[i] = fold_batch(arguments[i], in_dims[i], info.batch_size, into_channels)
    h, last = (split_batch(result, info.batch_size, into_channels) for result in operator(*folded))
    return (h, last), (0, 0)


def map_adjoint(
    operator: Callable[..., Any], tensors: int, info: Any, in_dims: tuple[Any, ...], arguments: tuple[Any, ...]
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """An adjoint for a mapped axis of the first of its arguments, the tensors: it joins the channels, since each of its
    entries has gradients of its own. Seq_starts and resets follow.
    """
    if in_dims[tensors + 1] is not None:
        return map_one_by_one(operator, info, in_dims, arguments)
    folded = [
        None if tensor is None else fold_batch(tensor, dim, info.batch_size, True)
        for tensor, dim in zip(arguments[:tensors], in_dims, strict=False)
    ]
    grads = tuple(split_batch(grad, info.batch_size, True) for grad in operator(*folded, *arguments[tensors:]))
    return grads, (0,) * len(grads)


def map_one_by_one(
    operator: Callable[..., Any], info: Any, in_dims: tuple[Any, ...], arguments: tuple[Any, ...]
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Results of an operator entry by entry along the mapped axis, stacked."""
    results = [
        operator(*(v if d is None else v.select(d, i) for v, d in zip(arguments, in_dims, strict=True)))
        for i in range(info.batch_size)
    ]
    stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    return stacked, (0,) * len(stacked)


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

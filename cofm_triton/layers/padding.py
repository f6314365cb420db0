"""First and last states, and time turned round, of a batch of sequences: padded ones have lengths (B,), others None.

Sequences packed end to end into one row become padded ones, and these such a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cofm_triton.ops.dtypes import state_dtype


def reverse(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Flip every sequence of x (B, T, d) within its own length; the padding stays behind it."""
    if lengths is None:
        return x.flip(1)
    time = torch.arange(x.shape[1], device=x.device)
    mirrored = lengths[:, None] - 1 - time
    index = torch.where(mirrored >= 0, mirrored, time)
    return x.gather(1, index[:, :, None].expand_as(x))


def reverse_resets(resets: Tensor | None, lengths: Tensor | None) -> Tensor | None:
    """Resets (B, T) of sequences whose time is turned round: a cut between two steps stays between these.

    Example:
        >>> reverse_resets(torch.tensor([[True, False, False, True]]), None)
        tensor([[False,  True, False, False]])
    """
    if resets is None:
        return None
    later = torch.cat((resets[:, 1:], torch.zeros_like(resets[:, :1])), 1)
    return reverse(later.unsqueeze(2), lengths).squeeze(2)


def padded(x: Tensor, seq_starts: Tensor) -> tuple[Tensor, Tensor]:
    """The sequences of x (1, T, d), T >= 1, that start at indices (S,), as (S, longest, d), and their lengths (S,)."""
    starts, length = seq_starts.long(), x.shape[1]
    lengths = torch.cat((starts[1:], starts.new_full((1,), length))) - starts
    time = torch.arange(int(lengths.max()), device=x.device)
    return x[0][(starts[:, None] + time).clamp(max=length - 1)], lengths


def padded_resets(resets: Tensor, seq_starts: Tensor) -> Tensor:
    """The same of resets (1, T): (S, longest), and none in the padding."""
    rows, lengths = padded(resets.unsqueeze(2), seq_starts)
    return rows.squeeze(2) & (torch.arange(rows.shape[1], device=rows.device) < lengths[:, None])


def end_to_end(x: Tensor, lengths: Tensor) -> Tensor:
    """Padded sequences x (S, longest, d) in one row (1, T, d): the inverse of `padded`."""
    return x[torch.arange(x.shape[1], device=x.device) < lengths[:, None]].unsqueeze(0)


def initial_state(h0: Tensor | None, e: Tensor) -> Tensor | None:
    """The initial state in the dtype of the states, where it is not that of the encoded input: the last one has it."""
    state = state_dtype(e.dtype)
    if h0 is None:
        return None if e.dtype == state else e.new_zeros(e.shape[0], e.shape[2], dtype=state)
    return h0.to(state)


def drive(e: Tensor, lengths: Tensor | None) -> Tensor:
    """The encoded input (B, T, D); for padded sequences in the dtype of the states, whose last one is one of them."""
    return e if lengths is None else e.to(state_dtype(e.dtype))


def final_state(h: Tensor, h_last: Tensor, lengths: Tensor | None) -> Tensor:
    """The state (B, D) after the last step of each sequence, of all of them h (B, T, D) if lengths differ."""
    return h_last if lengths is None else h[torch.arange(len(lengths), device=h.device), lengths - 1]

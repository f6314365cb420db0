"""The sequences of a call: those of the batch, several that are packed end to end into one row, or pieces of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Pieces(NamedTuple):
    """What resets cut the sequences of a call into. To a loop, a piece is a sequence: it has a state of its own.

    Attributes:
        spans: (P, 3), batch index, first row and number of rows of every piece.
        sequence: (P,), which sequence it is a piece of.
        from_start: (P,), whether it goes on from the start state of its sequence, not from zero.
        last: (S,), the piece that has the last step of each sequence.
    """

    spans: Tensor
    sequence: Tensor
    from_start: Tensor
    last: Tensor

    def starts(self, h0: Tensor | None) -> Tensor | None:
        """The state (P, D) before every piece."""
        return None if h0 is None else h0[self.sequence].masked_fill_(~self.from_start.unsqueeze(1), 0)

    def ends(self, states: Tensor | None) -> Tensor | None:
        """Adjoints (P, D) after every piece, of those (S, D) after every sequence."""
        if states is None:
            return None
        return states.new_zeros((len(self.sequence), states.shape[1])).index_copy_(0, self.last, states)

    def sum_at_start(self, states: Tensor) -> Tensor:
        """The sum (S, D) over the pieces of each sequence that go on from its start state."""
        kept = states.masked_fill(~self.from_start.unsqueeze(1), 0)
        return states.new_zeros((len(self.last), states.shape[1])).index_add_(0, self.sequence, kept)


def pieces(resets: Tensor, seq_starts: Tensor | None, *, reverse: bool, reset_to: str) -> Pieces:
    """The pieces of a call, row by row, then those of empty sequences.

    Args:
        resets: (B, T), True where a step goes on from a start state, not from the state before it.
        seq_starts: (S,) where packed sequences start, or None.
        reverse: the order of the recurrence is from the last step to the first.
        reset_to: what a reset starts from, "h0" or "zero".

    Example:
        >>> cut = pieces(torch.tensor([[False, False, True]]), None, reverse=False, reset_to="zero")
        >>> cut.spans.tolist(), cut.from_start.tolist(), cut.last.tolist()
        ([[0, 0, 2], [0, 2, 1]], [True, False], [1])
    """
    (batch, length), flags = resets.shape, resets.numpy()
    if seq_starts is None:
        row, first = np.arange(batch), np.zeros(batch, np.int64)
        count = first + length
    else:
        times = [time for _, time in spans(starts_of(seq_starts), length)]
        first, count = np.array([(time.start, time.stop - time.start) for time in times], np.int64).T
        row = np.zeros_like(first)
    filled = np.flatnonzero(count > 0)
    at = row[filled] * length + first[filled]
    # Where pieces begin in memory: at a reset, backwards one row above it.
    begins = np.zeros((batch, length + 1), np.bool_)
    begins[:, reverse : length + reverse] = flags
    begins[row[filled], first[filled]] = True
    begin = np.flatnonzero(begins[:, :length])
    rows = np.diff(begin, append=batch * length)
    sequence = filled[np.searchsorted(at, begin, side="right") - 1]
    is_reset = flags.reshape(-1)[begin + rows - 1 if reverse else begin]
    # A sequence without steps is one piece, which ends where it starts.
    empty = np.flatnonzero(count == 0)
    cut, total = len(sequence), len(sequence) + len(empty)
    of, from_start, found = np.concatenate((sequence, empty)), np.ones(total, np.bool_), np.zeros((total, 3), np.int64)
    if reset_to == "zero":
        from_start[:cut] = ~is_reset
    found[:cut, 0], found[:cut, 1], found[:cut, 2] = begin // length, begin % length, rows
    last, order = np.empty(len(first), np.int64), np.arange(total)
    ends = order[::-1] if reverse else order  # of one sequence's pieces, what is written last stays
    last[of[ends]] = ends
    return Pieces(*map(torch.from_numpy, (found, of, from_start, last)))


def starts_of(seq_starts: Tensor | None) -> tuple[int, ...] | None:
    """Where packed sequences start, as numbers."""
    return None if seq_starts is None else tuple(seq_starts.tolist())


def cuts_of(seq_starts: Tensor | Pieces | None) -> tuple[int, ...] | Pieces | None:
    """Where a call is cut, as plans take it."""
    return seq_starts if isinstance(seq_starts, Pieces) else starts_of(seq_starts)


def spans(seq_starts: Sequence[int] | None, length: int) -> list[tuple[slice, slice]]:
    """`(rows of the state, time range)` of every packed sequence; without packing, one entry for the whole batch."""
    if seq_starts is None:
        return [(slice(None), slice(0, length))]
    starts = [min(max(start, 0), length) for start in seq_starts]
    ends = [max(start, end) for start, end in zip(starts, [*starts[1:], length], strict=True)]
    return [(slice(s, s + 1), slice(start, end)) for s, (start, end) in enumerate(zip(starts, ends, strict=True))]

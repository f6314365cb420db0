"""The sequences of a call: one that covers the batch, or several packed end to end into one row."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def starts_of(seq_starts: Tensor | None) -> tuple[int, ...] | None:
    """Where packed sequences start, as numbers."""
    return None if seq_starts is None else tuple(seq_starts.tolist())


def spans(seq_starts: Sequence[int] | None, length: int) -> list[tuple[slice, slice]]:
    """`(rows of the state, time range)` of every sequence; without packing one entry covers everything."""
    if seq_starts is None:
        return [(slice(None), slice(0, length))]
    starts = [min(max(start, 0), length) for start in seq_starts]
    ends = [max(start, end) for start, end in zip(starts, [*starts[1:], length], strict=True)]
    return [(slice(s, s + 1), slice(start, end)) for s, (start, end) in enumerate(zip(starts, ends, strict=True))]

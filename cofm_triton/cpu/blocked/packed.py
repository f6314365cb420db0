"""The sequences of a call: one that covers the batch, or several packed end to end into one row."""

from __future__ import annotations

from torch import Tensor


def spans(seq_starts: Tensor | None, length: int) -> list[tuple[slice, slice]]:
    """`(rows of the state, time range)` of every sequence; without packing one entry covers everything."""
    if seq_starts is None:
        return [(slice(None), slice(0, length))]
    starts = [min(max(int(start), 0), length) for start in seq_starts.tolist()]
    ends = [max(start, end) for start, end in zip(starts, [*starts[1:], length], strict=True)]
    return [
        (slice(s, s + 1), slice(start, end))
        for s, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]

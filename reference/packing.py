"""Several sequences packed end to end into one row, each with a state of its own.

`seq_starts` holds the S start indices, the first one 0; sequence s covers
`seq_starts[s] <= t < seq_starts[s + 1]`, the last one ends with the row. The definition of a
recurrence over such a row is the recurrence over each sequence alone.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Run = Callable[[slice, Tensor | None], tuple[Tensor, Tensor]]


def spans(seq_starts: Tensor, length: int) -> list[slice]:
    """Time range of every packed sequence; equal neighbours give an empty sequence.

    Args:
        seq_starts: (S,) integers, non-decreasing, the first one 0, none above `length`.
        length: T, the length of the row.

    Raises:
        ValueError: `seq_starts` does not cut [0, length) into consecutive ranges.

    Example:
        >>> spans(torch.tensor([0, 2]), 5)
        [slice(0, 2, None), slice(2, 5, None)]
    """
    starts = [int(start) for start in seq_starts]
    ends = [*starts[1:], length]
    if not starts or starts[0] != 0 or any(a > b for a, b in zip(starts, ends, strict=True)):
        raise ValueError(f"seq_starts must begin with 0 and not decrease up to length {length}, got {starts}")
    return [slice(a, b) for a, b in zip(starts, ends, strict=True)]


def run_packed(run: Run, seq_starts: Tensor, h0: Tensor | None, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Run a recurrence on every packed sequence alone and join the results.

    Args:
        run: maps a time range and an initial state (1, D) to `(h, h_last)`.
        seq_starts: (S,) start indices, see `spans`.
        h0: (S, D), one initial state per sequence, or None for zeros.
        shape: (1, T, D), the shape of the packed input.

    Returns:
        h (1, T, D) and h_last (S, D).

    Raises:
        ValueError: more than one row, or not one initial state per sequence.
    """
    if shape[0] != 1:
        raise ValueError(f"seq_starts packs one row: x must be (1, T, D), got {tuple(shape)}")
    parts = spans(seq_starts, shape[1])
    if h0 is not None and h0.shape[0] != len(parts):
        raise ValueError(f"h0 must hold one state per sequence ({len(parts)}), got {len(h0)}")
    results = [run(part, None if h0 is None else h0[i : i + 1]) for i, part in enumerate(parts)]
    return torch.cat([h for h, _ in results], 1), torch.cat([last for _, last in results], 0)

"""Who does what: sequences to threads, and parts of a sequence where sequences do not divide evenly."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from cofm_triton.cpu.blocked.packed import spans
from cofm_triton.cpu.jit.rows import Rows
from cofm_triton.cpu.jit.threads import workers

# Below this many numbers a second thread costs more than it saves.
MIN_NUMBERS = 2**15


class Span(NamedTuple):
    """A sequence: batch index, first row, number of rows."""

    batch: int
    first: int
    length: int

    def address(self, rows: Rows, step: int, reverse: bool) -> int:
        """Address of the row that the recurrence takes at `step`."""
        return rows.at(self.batch, self.first + (self.length - 1 - step if reverse else step))


class Part(NamedTuple):
    """Steps [begin, end) of a sequence."""

    sequence: int
    begin: int
    end: int


def walk(spans: Sequence[Span], parts: Sequence[Part], tensors: Sequence[Rows], reverse: bool) -> tuple[Any, ...]:
    """What compiled loops over parts take.

    Returns:
        `(places, begins, counts, step, sample, step, sample, ...)`: addresses (parts, tensors) of the rows where each
        part begins, its begin and its steps (parts,), then for each tensor the distance of a row to the next and a
        sample of its dtype.
    """
    places = [[spans[part.sequence].address(rows, part.begin, reverse) for rows in tensors] for part in parts]
    bounds = np.array([part[1:] for part in parts], np.int64)
    steps = [item for rows in tensors for item in (-rows.step if reverse else rows.step, rows.sample)]
    return np.array(places, np.int64), bounds[:, 0], bounds[:, 1] - bounds[:, 0], *steps


def sequences(seq_starts: Tensor | None, batch: int, length: int) -> list[Span]:
    """The sequences of a batch, or those packed into its only row."""
    if seq_starts is None:
        return [Span(b, 0, length) for b in range(batch)]
    return [Span(0, time.start, time.stop - time.start) for _, time in spans(seq_starts, length)]


def share(lengths: Sequence[int], channels: int, read_cost: float | None) -> tuple[list[Part], int]:
    """Parts that cover every sequence, and the number of threads that do them side by side.

    Args:
        lengths: steps of each sequence.
        channels: numbers per step.
        read_cost: time of bringing the recurrence one step forward without storing it, over that of doing the step; a
            part has to do so from the beginning of its sequence. None keeps sequences whole.
    """
    threads = workers() if sum(lengths) * channels >= MIN_NUMBERS else 1
    whole = len(lengths) if read_cost is None else len(lengths) - len(lengths) % threads
    parts = [Part(sequence, 0, lengths[sequence]) for sequence in range(whole)]
    # Threads take the next part when they are done with one: long ones come first.
    parts.sort(key=lambda part: part.begin - part.end)
    for sequence in range(whole, len(lengths)):
        parts += split(sequence, lengths[sequence], threads, read_cost or 1.0)
    return parts, min(threads, len(parts))


def collect(parts: Sequence[Part], states: Any, lengths: Sequence[int]) -> Any:
    """The last state (S, D) of every sequence, of states (parts, D) at the end of parts."""
    last = {part.sequence: k for k, part in enumerate(parts) if part.end == lengths[part.sequence]}
    return states[[last[sequence] for sequence in range(len(lengths))]]


def total(parts: Sequence[Part], sums: Any) -> Any:
    """The sum (D,) of sums (parts, D), taken in the order of sequences and steps."""
    return sums[sorted(range(len(parts)), key=parts.__getitem__)].sum(0)


def split(sequence: int, length: int, threads: int, read_cost: float) -> list[Part]:
    """Parts of a sequence that take the same time, each with all the steps before it read once more.

    Part k takes `read_cost * end[k-1] + end[k] - end[k-1]`; equal times give ends in a geometric series.
    """
    ends = [0.0]
    for _ in range(threads):
        ends.append(ends[-1] * (1 - read_cost) + 1)
    bounds = [round(length * end / ends[-1]) for end in ends]
    return [Part(sequence, begin, end) for begin, end in pairwise(bounds)]


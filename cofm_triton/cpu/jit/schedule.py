"""Who does what: sequences to threads, and parts of a sequence where sequences do not divide evenly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from cofm_triton.cpu.blocked.packed import spans
from cofm_triton.cpu.jit.rows import Rows
from cofm_triton.cpu.jit.threads import run, workers

# Below this many numbers a second thread costs more than it saves.
MIN_NUMBERS = 2**15


class Span(NamedTuple):
    """A sequence: batch index, first row, number of rows."""

    batch: int
    first: int
    length: int

    def address(self, rows: Rows, step: int, reverse: bool) -> tuple[int, int]:
        """Address of the row that the recurrence takes at `step`, and the distance to its next row."""
        if reverse:
            return rows.at(self.batch, self.first + self.length - 1 - step), -rows.step
        return rows.at(self.batch, self.first + step), rows.step


class Part(NamedTuple):
    """Steps [begin, end) of a sequence."""

    sequence: int
    begin: int
    end: int


def sequences(seq_starts: Tensor | None, batch: int, length: int) -> list[Span]:
    """The sequences of a batch, or those packed into its only row."""
    if seq_starts is None:
        return [Span(b, 0, length) for b in range(batch)]
    return [Span(0, time.start, time.stop - time.start) for _, time in spans(seq_starts, length)]


def share(work: Callable[[Part], None], lengths: Sequence[int], channels: int, read_cost: float | None) -> None:
    """Run `work` on parts that cover every sequence, side by side on all threads.

    Args:
        work: runs one part; it has to bring the recurrence to the part's begin by itself.
        lengths: steps of each sequence.
        channels: numbers per step.
        read_cost: time of bringing the recurrence one step forward without storing it, over that of doing the step;
            None keeps sequences whole.
    """
    threads = workers() if sum(lengths) * channels >= MIN_NUMBERS else 1
    whole = len(lengths) if read_cost is None else len(lengths) - len(lengths) % threads
    plans: list[list[Part]] = [[] for _ in range(threads)]
    loads = [0] * threads
    for sequence in range(whole):
        thread = loads.index(min(loads))
        plans[thread].append(Part(sequence, 0, lengths[sequence]))
        loads[thread] += lengths[sequence]
    for sequence in range(whole, len(lengths)):
        parts = split(sequence, lengths[sequence], threads, read_cost or 1.0)
        for plan, part in zip(plans, parts, strict=True):
            plan.append(part)
    run([_perform(work, plan) for plan in plans if plan])


def split(sequence: int, length: int, threads: int, read_cost: float) -> list[Part]:
    """Parts of a sequence that take the same time, each with all the steps before it read once more.

    Part k takes `read_cost * end[k-1] + end[k] - end[k-1]`; equal times give ends in a geometric series.
    """
    ends = [0.0]
    for _ in range(threads):
        ends.append(ends[-1] * (1 - read_cost) + 1)
    bounds = [round(length * end / ends[-1]) for end in ends]
    return [Part(sequence, begin, end) for begin, end in pairwise(bounds)]


def _perform(work: Callable[[Part], None], plan: list[Part]) -> Callable[[], None]:
    def perform() -> None:
        for part in plan:
            work(part)

    return perform

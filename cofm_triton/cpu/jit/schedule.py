"""Which thread does what: whole sequences, and parts of a sequence where sequences do not divide evenly.

Sequences and parts are rows of arrays, so that a thousand short sequences are planned as fast as one:

    spans (S, 3)    batch index, first row, number of rows
    parts (P, 3)    sequence, first step, step after the last one

Plans depend on sizes alone and are kept: making one takes a noticeable share of a pass over a few megabytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from cofm_triton.cpu import packed
from cofm_triton.cpu.jit.rows import Rows
from cofm_triton.cpu.sizes import MIN_NUMBERS

# A plan takes 100 bytes for each sequence. Plans of many sequences are not kept: they are cheap beside their pass.
KEPT_PLANS, MAX_KEPT_SEQUENCES = 64, 1024


class Plan:
    """The parts in which a call's sequences are done. Arrays have an entry for each part, `last` for each sequence.

    Attributes:
        parts: (P, 3), see above.
        threads: how many do them side by side.
        sequence: of the part.
        begins: first step.
        counts: number of steps.
        inner: of its steps, those after which the sequence has another one.
        last: (S,) the part with the last step; of several, empty ones after the first, any.
    """

    def __init__(self, spans: Any, parts: Any, threads: int) -> None:
        self.parts, self.threads = parts, threads
        self.sequence, self.begins, ends = np.ascontiguousarray(parts.T)
        self.counts = ends - self.begins
        batch, first, length = spans[self.sequence].T
        ending = ends == length
        self.inner = np.where(ending, np.maximum(self.counts - 1, 0), self.counts)
        self.last = np.empty(len(spans), np.int64)
        self.last[self.sequence[ending]] = np.flatnonzero(ending)
        self._in_order = np.lexsort((self.begins, self.sequence))
        # Small problems, mostly of whole sequences in order, would feel indexing that changes nothing.
        self._is_in_order = bool((self._in_order == np.arange(len(parts))).all())
        self._is_whole = len(parts) == len(spans) and bool((self.last == np.arange(len(parts))).all())
        ones, up, down = np.ones_like(batch), first + self.begins, first + length - 1 - self.begins
        self._begin_at = {False: np.stack((ones, batch, up), 1), True: np.stack((ones, batch, down), 1)}
        # The first row of the only part, up and down.
        self._only = {False: int(up[0]), True: int(down[0])} if len(parts) == 1 and batch[0] == 0 else None

    def walk(self, tensors: Sequence[Rows], reverse: bool) -> tuple[Any, ...]:
        """The arguments of compiled loops over parts.

        Returns:
            `(places, begins, counts, step, sample, step, sample, ...)`: addresses (parts, tensors) of the rows where
            each part begins, its begin and its steps (parts,), then for each tensor the distance of a row to the next
            and a sample of its dtype.
        """
        if self._only is None:
            places = self._begin_at[reverse] @ np.array([(rows.base, rows.stride_b, rows.step) for rows in tensors]).T
        else:
            first = self._only[reverse]
            places = np.array([[rows.base + first * rows.step for rows in tensors]])
        steps = [item for rows in tensors for item in (-rows.step if reverse else rows.step, rows.sample)]
        return places, self.begins, self.counts, *steps

    def total(self, sums: Any) -> Any:
        """The sum (D,) of sums (parts, D), taken in the order of sequences and steps."""
        if len(sums) == 1:
            return sums[0]
        return (sums if self._is_in_order else sums[self._in_order]).sum(0)

    def at_end(self, states: Any) -> Any:
        """Of states (parts, D), those (S, D) after the last step of each sequence."""
        return states if self._is_whole else states[self.last]


Cuts = tuple[int, ...] | packed.Pieces | None  # where sequences packed into one row start, or pieces of sequences


def plan(batch: int, length: int, starts: Cuts, channels: int, read_cost: float | None, threads: int) -> Plan:
    """The plan for a batch, for sequences packed into its only row or for pieces; `channels` and on as for `share`.

    Pieces depend on numbers, and their plans are not kept.
    """
    is_few = not isinstance(starts, packed.Pieces) and (batch if starts is None else len(starts)) <= MAX_KEPT_SEQUENCES
    make = _kept_plan if is_few else _new_plan
    return make(batch, length, starts, channels, read_cost, threads)


def _new_plan(batch: int, length: int, starts: Cuts, channels: int, read_cost: float | None, threads: int) -> Plan:
    spans = sequences(starts, batch, length)
    return Plan(spans, *share(spans[:, 2], channels, read_cost, threads))


_kept_plan = lru_cache(KEPT_PLANS)(_new_plan)


def sequences(starts: Cuts, batch: int, length: int) -> Any:
    """Spans of the sequences of a batch, of those packed into its only row, or of pieces."""
    if isinstance(starts, packed.Pieces):
        return starts.spans.numpy()
    if starts is None:
        spans = np.zeros((batch, 3), np.int64)
        spans[:, 0], spans[:, 2] = np.arange(batch), length
        return spans
    times = [time for _, time in packed.spans(starts, length)]
    return np.array([(0, time.start, time.stop - time.start) for time in times], np.int64)


def share(lengths: Any, channels: int, read_cost: float | None, threads: int) -> tuple[Any, int]:
    """Parts that cover every sequence, and the number of threads that do them side by side.

    Args:
        lengths: (S,) steps of each sequence.
        channels: numbers per step.
        read_cost: time of a step that is not stored, relative to one that is. A part begins with such steps, from the
            beginning of its sequence. None keeps sequences whole.
        threads: the most to use.
    """
    count = len(lengths)
    threads = threads if lengths.sum() * channels >= MIN_NUMBERS else 1
    whole = count if read_cost is None else count - count % threads
    parts = np.zeros((whole, 3), np.int64)
    # Threads take the next part when they are done with one: long ones come first. Short ones stay in the order of
    # memory, which is faster.
    short = max(1, int(lengths.sum()) // (16 * threads))
    parts[:, 0] = np.argsort(-(lengths[:whole] // short), kind="stable")
    parts[:, 2] = lengths[parts[:, 0]]
    rest = [split(sequence, int(lengths[sequence]), threads, read_cost or 1.0) for sequence in range(whole, count)]
    parts = np.concatenate((parts, *rest))
    return parts, min(threads, len(parts))


def split(sequence: int, length: int, threads: int, read_cost: float) -> Any:
    """Parts of a sequence that take equal times. Each reads all the steps before it once more.

    Part k takes `read_cost * end[k-1] + end[k] - end[k-1]`; equal times give ends in a geometric series.
    """
    ends = [0.0]
    for _ in range(threads):
        ends.append(ends[-1] * (1 - read_cost) + 1)
    bounds = [round(length * end / ends[-1]) for end in ends]
    return consecutive(sequence, bounds)


def consecutive(sequence: int, bounds: Sequence[int]) -> Any:
    """Parts of a sequence between neighbouring bounds."""
    return np.array([(sequence, *pair) for pair in pairwise(bounds)], np.int64)

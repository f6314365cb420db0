"""Who does what: sequences to threads, and parts of a sequence where sequences do not divide evenly.

Sequences and parts are arrays with a row each, so that a thousand short sequences take no longer to share out than one:

    spans (S, 3)    batch index, first row, number of rows
    parts (P, 3)    sequence, first step, step after the last one
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from cofm_triton.cpu.blocked import packed
from cofm_triton.cpu.jit.rows import Rows
from cofm_triton.cpu.jit.threads import workers

# Below this many numbers a second thread costs more than it saves.
MIN_NUMBERS = 2**15


def sequences(seq_starts: Tensor | None, batch: int, length: int) -> Any:
    """Spans of the sequences of a batch, or of those packed into its only row."""
    if seq_starts is None:
        spans = np.zeros((batch, 3), np.int64)
        spans[:, 0], spans[:, 2] = np.arange(batch), length
        return spans
    times = [time for _, time in packed.spans(seq_starts, length)]
    return np.array([(0, time.start, time.stop - time.start) for time in times], np.int64)


def walk(spans: Any, parts: Any, tensors: Sequence[Rows], reverse: bool) -> tuple[Any, ...]:
    """What compiled loops over parts take.

    Returns:
        `(places, begins, counts, step, sample, step, sample, ...)`: addresses (parts, tensors) of the rows where each
        part begins, its begin and its steps (parts,), then for each tensor the distance of a row to the next and a
        sample of its dtype.
    """
    sequence, begins, ends = parts.T
    batch, first, length = spans[sequence].T
    rows = first + (length - 1 - begins if reverse else begins)
    places = np.stack([tensor.at(batch, rows) for tensor in tensors], 1)
    steps = [item for tensor in tensors for item in (-tensor.step if reverse else tensor.step, tensor.sample)]
    return places, np.ascontiguousarray(begins), ends - begins, *steps


def share(lengths: Any, channels: int, read_cost: float | None) -> tuple[Any, int]:
    """Parts that cover every sequence, and the number of threads that do them side by side.

    Args:
        lengths: (S,) steps of each sequence.
        channels: numbers per step.
        read_cost: time of bringing the recurrence one step forward without storing it, over that of doing the step; a
            part has to do so from the beginning of its sequence. None keeps sequences whole.
    """
    count = len(lengths)
    threads = workers() if lengths.sum() * channels >= MIN_NUMBERS else 1
    whole = count if read_cost is None else count - count % threads
    parts = np.zeros((whole, 3), np.int64)
    # Threads take the next part when they are done with one: long ones come first.
    parts[:, 0] = np.argsort(-lengths[:whole], kind="stable")
    parts[:, 2] = lengths[parts[:, 0]]
    rest = [split(sequence, int(lengths[sequence]), threads, read_cost or 1.0) for sequence in range(whole, count)]
    parts = np.concatenate((parts, *rest))
    return parts, min(threads, len(parts))


def collect(parts: Any, states: Any, lengths: Any) -> Any:
    """The last state (S, D) of every sequence, of states (parts, D) at the end of parts."""
    last = np.empty((len(lengths), states.shape[1]), states.dtype)
    ending = parts[:, 2] == lengths[parts[:, 0]]  # of several, empty ones after the first, any will do
    last[parts[ending, 0]] = states[ending]
    return last


def total(parts: Any, sums: Any) -> Any:
    """The sum (D,) of sums (parts, D), taken in the order of sequences and steps."""
    return sums[np.lexsort((parts[:, 1], parts[:, 0]))].sum(0)


def split(sequence: int, length: int, threads: int, read_cost: float) -> Any:
    """Parts of a sequence that take the same time, each with all the steps before it read once more.

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

"""Few channels, many steps: a sequence is cut into parts that run side by side, each from a guessed first state.

A step of few channels is one vector operation, and the next step waits for it. So a sequence takes its length times the
latency of a step, however many cores there are. But a recurrence that contracts forgets where it started:

1. Guess. Every part but the first runs the steps just before it from zero; where that ends is its first state.
2. Run. A thread runs `CHAINS` parts at a time, so that their latencies overlap.
3. Check, in order. A guess should be the state in which the part before ended, and rounding makes close states equal,
   bit for bit, as a rule. If not, the part runs again from the right state until it meets its old states.

So all results are those of the sequential recurrence, bit for bit. A wrong guess costs time only.

Sequences that are cut by resets, or packed, have their pieces run together in the same way, without a guess.

The adjoint of a nonlinear recurrence forgets as fast. Memory limits it, not latency, so each thread has one part at a
time. A part with a wrong guess is run again from its beginning, because its share of the rates' gradient is wrong too.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from cofm_triton.cpu.guess import MIN_PART
from cofm_triton.cpu.jit.schedule import KEPT_PLANS, Cuts, Plan, consecutive, sequences

CHAINS = 4  # spelled out in `forward._chains_part`, each in a register of its own
# Pieces of rows of at most so many channels run together: wider ones have several registers, which hide the latency.
MAX_TOGETHER = 16
# With more sequences than this for each thread, the threads are busy anyway, and nothing is cut.
MAX_SEQUENCES = 2
# Cutting pays if the parts of a thread have `MIN_PART` times the steps of a guess, and each has `MIN_STEPS`.
MIN_STEPS = 2**10


def worth_a_guess(sequences: int, longest: int, threads: int, chains: int = CHAINS) -> bool:
    """Whether cutting could pay for so many sequences of at most this length, however short the guesses are."""
    if not 0 < sequences <= MAX_SEQUENCES * threads:
        return False
    count = _parts(sequences, threads, chains)
    return count > 1 and longest >= count * MIN_STEPS


def _parts(sequences: int, threads: int, chains: int) -> int:
    """Parts of each sequence: a multiple of `chains`, and at least one group for each thread."""
    return chains * -(-threads // sequences)


@lru_cache(KEPT_PLANS)
def chain_plan(
    batch: int, length: int, starts: tuple[int, ...] | None, guessed: int | None, threads: int, chains: int = CHAINS
) -> Plan | None:
    """Parts in groups of `chains`; None where cutting does not pay. Arguments as for `schedule.plan`."""
    spans = sequences(starts, batch, length)
    parts, groups = chained(spans[:, 2], guessed, threads, chains)
    return Plan(spans, parts, min(groups, threads)) if groups else None


def chained(lengths: Any, guessed: int | None, threads: int, chains: int = CHAINS) -> tuple[Any, int]:
    """Parts in groups of `chains`, and the number of groups; no parts where cutting does not pay."""
    none = np.empty((0, 3), np.int64), 0
    if guessed is None or not worth_a_guess(len(lengths), int(lengths.max(initial=0)), threads, chains):
        return none
    count = _parts(len(lengths), threads, chains)
    if lengths.min() // count < max(math.ceil(MIN_PART * guessed / chains), MIN_STEPS):
        return none
    parts = [equal_parts(sequence, length, count) for sequence, length in enumerate(lengths.tolist())]
    return np.concatenate(parts), len(lengths) * count // chains


def piece_plan(batch: int, length: int, starts: Cuts, threads: int) -> Plan:
    """Pieces, or packed sequences, whole and in the order of their lengths: four that run together end together."""
    spans = sequences(starts, batch, length)
    order = np.argsort(-spans[:, 2], kind="stable")
    parts = np.stack((order, np.zeros_like(order), spans[order, 2]), 1)
    return Plan(spans, parts, max(1, min(threads, len(parts) // CHAINS)))


def equal_parts(sequence: int, length: int, count: int) -> Any:
    """Parts of a sequence, equally long; the last one may be longer."""
    return consecutive(sequence, [*(k * (length // count) for k in range(count)), length])

"""Few channels, many steps: a sequence cut into parts that run side by side, each from a guess of its first state.

One step of few channels is one vector, and the next step waits for it: the time of a sequence is the latency of a step
times its length, whatever the number of cores. But a recurrence that contracts forgets where it started. Every part
but the first guesses its first state by running the steps just before it from zero; parts run as `CHAINS` chains a
thread, whose latencies overlap. Then, in order, every guess is compared with the state that the part before it ended
in. Rounding makes two states that have come close the same, bit for bit, as a rule; where they differ, the part is run
again from the right state, next to the wrong one, until both are the same. All results are those of the sequential
recurrence, to the bit, whether guesses are right or not: what a wrong one costs is time.

The adjoint of a nonlinear recurrence forgets as fast. It is bound by memory rather than by latency, so that one part a
thread will do; a part with a wrong guess is done once more, for its share of the rates' gradient.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from cofm_triton.cpu.jit.schedule import KEPT_PLANS, Plan, consecutive, sequences

CHAINS = 4  # spelled out in `forward._chains_part`, each in a register of its own
# Many sequences keep the threads busy by themselves: at most so many a thread are cut.
MAX_SEQUENCES = 2
# A guess takes as many steps as let a difference fall below rounding this many times over. Linear recurrences need only
# wait a little until rounding makes both the same; of others, a step that saturates or that relu passes by shrinks
# nothing.
LINEAR_MARGIN, MARGIN = 1.5, 4
# A guess is worth its steps where all chains of a thread have so many times as many, and each has this many.
MIN_PART = 4
MIN_STEPS = 2**10


def worth_a_guess(sequences: int, longest: int, threads: int, chains: int = CHAINS) -> bool:
    """Whether so many sequences, none longer, could be cut, however short their guesses: known from their sizes."""
    if not 0 < sequences <= MAX_SEQUENCES * threads:
        return False
    count = _parts(sequences, threads, chains)
    return count > 1 and longest >= count * MIN_STEPS


def _parts(sequences: int, threads: int, chains: int) -> int:
    """Parts of each sequence: whole groups, for every thread one or more."""
    return chains * -(-threads // sequences)


def guess_steps(factors: Any, margin: float = MARGIN) -> int | None:
    """Steps of a guess; None if differences between states do not shrink.

    Args:
        factors: (D,) by how much a step multiplies it, in the state's dtype.
        margin: one of the two above.

    Example:
        >>> guess_steps(np.float32([0.1, -0.5])), guess_steps(np.float32([1.0]))
        (92, None)
    """
    largest = float(np.abs(factors).max())
    if not largest < 1:  # NaN included
        return None
    return math.ceil(margin * math.log(np.finfo(factors.dtype).eps) / math.log(max(largest, 0.5)))


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


def equal_parts(sequence: int, length: int, count: int) -> Any:
    """Parts of a sequence, equally long but for the last one, which may be longer."""
    return consecutive(sequence, [*(k * (length // count) for k in range(count)), length])

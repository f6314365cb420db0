"""A few channels over very many steps that forget slowly: chunks side by side, each summarised before it is done.

The state after a chunk is that of the chunk run from zero, its summary, and what is left of the state before it:

    first[k+1] = summary[k] + decay^n first[k]

Where guesses (`chains.py`) would be as long as chunks, summaries take their place: one pass that only reads makes all
of them, the first states follow in order, and a second pass does the chunks, in chains whose latencies overlap.

A first state found in this way is as accurate as that of the sequential recurrence, but not the same bit for bit. So
results must be stored with fewer bits than states have, and be done in this way or not by their shape and decays alone:
on every machine, with any number of threads, they come out the same. Where a state is not finite, infinite ones and
powers of zero would make NaN that the recurrence does not have: then it is done step by step.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from cofm_triton.cpu.jit.chains import equal_parts
from cofm_triton.cpu.jit.schedule import KEPT_PLANS, Plan, sequences

# Chunks of a sequence: groups of chains for four threads.
CHUNKS = 16
# Wider rows keep a core busy step by step, and shorter chunks are not worth a second pass.
MAX_CHANNELS = 8
MIN_STEPS = 2**14


def worth_a_summary(dtype: torch.dtype, batch: int, length: int, channels: int) -> bool:
    """Whether a time-invariant scan with results of this dtype and shape may be done in chunks."""
    return dtype == torch.bfloat16 and batch == 1 and channels <= MAX_CHANNELS and length >= CHUNKS * MIN_STEPS


def forgets_too_slowly(guessed: int | None, length: int) -> bool:
    """Whether guesses of so many steps (`chains.guess_steps`) are no shorter than the chunks of a sequence."""
    return guessed is None or guessed >= length // CHUNKS


@lru_cache(KEPT_PLANS)
def chunk_plan(length: int, groups: int, threads: int) -> Plan:
    """Chunks of one sequence, equally long but for the last one, done in so many groups of chains."""
    return Plan(sequences(None, 1, length), equal_parts(0, length, CHUNKS), min(groups, threads))


def first_states(decay: Any, steps: int, summaries: Any, first: Any) -> Any:
    """The state (CHUNKS, D) before each chunk, by doubling: of what came before, row k has the last `distance` chunks.

    Args:
        decay: (D,) in the state's dtype.
        steps: of every chunk but the last.
        summaries: (CHUNKS, D) in row k + 1 the state after chunk k, run from zero; row 0 is not read.
        first: (D,) the state before the first chunk.
    """
    with np.errstate(divide="ignore", over="ignore", invalid="ignore", under="ignore"):
        wide = decay.astype(np.float64)
        power = np.exp(steps * np.log(np.abs(wide))) * np.sign(wide) ** steps
        states = summaries.astype(np.float64)
        states[0] = first
        distance = 1
        while distance < len(states):
            states[distance:] += power * states[:-distance]
            power, distance = power * power, 2 * distance
        return states.astype(summaries.dtype)

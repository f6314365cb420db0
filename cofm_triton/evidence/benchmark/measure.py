"""Timing by turns, yardstick and candidate one after the other, so that the machine's drift cancels in ratios.

On a CPU, what a run leaves dirty in the cache is written back during the next one: 32 MB of a copy are a quarter of a
scan's own traffic. Runs of less than `LEAD_SECONDS` therefore follow one of their own kind, which is not timed.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import torch

MAX_ROUNDS = 200
# All rounds of a slow candidate together take no longer than this, or there is only one.
SLOW_SECONDS = 5.0
# A first run this long was no compilation alone: it is repeated once, for the measurement, and not for an estimate.
PATIENCE_SECONDS = 60.0
# A run that takes longer writes back far less than it computes.
LEAD_SECONDS = 0.02
# On a GPU, a round is a median of many runs, each after a sweep of the L2 cache.
GPU_ROUNDS = 3
GPU_ROUND_MILLISECONDS = 50

Run = Callable[[], Any]


class Spread(NamedTuple):
    """Smallest, middle and largest of several measurements."""

    min: float
    median: float
    max: float


def spread(values: list[float]) -> Spread:
    """Summary of at least one value.

    Example:
        >>> spread([3.0, 1.0, 2.0])
        Spread(min=1.0, median=2.0, max=3.0)
    """
    return Spread(min(values), median(values), max(values))


def seconds(run: Run, device: torch.device) -> float:
    """Wall-clock time of one run; its result is released after the clock has stopped."""
    _wait(device)
    start = perf_counter()
    result = run()
    _wait(device)
    stop = perf_counter()
    del result
    return stop - start


@dataclass
class Turns:
    """Pairs of times of a yardstick and a candidate.

    Attributes:
        yardstick: what the candidate is compared with.
        candidate: what is measured.
        device: where both run.
        first: time of the candidate's very first run: compilation, and memory that is mapped for the first time.
        leads: whether untimed runs precede timed ones.
        pairs: (yardstick, candidate), seconds, one pair per round.
    """

    yardstick: Run
    candidate: Run
    device: torch.device
    first: float = 0.0
    leads: bool = False
    pairs: list[tuple[float, float]] = field(default_factory=list)

    def warm_up(self, max_time: float, min_rounds: int, patience: float = PATIENCE_SECONDS) -> int:
        """Run both until nothing is left to compile, and say how many rounds fit into `max_time` seconds.

        Args:
            max_time: seconds to spend on all rounds.
            min_rounds: fewest rounds, whatever they take, unless they are slower than `SLOW_SECONDS` together.
            patience: seconds of a first run after which there is one round.
        """
        seconds(self.yardstick, self.device)
        self.first = seconds(self.candidate, self.device)
        gc.collect()  # what compilation left must not be collected on the clock
        if self.first > patience:
            return 1
        estimate = seconds(self.candidate, self.device) + seconds(self.yardstick, self.device)
        self.leads = estimate < LEAD_SECONDS
        if self.leads:
            estimate *= 2
        if estimate * min_rounds > SLOW_SECONDS:
            return max(1, int(SLOW_SECONDS / estimate))
        return min(MAX_ROUNDS, max(min_rounds, int(max_time / estimate)))

    def before(self) -> None:
        """All of a round but the candidate's timed run."""
        if self.leads:
            self.yardstick()
        self.pairs.append((seconds(self.yardstick, self.device), 0.0))
        if self.leads:
            self.candidate()

    def run(self) -> None:
        """The candidate's timed run."""
        self.pairs[-1] = (self.pairs[-1][0], seconds(self.candidate, self.device))

    def take(self, max_time: float, min_rounds: int, patience: float = PATIENCE_SECONDS) -> None:
        """All rounds: by turns on the CPU; on a GPU by `triton.testing.do_bench`, past the L2 cache.

        Args:
            max_time: see `warm_up`, as are the others.
            min_rounds: on the CPU.
            patience: on the CPU.
        """
        if self.device.type != "cuda":
            for _ in range(self.warm_up(max_time, min_rounds, patience)):
                self.before()
                self.run()
            return
        self.first = seconds(self.candidate, self.device)
        for _ in range(GPU_ROUNDS):
            self.pairs.append((gpu_seconds(self.yardstick), gpu_seconds(self.candidate)))

    def candidate_seconds(self) -> Spread:
        """Times of the candidate."""
        return spread([candidate for _, candidate in self.pairs])

    def yardstick_seconds(self) -> Spread:
        """Times of the yardstick in the same rounds."""
        return spread([yardstick for yardstick, _ in self.pairs])

    def ratio(self) -> Spread:
        """Candidate over yardstick, round by round."""
        return spread([candidate / yardstick for yardstick, candidate in self.pairs])


def gpu_seconds(run: Run) -> float:
    """Median time of a run on a GPU, the L2 cache swept before each."""
    from triton.testing import do_bench

    milliseconds: float = do_bench(run, rep=GPU_ROUND_MILLISECONDS, return_mode="median")
    return milliseconds / 1e3


def _wait(device: torch.device) -> None:
    """Wait for the device: launches return early."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

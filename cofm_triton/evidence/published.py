"""Times that others publish for a GPU, to hold a measurement of ours against: quoted, never measured here.

All are of `h[t] = a[t] h[t-1] + x[t]` in float32 at (B, T, D) = (8, T, 1536), their (8, 1536, T), on an H100 of 80 GB.
Source: the README of PheelaV/associative-scan-triton at commit 9a5837e, which times accelerated-scan's CUDA kernel,
"warpscan", beside itself: kernels alone, by the clock that we use too, `triton.testing.do_bench`. Ours are whole calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from cofm_triton.evidence.benchmark.contract import FORWARD, FORWARD_BACKWARD
from cofm_triton.evidence.benchmark.results import OURS, Record
from cofm_triton.evidence.case import Case
from cofm_triton.evidence.registry import benchmarks

OPERATOR, STUDY = "gated_scan", "published shape"
SOURCE = "README of PheelaV/associative-scan-triton, commit 9a5837e: theirs, kernels alone; ours are whole calls"
MARK = 2.95e12  # bytes per second: what the faster one moves


class Published(NamedTuple):
    """Milliseconds of one contestant at one length."""

    name: str
    length: int
    forward: float
    both: float


PUBLISHED = (
    Published("warpscan", 4096, 0.206, 0.542),
    Published("associative-scan-triton", 4096, 0.240, 0.602),
    Published("warpscan", 65536, 3.185, 8.573),
    Published("associative-scan-triton", 65536, 3.606, 9.212),
)


def cases() -> list[Case]:
    """The shapes they were timed at, the shortest first."""
    lengths = dict.fromkeys(row.length for row in PUBLISHED)
    return [Case(OPERATOR, STUDY, (8, length, 1536), torch.float32) for length in lengths]


def lines(ours: Sequence[tuple[str, Sequence[Record]]]) -> Iterator[str]:
    """A table in Markdown: theirs as published, ours where a file has it.

    Args:
        ours: GPUs by name, each with the records of its file.
    """
    yield "| T | whose | forward, ms | TB/s | forward + backward, ms | TB/s |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for case in cases():
        length = case.shape[1]
        for row in PUBLISHED:
            if row.length == length:
                yield _line(case, f"{row.name} (H100, published)", row.forward, row.both)
        for gpu, records in ours:
            times = {
                record.pass_name: 1e3 * record.seconds.median
                for record in records
                if (record.operator, record.study, record.size, record.contestant) == (OPERATOR, STUDY, case.size, OURS)
            }
            if len(times) == 2:
                yield _line(case, f"cofm ({gpu})", times[FORWARD], times[FORWARD_BACKWARD])


def _line(case: Case, whose: str, forward: float, both: float) -> str:
    entry = benchmarks()[OPERATOR]
    rates = [
        (entry.bytes_moved(case, name) or 0) / (time / 1e3) / 1e12
        for name, time in ((FORWARD, forward), (FORWARD_BACKWARD, both))
    ]
    return f"| {case.shape[1]:,} | {whose} | {forward:.3g} | {rates[0]:.2f} | {both:.3g} | {rates[1]:.2f} |"

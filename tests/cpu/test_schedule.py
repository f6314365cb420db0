"""Work is shared out completely, once, and evenly."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("numba")

from cofm_triton.cpu.jit.rows import Rows
from cofm_triton.cpu.jit.schedule import MIN_NUMBERS, Part, Span, sequences, share, split


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def performed(lengths: list[int], channels: int, read_cost: float | None) -> list[Part]:
    """The parts that `share` runs, in the order of sequences."""
    parts: list[Part] = []
    lock = threading.Lock()

    def work(part: Part) -> None:
        with lock:
            parts.append(part)

    share(work, lengths, channels, read_cost)
    return sorted(parts)


@pytest.mark.parametrize("read_cost", [None, 0.4, 1.0])
@pytest.mark.parametrize("lengths", [[5], [0], [1, 1], [100_000], [70_000, 3, 0, 9, 50_000], [40_000] * 5], ids=str)
@pytest.mark.parametrize("channels", [1, 7])
def test_every_step_is_done_once(
    channels: int, lengths: list[int], read_cost: float | None, two_threads: None
) -> None:
    parts = performed(lengths, channels, read_cost)
    for sequence, length in enumerate(lengths):
        mine = [part for part in parts if part.sequence == sequence]
        assert mine[0].begin == 0
        assert mine[-1].end == length
        assert all(a.end == b.begin for a, b in itertools.pairwise(mine))


def test_small_work_is_not_shared(two_threads: None) -> None:
    assert len(performed([MIN_NUMBERS - 1], 1, 0.4)) == 1
    assert len(performed([MIN_NUMBERS], 1, 0.4)) == 2


def test_whole_sequences_when_time_cannot_be_split(two_threads: None) -> None:
    assert performed([MIN_NUMBERS], 1, None) == [Part(0, 0, MIN_NUMBERS)]


@given(length=st.integers(0, 10**7), threads=st.integers(1, 64), cost=st.floats(0.05, 1.0))
def test_parts_take_the_same_time(length: int, threads: int, cost: float) -> None:
    parts = split(0, length, threads, cost)
    assert len(parts) == threads
    assert parts[0].begin == 0 and parts[-1].end == length
    times = [cost * part.begin + part.end - part.begin for part in parts]
    assert max(times) - min(times) <= 2  # bounds are rounded to steps


def test_addresses_follow_the_recurrence() -> None:
    tensor = torch.zeros(2, 10, 3)[:, ::2]
    rows = Rows(tensor)
    step = 6 * 4
    span = Span(1, 1, 4)
    first = tensor[1, 1].data_ptr()
    assert span.address(rows, 0, False) == (first, step)
    assert span.address(rows, 2, False) == (first + 2 * step, step)
    assert span.address(rows, 0, True) == (tensor[1, 4].data_ptr(), -step)
    assert span.address(rows, 3, True) == (first, -step)


def test_sequences() -> None:
    assert sequences(None, 2, 5) == [Span(0, 0, 5), Span(1, 0, 5)]
    assert sequences(torch.tensor([0, 0, 3, 5]), 1, 5) == [Span(0, 0, 0), Span(0, 0, 3), Span(0, 3, 2), Span(0, 5, 0)]

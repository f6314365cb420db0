"""Work is shared out completely, once, and evenly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("numba")

from cofm_triton.cpu.jit.rows import Rows
from cofm_triton.cpu.jit.schedule import MAX_KEPT_SEQUENCES, Plan, plan, sequences, share, split
from cofm_triton.cpu.sizes import MIN_NUMBERS


@pytest.mark.parametrize("read_cost", [None, 0.4, 1.0])
@pytest.mark.parametrize("lengths", [[5], [0], [1, 1], [100_000], [70_000, 3, 0, 9, 50_000], [40_000] * 5], ids=str)
@pytest.mark.parametrize("channels", [1, 7])
def test_every_step_is_done_once(channels: int, lengths: list[int], read_cost: float | None) -> None:
    parts, threads = share(np.array(lengths), channels, read_cost, 2)
    assert 1 <= threads <= 2
    for sequence, length in enumerate(lengths):
        mine = [(begin, end) for of, begin, end in parts.tolist() if of == sequence]
        assert mine[0][0] == 0
        assert mine[-1][1] == length
        assert all(a[1] == b[0] for a, b in itertools.pairwise(mine))


def test_small_work_is_not_shared() -> None:
    parts, threads = share(np.array([MIN_NUMBERS - 1]), 1, 0.4, 2)
    assert (parts.tolist(), threads) == ([[0, 0, MIN_NUMBERS - 1]], 1)
    parts, threads = share(np.array([MIN_NUMBERS]), 1, 0.4, 2)
    assert len(parts) == threads == 2


def test_whole_sequences_when_time_cannot_be_split() -> None:
    parts, threads = share(np.array([MIN_NUMBERS]), 1, None, 2)
    assert (parts.tolist(), threads) == ([[0, 0, MIN_NUMBERS]], 1)


def test_long_sequences_come_first_and_short_ones_in_the_order_of_memory() -> None:
    parts, threads = share(np.array([10, MIN_NUMBERS, 20, 2 * MIN_NUMBERS]), 1, None, 2)
    assert parts[:, 0].tolist() == [3, 1, 0, 2]
    assert threads == 2


def test_last_states_and_sums_come_from_the_right_parts() -> None:
    parts = np.array([[1, 0, 9], [0, 0, 3], [0, 3, 5], [2, 0, 0]])
    done = Plan(np.array([[0, 0, 5], [1, 0, 9], [2, 0, 0]]), parts, 2)
    assert done.last.tolist() == [2, 0, 3]
    assert done.inner.tolist() == [8, 3, 1, 0]
    # 1e16 + 1 - 1e16 depends on the order: sequence 0 comes first, whatever came first here.
    assert done.total(np.array([[-1e16], [1e16], [1.0], [0.0]])).tolist() == [(1e16 + 1.0) - 1e16]


def test_plans_are_kept_by_size() -> None:
    kept = plan(3, 50_000, None, 4, 0.4, 2)
    assert plan(3, 50_000, None, 4, 0.4, 2) is kept
    for other in ((3, 50_000, None, 4, 0.4, 1), (1, 50_000, (0, 9), 4, 0.4, 2), (3, 50_000, None, 4, None, 2)):
        assert plan(*other) is not kept
    many = (MAX_KEPT_SEQUENCES + 1, 5, None, 4, 0.4, 2)
    assert plan(*many) is not plan(*many)


@given(length=st.integers(0, 10**7), threads=st.integers(1, 64), cost=st.floats(0.05, 1.0))
def test_parts_take_the_same_time(length: int, threads: int, cost: float) -> None:
    parts = split(0, length, threads, cost).tolist()
    assert len(parts) == threads
    assert parts[0][1] == 0 and parts[-1][2] == length
    times = [cost * begin + end - begin for _, begin, end in parts]
    assert max(times) - min(times) <= 2  # bounds are rounded to steps


def test_addresses_follow_the_recurrence() -> None:
    tensor = torch.zeros(2, 10, 3)[:, ::2]
    rows = Rows(tensor)
    step = 6 * 4
    spans = np.array([[0, 0, 5], [1, 1, 4]])
    first = tensor[1, 1].data_ptr()
    parts = np.array([[1, 2, 4], [0, 0, 5]])
    done = Plan(spans, parts, 1)
    places, begins, counts, *steps = done.walk([rows, rows], True)
    assert places.tolist() == [[first + step] * 2, [tensor[0, 4].data_ptr()] * 2]
    assert (begins.tolist(), counts.tolist()) == ([2, 0], [2, 5])
    assert steps == [-step, rows.sample, -step, rows.sample]
    places, *_ = done.walk([rows], False)
    assert places.tolist() == [[first + 2 * step], [tensor.data_ptr()]]


def test_sequences() -> None:
    assert sequences(None, 2, 5).tolist() == [[0, 0, 5], [1, 0, 5]]
    packed = sequences((0, 0, 3, 5), 1, 5).tolist()
    assert packed == [[0, 0, 0], [0, 0, 3], [0, 3, 2], [0, 5, 0]]

"""Tasks on threads: all of them run, errors come out, children of a fork start threads of their own."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from numba import njit

from cofm_triton.cpu.jit import threads
from cofm_triton.cpu.jit.region import each
from cofm_triton.cpu.jit.threads import launch, openmp, run, workers


@pytest.fixture(params=["openmp", "pool"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to other threads: PyTorch's OpenMP, and Python's where there is none."""
    if request.param == "pool":
        monkeypatch.setattr(threads, "openmp", lambda: None)
    elif openmp() is None:
        pytest.skip("this PyTorch has no OpenMP that can be entered")
    return str(request.param)


def test_as_many_workers_as_pytorch_uses() -> None:
    before = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert workers() == count
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_every_task_runs_once(count: int, way: str) -> None:
    done: list[int] = []
    run([lambda i=i: done.append(i) for i in range(count)])  # type: ignore[misc]
    assert sorted(done) == list(range(count))


def test_the_first_task_runs_here_and_others_side_by_side(way: str) -> None:
    idents: list[int] = []
    meeting = threading.Barrier(2, timeout=30)

    def task() -> None:
        meeting.wait()  # passes only if both run at the same time
        idents.append(threading.get_ident())

    run([task, task])
    assert threading.get_ident() in idents
    assert len(set(idents)) == 2


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_comes_out_when_all_have_ended(failing: int, way: str) -> None:
    ended: list[int] = []

    def task(i: int) -> None:
        if i == failing:
            raise ArithmeticError(f"task {i}")
        ended.append(i)

    with pytest.raises(ArithmeticError, match=f"task {failing}"):
        run([lambda i=i: task(i) for i in range(3)])  # type: ignore[misc]
    assert sorted(ended) == [i for i in range(3) if i != failing]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own() -> None:
    run([lambda: None, lambda: None])
    child = os.fork()
    if child == 0:
        done: list[int] = []
        run([lambda: done.append(0), lambda: done.append(1)])
        os._exit(0 if sorted(done) == [0, 1] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _mark(i: int, marks: Any, number: float) -> None:
    marks[i] += number + i


def _mark_all(entry: int, first: int, threads: int, count: int, rest: Any) -> None:
    each(entry, first, threads, count, mark, rest)


# Called rather than written above the functions: the decorator carries no types.
mark, mark_all = njit(_mark), njit(nogil=True)(_mark_all)


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_compiled_work_is_done_once(count: int, threads: int, way: str) -> None:
    marks = np.zeros(count)
    launch(mark_all, threads, count, marks, 0.5)
    assert np.array_equal(marks, np.arange(count) + 0.5)


def test_two_threads_share_what_one_does_alone(way: str) -> None:
    calls: list[tuple[int, ...]] = []
    for number in (1, 2):
        launch(lambda _entry, first, threads, count, _: calls.append((first, threads, count)), number, 7)
    alone, *shared = calls
    assert alone == (0, 1, 7) and shared[0] == (0, 2, 7)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_does_compiled_work() -> None:
    marks = np.zeros(100)
    launch(mark_all, 2, 100, marks, 0.0)
    child = os.fork()
    if child == 0:
        launch(mark_all, 2, 100, marks, 1.0)
        os._exit(0 if np.array_equal(marks, 2 * np.arange(100) + 1) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

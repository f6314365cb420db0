"""Tasks on threads: all of them run, errors come out, children of a fork start threads of their own."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from cofm_triton.cpu.jit.threads import run, workers


def test_as_many_workers_as_pytorch_uses() -> None:
    before = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert workers() == count
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_every_task_runs_once(count: int) -> None:
    done: list[int] = []
    run([lambda i=i: done.append(i) for i in range(count)])  # type: ignore[misc]
    assert sorted(done) == list(range(count))


def test_the_first_task_runs_here_and_others_side_by_side() -> None:
    names: list[str] = []
    meeting = threading.Barrier(2, timeout=30)

    def task() -> None:
        meeting.wait()  # passes only if both run at the same time
        names.append(threading.current_thread().name)

    run([task, task])
    assert threading.current_thread().name in names
    assert any(name.startswith("cofm_triton") for name in names)


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_comes_out_when_all_have_ended(failing: int) -> None:
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

"""Workers do what they are told, and none outlives the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from cofm_triton.support.workers import worker_pool

PATIENCE = 20.0  # seconds, many times what a process needs to end
# The program of a parent, as a file: workers import it again.
PARENT = """
import os, sys, time
from cofm_triton.support.workers import worker_pool

def prepare(): pass

if __name__ == "__main__":
    with worker_pool(2, prepare) as pool:
        tasks = [pool.submit(time.sleep, 1.0) for _ in range(2)]  # one for each: an idle worker would get both
        workers = list(pool._processes)
        for task in tasks: task.result()
        print(*workers, flush=True)
        sys.stdin.read()
"""


def _name() -> None:
    os.environ["PREPARED"] = "1"


def test_workers_are_prepared_before_they_work() -> None:
    with worker_pool(1, _name) as pool:
        assert pool.submit(os.getenv, "PREPARED").result() == "1"
    assert "PREPARED" not in os.environ


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert len(workers) == 2 and all(map(_lives, workers))
    parent.kill()
    parent.wait()
    end = time.monotonic() + PATIENCE
    while any(map(_lives, workers)) and time.monotonic() < end:
        time.sleep(0.05)
    left = [worker for worker in workers if _lives(worker)]
    for worker in left:
        os.kill(worker, signal.SIGKILL)
    assert not left


def _lives(process: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False

"""Processes that work side by side, and end with the one that started them, however it ends.

Python's own pools wait for ever after a parent that was killed: each worker holds both ends of the queue of tasks.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from threading import Thread


def worker_pool(count: int, prepare: Callable[[], None]) -> ProcessPoolExecutor:
    """A pool of new processes, which have imported nothing.

    Args:
        count: of processes.
        prepare: called in each of them before its first task; a function of a module.
    """
    return ProcessPoolExecutor(
        count, mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(prepare,)
    )


def _begin(prepare: Callable[[], None]) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    prepare()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker has one
    parent.join()
    os._exit(1)

"""Work on both cores: compiled loops release the GIL, so that plain threads run them side by side.

numba's own thread pool is not used: its portable layer must not be entered from two Python threads at a time, which
autograd and users do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

_pool: ThreadPoolExecutor | None = None


def workers() -> int:
    """How many threads share the work: as many as PyTorch uses (`torch.set_num_threads`)."""
    return torch.get_num_threads()


def run(tasks: Sequence[Callable[[], object]]) -> None:
    """Run every task and wait; the first one runs in the calling thread. The first error is raised."""
    if not tasks:
        return
    pending = [_executor().submit(task) for task in tasks[1:]]
    try:
        tasks[0]()
    finally:
        for future in pending:
            future.exception()  # waits, also when the first task has failed
    for future in pending:
        future.result()


def _executor() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="cofm_triton")
    return _pool


def _forget() -> None:
    """A forked child has none of its parent's threads: it must start its own."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)

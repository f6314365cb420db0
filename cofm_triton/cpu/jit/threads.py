"""Work on all cores: compiled loops release the GIL, so that threads run them side by side.

The threads are those of PyTorch's own OpenMP runtime, entered by `GOMP_parallel`, which GNU's, LLVM's and Intel's
runtimes have. Why: after an operator of PyTorch its threads spin, waiting for more work, and other threads would fight
them for the cores. Python threads do the work where there is no such function, and after a fork: OpenMP's threads stay
with the parent, and entering the runtime again would hang.

numba's own thread pool is not used: two Python threads must not enter its portable layer at a time, and autograd and
users do.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

Task = Callable[[], object]

_BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_pool: ThreadPoolExecutor | None = None
_forked = False


class OpenMP(NamedTuple):
    """Functions of PyTorch's OpenMP runtime: a parallel region, its address, and the number of a thread inside it."""

    parallel: Any
    address: int
    thread: Callable[[], int]
    threads: Callable[[], int]


def workers() -> int:
    """How many threads share the work: as many as PyTorch uses (`torch.set_num_threads`)."""
    return torch.get_num_threads()


def run(tasks: Sequence[Task]) -> None:
    """Run all tasks, side by side where there are threads, and wait. The calling thread runs the first one.

    The error of the earliest task that failed is raised.
    """
    runtime = None if _forked else openmp()
    if len(tasks) < 2:
        for task in tasks:
            task()
    elif runtime is None:
        _run_in_pool(tasks)
    else:
        _run_in_region(runtime, tasks)


def spread(task: Callable[..., object], over: Iterable[tuple[Any, ...]], threads: int | None = None) -> None:
    """Call `task(*arguments)` for every entry of `over`, shared by so many threads; None: by `workers()`.

    The first call is made alone: it may have to be compiled, by one thread and not by all.
    """
    calls = [partial(task, *arguments) for arguments in over]
    for call in calls[:1]:
        call()
    count = workers() if threads is None else threads

    def some(first: int) -> None:
        for call in calls[1 + first :: count]:
            call()

    run([partial(some, first) for first in range(count)])


@cache
def openmp() -> OpenMP | None:
    """The OpenMP runtime that PyTorch has loaded, if it can be entered."""
    for library in sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*")):
        try:
            runtime = ctypes.CDLL(str(library))  # symbols are looked up in what it links to as well
            parallel = runtime.GOMP_parallel
            address = ctypes.cast(parallel, ctypes.c_void_p).value or 0
            found = OpenMP(parallel, address, runtime.omp_get_thread_num, runtime.omp_get_num_threads)
        except (OSError, AttributeError):
            continue
        parallel.argtypes, parallel.restype = (_BODY, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
        return found
    return None


def launch(kernel: Any, threads: int, count: int, *arguments: Any) -> None:
    """Call `kernel(entry, first, threads, count, arguments)`, compiled around `region.each`: threads share its work."""
    if threads < 2:
        kernel(0, 0, 1, count, arguments)
    elif (runtime := None if _forked else openmp()) is None:
        _run_in_pool([partial(kernel, 0, first, threads, count, arguments) for first in range(threads)])
    else:
        kernel(runtime.address, 0, threads, count, arguments)


def _run_in_region(runtime: OpenMP, tasks: Sequence[Task]) -> None:
    """Run the tasks in one parallel region. It may have fewer threads than tasks; inside another region it has one."""
    errors: dict[int, BaseException] = {}

    def body(_: Any) -> None:
        for i in range(runtime.thread(), len(tasks), runtime.threads()):
            try:
                tasks[i]()
            except BaseException as error:  # kept for the calling thread: it cannot pass through the region
                errors[i] = error

    runtime.parallel(_BODY(body), None, len(tasks), 0)
    if errors:
        raise errors[min(errors)]


def _run_in_pool(tasks: Sequence[Task]) -> None:
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
    global _pool, _forked
    _pool, _forked = None, True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)

"""Configurations shared out to processes that compile."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import NamedTuple

from cofm_triton.evidence.compilation.launches import Options
from cofm_triton.evidence.compilation.offline import Compiled, compile_configuration, prepare
from cofm_triton.evidence.registry import compilations

PROCESSES = 2
OnStep = Callable[[int, int], None]


class Task(NamedTuple):
    """A configuration of an operator, compiled for one target."""

    target: str
    operator: str
    options: Options


def all_tasks(targets: Sequence[str], chosen: Sequence[str], *, everything: bool) -> list[Task]:
    """The configurations of some operators, for every target.

    Args:
        targets: names in `offline.TARGETS`.
        chosen: names of operators.
        everything: all configurations instead of the usual ones.
    """
    return [
        Task(target, name, options)
        for target in targets
        for name in chosen
        for options in compilations()[name].configurations(everything)
    ]


def compile_all(tasks: Sequence[Task], on_step: OnStep, processes: int = PROCESSES) -> list[Compiled]:
    """Every kernel that some configurations launch.

    Args:
        tasks: what is compiled.
        on_step: is called with (done, total) numbers of tasks.
        processes: how many work side by side.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=prepare) as pool:
        futures = [pool.submit(compile_configuration, *task) for task in tasks]
        for count, future in enumerate(as_completed(futures)):
            future.result()
            on_step(count + 1, len(tasks))
    return [compiled for future in futures for compiled in future.result()]

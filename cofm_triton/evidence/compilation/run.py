"""Configurations shared out to processes that compile."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from typing import NamedTuple

from cofm_triton.evidence.compilation.launches import Options
from cofm_triton.evidence.compilation.offline import TARGETS, Compiled, compile_configuration, prepare
from cofm_triton.evidence.registry import compilations
from cofm_triton.support.workers import worker_pool

PROCESSES = 2
MAKES = ("sm_90", "gfx942")  # one GPU of each make
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


def kept_tasks(targets: Sequence[str], chosen: Sequence[str]) -> list[Task]:
    """What the baseline keeps: usual configurations for every target, each of the others for a target of one make."""
    others = [
        Task(make, name, options)
        for make in MAKES
        if make in targets
        for name in chosen
        for options in turn(compilations()[name].others, make, MAKES)
    ]
    return all_tasks(targets, chosen, everything=False) + others


def turn(configurations: Sequence[Options], target: str, targets: Sequence[str]) -> list[Options]:
    """What falls to a target when several take turns, in an order without a pattern."""
    shuffled = random.Random(0).sample(configurations, len(configurations))
    return shuffled[targets.index(target) :: len(targets)]


def compile_all(
    tasks: Sequence[Task], on_step: OnStep, processes: int = PROCESSES, known: Sequence[Compiled] = ()
) -> list[Compiled]:
    """Every kernel that some configurations launch.

    Args:
        tasks: what is compiled.
        on_step: is called with (done, total) numbers of tasks.
        processes: how many work side by side.
        known: kernels that are not compiled again, unless their source, their options or Triton changed.
    """
    by_target: dict[str, dict[str, Compiled]] = {target: {} for target in TARGETS}
    for entry in known:
        by_target[entry.target][entry.hash] = entry
    with worker_pool(processes, prepare) as pool:
        futures = [pool.submit(compile_configuration, *task, by_target[task.target]) for task in tasks]
        for count, future in enumerate(as_completed(futures)):
            future.result()
            on_step(count + 1, len(tasks))
    return [compiled for future in futures for compiled in future.result()]

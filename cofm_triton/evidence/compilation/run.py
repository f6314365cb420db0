"""Configurations shared out to processes that compile."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from cofm_triton.evidence.compilation.launches import operators
from cofm_triton.evidence.compilation.offline import Compiled, compile_configuration, prepare

PROCESSES = 2
OnStep = Callable[[int, int], None]


def compile_all(
    targets: Sequence[str], chosen: Sequence[str], on_step: OnStep, *, everything: bool, processes: int = PROCESSES
) -> list[Compiled]:
    """Every kernel that the configurations of some operators launch.

    Args:
        targets: names in `offline.TARGETS`.
        chosen: names of operators.
        on_step: is called with (done, total) numbers of configurations.
        everything: all configurations instead of the usual ones.
        processes: how many work side by side.
    """
    tasks = [
        (target, name, options)
        for target in targets
        for name in chosen
        for options in operators()[name].configurations(everything)
    ]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=prepare) as pool:
        futures = [pool.submit(compile_configuration, *task) for task in tasks]
        for count, future in enumerate(as_completed(futures)):
            future.result()
            on_step(count + 1, len(tasks))
    return [compiled for future in futures for compiled in future.result()]

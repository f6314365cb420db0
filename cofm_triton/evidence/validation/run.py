"""Problems shared out to processes: GPU problems stay in this one, the others take turns on two that interpret Triton.

The CPU's kernels are not concerned by that, and most of the time goes into the interpreter and into compiling.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed

from cofm_triton.evidence.validation.check import Outcome, check
from cofm_triton.evidence.validation.fault import injected
from cofm_triton.evidence.validation.interpreter import interpret
from cofm_triton.evidence.validation.place import Place
from cofm_triton.evidence.validation.problem import Problem
from cofm_triton.evidence.validation.registry import NARROW, operators

PROCESSES = 2
# What one process does at a time: problems of one operator and dtype, which share what they compile.
Task = list[tuple[Problem, list[Place]]]
OnStep = Callable[[int, int], None]


def run(pairs: Iterable[tuple[Problem, Place]], fault: str | None, on_step: OnStep) -> list[Outcome]:
    """Outcomes of problems in their places, in the order of `pairs`.

    Args:
        pairs: problems and places; pairs whose operator has no such backend are left out.
        fault: see `fault.injected`.
        on_step: is called with (done, total) numbers of tasks.
    """
    able = [(problem, place) for problem, place in pairs if place.backend in operators()[problem.operator].backends]
    order = {(problem.text, place.text): index for index, (problem, place) in enumerate(able)}
    here = _tasks((problem, place) for problem, place in able if place.device.type == "cuda")
    beside = _tasks((problem, place) for problem, place in able if place.device.type == "cpu")
    beside.sort(key=_cost, reverse=True)  # the longest first, so that both processes end at about the same time
    total, outcomes = len(here) + len(beside), []
    context = multiprocessing.get_context("spawn")
    workers = min(PROCESSES, len(beside)) or 1
    with ProcessPoolExecutor(workers, mp_context=context, initializer=interpret) as pool:
        futures = [pool.submit(perform, task, fault) for task in beside]
        for count, task in enumerate(here):
            outcomes += perform(task, fault)
            on_step(count + 1, total)
        for count, future in enumerate(as_completed(futures)):
            outcomes += future.result()
            on_step(len(here) + count + 1, total)
    return sorted(outcomes, key=lambda outcome: order[outcome.problem, outcome.place])


def perform(task: Task, fault: str | None) -> list[Outcome]:
    """Outcomes of one task, in this process."""
    used = list({place: None for _, found in task for place in found})
    with injected(fault, used):
        return [outcome for problem, found in task for outcome in check(problem, found)]


def _cost(task: Task) -> int:
    """Of a task, roughly: the CPU's kernels are compiled for each variant, narrow rows and wide ones apart."""
    problems = [problem for problem, places in task if any(not place.interpreted for place in places)]
    compiled = {(problem.variant, problem.shape[2] > NARROW) for problem in problems}
    return 10 * len(compiled) + len(task)


def _tasks(pairs: Iterable[tuple[Problem, Place]]) -> list[Task]:
    """Pairs by operator, dtype and whether they are interpreted, each problem once with all its places."""
    groups: dict[tuple[str, str, bool], dict[Problem, list[Place]]] = {}
    for problem, place in pairs:
        group = groups.setdefault((problem.operator, problem.dtype, place.interpreted), {})
        group.setdefault(problem, []).append(place)
    return [list(group.items()) for group in groups.values()]

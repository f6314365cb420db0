"""Cases shared out to processes: GPU cases stay in this one, the others take turns on two that interpret Triton.

The CPU's kernels are not concerned by that, and most of the time goes into the interpreter and into compiling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import as_completed

import torch

from cofm_triton.evidence.case import Case
from cofm_triton.evidence.registry import validations
from cofm_triton.evidence.validation.cases import NARROW
from cofm_triton.evidence.validation.check import Outcome, check
from cofm_triton.evidence.validation.fault import injected
from cofm_triton.evidence.validation.interpreter import interpret
from cofm_triton.evidence.validation.place import Place
from cofm_triton.support.workers import worker_pool

PROCESSES = 2
# What one process does at a time: cases of one operator and dtype, which share what they compile.
Task = list[tuple[Case, list[Place]]]
OnStep = Callable[[int, int], None]


def run(pairs: Iterable[tuple[Case, Place]], fault: str | None, on_step: OnStep) -> list[Outcome]:
    """Outcomes of cases in their places, in the order of `pairs`.

    Args:
        pairs: cases and places; pairs whose operator has no such backend are left out.
        fault: see `fault.injected`.
        on_step: is called with (done, total) numbers of tasks.
    """
    able = [(case, place) for case, place in pairs if place.backend in validations()[case.operator].backends]
    order = {(case.text, place.text): index for index, (case, place) in enumerate(able)}
    here = _tasks((case, place) for case, place in able if place.device.type == "cuda")
    beside = _tasks((case, place) for case, place in able if place.device.type == "cpu")
    beside.sort(key=_cost, reverse=True)  # the longest first, so that both processes end at about the same time
    total, outcomes = len(here) + len(beside), []
    with worker_pool(min(PROCESSES, len(beside)) or 1, interpret) as pool:
        futures = [pool.submit(perform, task, fault) for task in beside]
        for count, task in enumerate(here):
            outcomes += perform(task, fault)
            on_step(count + 1, total)
        for count, future in enumerate(as_completed(futures)):
            outcomes += future.result()
            on_step(len(here) + count + 1, total)
    return sorted(outcomes, key=lambda outcome: order[outcome.case, outcome.place])


def perform(task: Task, fault: str | None) -> list[Outcome]:
    """Outcomes of one task, in this process."""
    used = list({place: None for _, found in task for place in found})
    with injected(fault, used):
        return [outcome for case, found in task for outcome in check(case, found)]


def _cost(task: Task) -> int:
    """Of a task, roughly: the CPU's kernels are compiled for each variant, narrow rows and wide ones apart."""
    cases = [case for case, places in task if any(not place.interpreted for place in places)]
    compiled = {(case.variant, case.shape[2] > NARROW) for case in cases}
    return 10 * len(compiled) + len(task)


def _tasks(pairs: Iterable[tuple[Case, Place]]) -> list[Task]:
    """Pairs by operator, dtype and whether they are interpreted, each case once with all its places."""
    groups: dict[tuple[str, torch.dtype, bool], dict[Case, list[Place]]] = {}
    for case, place in pairs:
        group = groups.setdefault((case.operator, case.dtype, place.interpreted), {})
        group.setdefault(case, []).append(place)
    return [list(group.items()) for group in groups.values()]

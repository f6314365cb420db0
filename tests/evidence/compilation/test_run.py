"""Which kernels are compiled, and which are known."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

pytest.importorskip("triton")

from cofm_triton.evidence.compilation.offline import TARGETS, Compiled
from cofm_triton.evidence.compilation.run import MAKES, Task, compile_all, kept_tasks
from cofm_triton.evidence.registry import compilations


def test_the_baseline_keeps_usual_kernels_for_every_target_and_others_for_one() -> None:
    tasks = [(task.target, task.operator, str(task.options)) for task in kept_tasks(TARGETS, tuple(compilations()))]
    assert len(set(tasks)) == len(tasks)
    for name, part in compilations().items():
        for options in part.usual:
            assert all((target, name, str(options)) in tasks for target in TARGETS)
        for options in part.others:
            assert sum((make, name, str(options)) in tasks for make in MAKES) == 1
    only = kept_tasks(("sm_80",), ("linear_scan",))
    assert {(task.target, task.operator) for task in only} == {("sm_80", "linear_scan")}
    assert len(only) == len(compilations()["linear_scan"].usual)


@pytest.mark.slow
def test_what_is_known_is_not_compiled_again() -> None:
    def compiled(known: Sequence[Compiled]) -> list[Compiled]:
        task = Task("sm_90", "mode_coefficients", compilations()["mode_coefficients"].usual[0])
        return compile_all([task], lambda done, total: None, processes=1, known=known)

    entries = compiled(())
    believed = [replace(entry, registers=1, configuration="of another name", bytes=3.0) for entry in entries]
    assert compiled(believed) == [replace(entry, registers=1) for entry in entries]
    assert compiled([replace(entry, registers=1, hash="of another source") for entry in entries]) == entries

"""The cases that are timed."""

from __future__ import annotations

from cofm_triton.evidence.benchmark.shapes import SMOKE
from cofm_triton.evidence.case import Case
from cofm_triton.evidence.registry import benchmarks


def cases(smoke: bool) -> list[Case]:
    """All cases of all studies; in smoke mode every operator and dtype once, tiny."""
    everything = [
        Case(name, study, shape, dtype)
        for name, entry in benchmarks().items()
        for study, (shapes, dtypes) in entry.studies.items()
        for dtype in dtypes
        for shape in shapes
    ]
    if not smoke:
        return everything
    return list(dict.fromkeys(Case(case.operator, "smoke", SMOKE, case.dtype) for case in everything))

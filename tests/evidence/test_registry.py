"""Entries: one per file, complete, and known by the names in the committed results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cofm_triton.evidence import operators as folder
from cofm_triton.evidence.case import Case
from cofm_triton.evidence.registry import benchmarks, compilations, operators, validations
from cofm_triton.ops.backends import INSTALLED, implementation

RESULTS = Path(__file__).parents[2] / "bench" / "results"


def test_an_entry_per_file() -> None:
    files = {path.stem for path in Path(folder.__path__[0]).glob("*.py")} - {"__init__"}
    assert set(operators()) == files
    assert set(validations()) | set(benchmarks()) | set(compilations()) == files


@pytest.mark.parametrize("operator", validations())
def test_backends_have_the_functions_that_are_validated(operator: str) -> None:
    entry = validations()[operator]
    for backend in entry.backends:
        if INSTALLED.get(backend, True):
            assert all(callable(getattr(implementation(backend, operator), name)) for name in entry.functions.values())


@pytest.mark.parametrize("name", ["scaling.json", "bench.json"])
def test_committed_times_are_of_operators_that_are_timed(name: str) -> None:
    records = json.loads((RESULTS / name).read_text())["records"]
    assert {record["operator"] for record in records} <= set(benchmarks())


def test_committed_kernels_are_of_operators_that_are_compiled() -> None:
    kernels = json.loads((RESULTS / "kernels.json").read_text())["kernels"]
    assert {kernel["operator"] for kernel in kernels} == set(compilations())


def test_committed_cases_can_be_replayed() -> None:
    for outcome in json.loads((RESULTS / "validate.json").read_text())["outcomes"]:
        case = Case.parse(outcome.get("case", outcome.get("problem")))
        entry = validations()[case.operator]
        assert case.variant in entry.draws and case.dtype in entry.dtypes

"""All entries, and the parts of those that have one."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from cofm_triton.evidence import operators as folder
from cofm_triton.evidence.operator import Benchmark, Compilation, Operator, Validation


@cache
def operators() -> dict[str, Operator]:
    """The `OPERATOR` of every file in the folder."""
    found = [import_module(f"{folder.__name__}.{name}").OPERATOR for _, name, _ in iter_modules(folder.__path__)]
    return {operator.name: operator for operator in found}


def validations() -> dict[str, Validation]:
    """How operators are validated."""
    return {name: entry.validation for name, entry in operators().items() if entry.validation is not None}


def benchmarks() -> dict[str, Benchmark]:
    """How operators are timed."""
    return {name: entry.benchmark for name, entry in operators().items() if entry.benchmark is not None}


def compilations() -> dict[str, Compilation]:
    """How operators are compiled."""
    return {name: entry.compilation for name, entry in operators().items() if entry.compilation is not None}

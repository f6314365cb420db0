"""The operators that are timed: the `OPERATOR` of every file in `operators/`, found by listing the folder."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from cofm_triton.evidence.benchmark import operators
from cofm_triton.evidence.benchmark.contract import Case, Operator
from cofm_triton.evidence.benchmark.shapes import SMOKE

_MODULES = [import_module(f"{operators.__name__}.{name}") for _, name, _ in iter_modules(operators.__path__)]
OPERATORS: dict[str, Operator] = {
    module.OPERATOR.name: module.OPERATOR for module in _MODULES if hasattr(module, "OPERATOR")
}


def cases(smoke: bool) -> list[Case]:
    """All cases; in smoke mode every operator and dtype once, tiny."""
    everything = [case for operator in OPERATORS.values() for case in operator.cases()]
    if not smoke:
        return everything
    return list(dict.fromkeys(Case(case.operator, "smoke", SMOKE, case.dtype) for case in everything))

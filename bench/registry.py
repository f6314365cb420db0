"""The table of operators. An operator registers its shapes, dtypes, inputs and traffic model once."""

from __future__ import annotations

from .contract import Case, Operator
from .operators import gated_scan, linear_scan, perturbation_error, rnn_scan, stable_rnn
from .shapes import SMOKE

OPERATORS: dict[str, Operator] = {
    operator.name: operator
    for operator in (
        linear_scan.OPERATOR,
        gated_scan.OPERATOR,
        rnn_scan.OPERATOR,
        stable_rnn.OPERATOR,
        perturbation_error.OPERATOR,
    )
}


def cases(smoke: bool) -> list[Case]:
    """All cases; in smoke mode every operator and dtype once, tiny."""
    everything = [case for operator in OPERATORS.values() for case in operator.cases()]
    if not smoke:
        return everything
    return list(dict.fromkeys(Case(case.operator, "smoke", SMOKE, case.dtype) for case in everything))

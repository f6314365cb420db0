"""Whoever claims to do our work must have our result: a fast wrong answer is no answer."""

from __future__ import annotations

from cofm_triton.benchmark.contract import FORWARD, Contestant, Peer, Problem
from cofm_triton.benchmark.registry import OPERATORS


def check(problem: Problem, runner: Contestant, pass_name: str, contestant: Peer | None) -> None:
    """Whoever claims the same work must have the same result.

    Bounds hold for states as wide as ours, so 16-bit peers are only checked for their dtype and shape.
    """
    operator = OPERATORS[problem.case.operator]
    result = runner.passes()[pass_name]()
    result = runner.to_states(result if pass_name == FORWARD else result[0])
    if operator.bounds is None or (contestant is not None and not contestant.same_work):
        return
    assert result.dtype == problem.case.dtype
    bound = operator.bounds(problem)["h" if pass_name == FORWARD else "grad_x"]
    assert result.shape == bound.exact.shape
    if contestant is None or problem.case.dtype.itemsize > 2:
        assert bound.excess(result) <= 1

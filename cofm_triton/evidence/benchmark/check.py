"""Whoever claims to do our work must have our result: a fast wrong answer is no answer."""

from __future__ import annotations

from cofm_triton.evidence.benchmark.contract import FORWARD, Contestant, Peer, Problem
from cofm_triton.evidence.benchmark.registry import OPERATORS


def check(problem: Problem, runner: Contestant, pass_name: str, contestant: Peer | None) -> None:
    """Whoever claims the same work must have the same result.

    Bounds hold for states as wide as ours, so 16-bit peers are only checked for their dtype and shape.

    Raises:
        WrongResult: another dtype or shape, or an error beyond the bound.
    """
    operator = OPERATORS[problem.case.operator]
    result = runner.passes()[pass_name]()
    result = runner.to_states(result if pass_name == FORWARD else result[0])
    if operator.bounds is None or (contestant is not None and not contestant.same_work):
        return
    who = f"{contestant.name if contestant is not None else 'cofm'}, {problem.case}, {pass_name}"
    bound = operator.bounds(problem)["h" if pass_name == FORWARD else "grad_x"]
    if result.dtype != problem.case.dtype or result.shape != bound.exact.shape:
        wanted = f"{problem.case.dtype} {tuple(bound.exact.shape)}"
        raise WrongResult(f"{who}: {result.dtype} {tuple(result.shape)} instead of {wanted}")
    if contestant is None or problem.case.dtype.itemsize > 2:
        excess = bound.excess(result)
        if not excess <= 1:
            raise WrongResult(f"{who}: an error of {excess:.3g} times its bound")


class WrongResult(AssertionError):
    """A contestant's result is not that of the operator."""

"""Whoever claims to do our work must have our result: a fast wrong answer is no answer."""

from __future__ import annotations

from cofm_triton.evidence.benchmark.contract import FORWARD, Contestant, Peer
from cofm_triton.evidence.case import Case
from cofm_triton.evidence.problem import Problem


def check(case: Case, problem: Problem, runner: Contestant, pass_name: str, contestant: Peer | None) -> None:
    """Whoever claims the same work must have the same result.

    Bounds hold for states as wide as ours, so 16-bit peers are only checked for their dtype and shape.

    Raises:
        WrongResult: another dtype or shape, or an error beyond the bound.
    """
    result = runner.passes()[pass_name]()
    result = runner.to_states(result if pass_name == FORWARD else result[0])
    if problem.operator.bounds is None or (contestant is not None and not contestant.same_work):
        return
    who = f"{contestant.name if contestant is not None else 'cofm'}, {case.text}, {pass_name}"
    bound = problem.bounds()[next(iter(problem.operator.results)) if pass_name == FORWARD else "grad_x"]
    if result.dtype != case.dtype or result.shape != bound.exact.shape:
        wanted = f"{case.dtype} {tuple(bound.exact.shape)}"
        raise WrongResult(f"{who}: {result.dtype} {tuple(result.shape)} instead of {wanted}")
    if contestant is None or case.dtype.itemsize > 2:
        excess = bound.excess(result)
        if not excess <= 1:
            raise WrongResult(f"{who}: an error of {excess:.3g} times its bound")


class WrongResult(AssertionError):
    """A contestant's result is not that of the operator."""

"""Every registered operator, and every peer that can do its work, next to `y.copy_(x)`."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from .contract import FORWARD, Case, Contestant, Peer, Problem, Unsupported
from .measure import Turns
from .registry import OPERATORS
from .results import OURS, Results, record


def test_operator(
    case: Case,
    pass_name: str,
    contestant: Peer | None,
    benchmark: BenchmarkFixture,
    results: Results,
    device: torch.device,
    request: pytest.FixtureRequest,
) -> None:
    """Measure one contestant in turns with the copy."""
    operator = OPERATORS[case.operator]
    problem = operator.make(case, device)
    name = OURS if contestant is None else contestant.name
    target = torch.empty_like(problem.x)
    try:
        runner = operator.ours(problem) if contestant is None else contestant.prepare[case.operator](problem)
        turns = Turns(lambda: target.copy_(problem.x), runner.passes()[pass_name], device)
        if request.config.getoption("smoke"):
            check(problem, runner, pass_name, contestant)
            rounds = 1
        else:
            option = request.config.getoption
            rounds = turns.warm_up(float(option("benchmark_max_time")), int(option("benchmark_min_rounds")))
    except Unsupported as reason:
        results.leave_out(name, case.operator, str(reason))
        pytest.skip(f"{name}: {reason}")
    benchmark.group = case.label(pass_name)
    benchmark.pedantic(turns.run, setup=turns.before, rounds=rounds)
    moved = operator.bytes_moved(case, pass_name) if contestant is None else None
    entry = record(case, pass_name, name, turns, moved, 2 * problem.x.nbytes)
    benchmark.extra_info["ratio_to_copy"] = entry.ratio._asdict()
    results.records.append(entry)


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

"""Every registered operator, and every peer that can do its work, next to `y.copy_(x)`."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from cofm_triton.evidence.benchmark.check import check
from cofm_triton.evidence.benchmark.contract import Case, Peer, Unsupported
from cofm_triton.evidence.benchmark.measure import Turns
from cofm_triton.evidence.benchmark.registry import OPERATORS
from cofm_triton.evidence.benchmark.results import OURS, Results, record


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
    target = torch.empty_like(problem.yardstick)
    try:
        runner = operator.ours(problem) if contestant is None else contestant.prepare[case.operator](problem)
        turns = Turns(lambda: target.copy_(problem.yardstick), runner.passes()[pass_name], device)
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
    entry = record(case, pass_name, name, turns, moved, 2 * problem.yardstick.nbytes)
    benchmark.extra_info["ratio_to_copy"] = entry.ratio._asdict()
    results.records.append(entry)

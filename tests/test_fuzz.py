"""Every call gives what `reference/` gives, within derived bounds, or an error that names the wrong argument.

Some hundred calls, always the same; `make fuzz ARGS="--examples 20000"` draws as many new ones.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fuzz_cases import problems, spoiled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scan_cases import BACKENDS, Problem

CALLS = {"triton": 30}  # the interpreter takes its time
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.fixture
def examples(request: pytest.FixtureRequest) -> Any:
    """How many calls are drawn anew, if it was said."""
    return request.config.getoption("examples")


def drawn(count: int, examples: int | None) -> settings:
    return settings(
        max_examples=examples or count,
        derandomize=examples is None,
        deadline=None,
        suppress_health_check=SLOW,
        database=None,
    )


def check(problem: Problem, backend: str) -> None:
    if problem.pulls and not any(value.numel() for value in problem.tensors.values()):
        return
    problem.check(backend)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_results_and_gradients(backend: str, examples: int | None) -> None:
    @drawn(CALLS.get(backend, 60), examples)
    @given(problem=problems())
    def run(problem: Problem) -> None:
        check(problem, backend)

    run()


def test_wrong_tensors_are_named(examples: int | None) -> None:
    @drawn(150, examples)
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        problem = data.draw(problems())
        wrong = data.draw(spoiled(problem))
        tensors: dict[str, Any] = {**problem.tensors, wrong.name: wrong.tensor}
        before = {name: value.clone() for name, value in problem.tensors.items()}
        try:
            problem.operator.function(**tensors, **problem.options, backend="torch")
        except (TypeError, ValueError) as error:
            names = {wrong.name} if wrong.name != "x" else {*problem.tensors, *problem.options}
            assert any(name in str(error) for name in names), (wrong, str(error))
        else:  # gates broadcast
            assert (wrong.name, wrong.how) in (("decay", "no axes"), ("decay", "one axis more")), wrong
        assert all(torch.equal(value, problem[name]) or value.isnan().any() for name, value in before.items())

    run()

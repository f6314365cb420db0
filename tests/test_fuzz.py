"""Every call gives what `reference/` gives, within derived bounds, or an error that names the wrong argument.

Some hundred calls, always the same, so that chance stops nobody's work; `make fuzz ARGS="--examples 20000"` draws as
many new ones, and prints the seed that repeats them.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fuzz_calls import CALLS, NOT_CALLED, wrong_calls
from fuzz_cases import problems, spoiled
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from scan_cases import BACKENDS, Problem

import cofm_triton

SCANS = {"triton": 30}  # the interpreter takes its time
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.fixture
def drawn(request: pytest.FixtureRequest) -> Any:
    """Decorators that draw so many calls, or as many new ones as were asked for."""
    examples, number = request.config.option.examples, request.config.option.fuzz_seed

    def decorator(count: int) -> Any:
        chosen = settings(
            max_examples=examples or count,
            derandomize=examples is None,
            deadline=None,
            suppress_health_check=SLOW,
            database=None,
        )
        return lambda test: chosen(test if examples is None else seed(number)(test))

    return decorator


def check(problem: Problem, backend: str) -> None:
    if problem.pulls and not any(value.numel() for value in problem.tensors.values()):
        return
    problem.check(backend)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_results_and_gradients(backend: str, drawn: Any) -> None:
    @drawn(SCANS.get(backend, 60))
    @given(problem=problems())
    def run(problem: Problem) -> None:
        check(problem, backend)

    run()


def test_wrong_tensors_of_scans_are_named(drawn: Any) -> None:
    @drawn(150)
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


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore")
def test_wrong_arguments_are_named(name: str) -> None:
    call = CALLS[name]
    call.then(call.function(**call.make()))
    for argument, how, arguments in wrong_calls(name):
        try:
            call.then(call.function(**arguments))
        except (TypeError, ValueError) as error:
            # Of two that do not fit together, either one; of a function that looks up a name, its own; of a model, its
            # input.
            known = {argument, *arguments, name, "input"}
            assert any(word in str(error) for word in known), (argument, how, str(error))


def test_every_public_function_is_tried() -> None:
    assert set(cofm_triton.__all__) == set(CALLS) | NOT_CALLED

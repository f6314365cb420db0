"""Every call gives what `reference/` gives, within derived bounds, or an error that names the wrong argument.

Some hundred calls that are always the same, and as many new ones; `make fuzz ARGS="--examples 20000"` draws so many
new ones. What is printed first repeats them: `--fuzz-seed=...`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fuzz_calls import CALLS, NOT_CALLED, wrong_calls
from fuzz_cases import models, problems, spoiled
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from scan_cases import BACKENDS, Problem
from torch import Tensor

import cofm_triton
from cofm_triton import reference
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.perturbation.quadratic_form import RIDGE
from cofm_triton.reference import Dynamics
from cofm_triton.step.activations import properties

KINDS = (
    "parameterization",
    "recurrence",
    "nonlinearity",
    "dt",
    "discretization",
    "constrained",
    "normalize_input",
    "oscillating",
)
SCANS = {"triton": 30}  # the interpreter takes its time
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


Test = Callable[..., None]
Drawn = Callable[[int], Callable[[Test], Test]]


@pytest.fixture(params=["same", "new"])
def drawn(request: pytest.FixtureRequest) -> Drawn:
    """Decorators that draw so many calls, the same ones each time or new ones, or as many new ones as are asked for."""
    examples, is_new = request.config.option.examples, request.param == "new"
    if examples and not is_new:
        pytest.skip("--examples asks for new calls")

    def decorator(count: int) -> Callable[[Test], Test]:
        chosen = settings(
            max_examples=examples or count,
            derandomize=not is_new,
            deadline=None,
            suppress_health_check=SLOW,
            database=None,
        )
        return lambda test: chosen(seed(request.config.option.fuzz_seed)(test) if is_new else test)

    return decorator


def check(problem: Problem, backend: str) -> None:
    if problem.pulls and not any(value.numel() for value in problem.tensors.values()):
        return
    first, again = problem.run(backend), problem.run(backend)  # which goes by what the first call has left behind
    problem.check(backend, again)
    for name, result in first.items():
        assert torch.equal(result, again[name]), f"{name} differs in the second call"


def fits(tensors: dict[str, Any]) -> bool:
    """Whether a decay of another shape broadcasts to x, of pairs one number for two channels, or a rate is a gate."""
    x, decay = tensors["x"], tensors.get("decay")
    if decay is None:
        return "rate" in tensors and tensors["rate"].shape == x.shape
    whole = *x.shape[:2], x.shape[2] // 2 if decay.is_complex() and not x.is_complex() else x.shape[2]
    return torch.broadcast_shapes(decay.shape, whole) == whole


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_results_and_gradients(backend: str, drawn: Drawn) -> None:
    @drawn(SCANS.get(backend, 60))
    @given(problem=problems())
    def run(problem: Problem) -> None:
        check(problem, backend)

    run()


@pytest.mark.slow
def test_models_errors_and_memories(drawn: Drawn) -> None:
    @drawn(15)
    @given(model=models(), length=st.integers(1, 17), number=st.integers(0, 99))
    def run(model: RNNFunctional, length: int, number: int) -> None:
        generator = torch.Generator().manual_seed(number)
        x, y = (torch.randn(3, length, size, generator=generator, dtype=torch.float64)
                for size in (model.rnn.input_size, model.readout.out_features))  # fmt: skip
        params, dynamics = (
            dict(model.named_parameters()),
            Dynamics(**{name: getattr(model.rnn, name) for name in KINDS}),
        )
        units = model.rnn.hidden_size + model.rnn.input_size

        def assert_close(actual: Tensor, expected: Tensor, cancelled: float = 0.0) -> None:
            """A step rounds a sum over units and inputs, and some functions; the sums of a gradient all steps again."""
            roundings = 16 * length * (length + units)
            size = max(1.0, float(expected.detach().abs().max()))
            atol = (roundings * torch.finfo(x.dtype).eps + cancelled) * size
            torch.testing.assert_close(actual, expected, rtol=0, atol=atol)

        outputs = model(x), reference.rnn_functional(params, x, dynamics)
        assert_close(*outputs)
        assert torch.equal(model(x), outputs[0])
        ours, theirs = (torch.autograd.grad(output, [*params.values()], y, allow_unused=True) for output in outputs)
        for mine, other in zip(ours, theirs, strict=True):
            assert (mine is None) == (other is None)
            if mine is not None and other is not None:
                assert_close(mine, other)
        moved = {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in params.items()}
        weights = {name: p.detach() for name, p in params.items()}
        curve = cofm_triton.perturbation_error(model, x, y, radii=[0.0, 0.1], directions=[moved], dtype=torch.float64)
        defined = reference.perturbation_error(
            lambda p: reference.temporally_weighted_mse(reference.rnn_functional(p, x, dynamics), y),
            weights, [moved], torch.tensor([0.0, 0.1], dtype=torch.float64),
        )  # fmt: skip
        # Those of a linear model are quadratic forms, whose terms cancel, at the very worst to so many digits.
        form = torch.finfo(x.dtype).eps / (4 * RIDGE) if properties(model.rnn.nonlinearity).is_linear else 0.0
        assert_close(curve.per_direction[0], defined.per_direction, form)
        if model.rnn.recurrence in ("diagonal", "ssm"):  # whose increments are defined
            inputs = x[:, 0]
            memory = cofm_triton.memory_function(model, length, inputs=inputs)
            wanted = reference.memory_function(reference.increments(weights, inputs, length, dynamics), inputs)
            assert_close(memory.values, wanted.values)

    run()


def test_wrong_tensors_of_scans_are_named(drawn: Drawn) -> None:
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
        else:
            assert fits(tensors), wrong
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

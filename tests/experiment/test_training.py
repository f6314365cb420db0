import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from cofm_triton import targets
from cofm_triton.experiment.training import (
    INITIAL_RATES,
    initial_model,
    train_linear,
    train_sequences,
    with_nonlinearity,
)
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.loss import temporally_weighted_mse
from cofm_triton.memory.function import memory_function
from cofm_triton.perturbation.quadratic_form import QuadraticForm
from cofm_triton.step.coefficients import modes_of
from cofm_triton.step.modes import mode_decay
from cofm_triton.step.parameterization import PARAMETERIZATIONS, parameterization

LENGTH = 45  # not a multiple of the block of powers


def data(target: str = "exp", count: int = 64, length: int = LENGTH) -> tuple[Tensor, Tensor]:
    return targets.generate(target, count, length, seed=3)


def relative_error(model: RNNFunctional, inputs: Tensor, outputs: Tensor) -> float:
    with torch.no_grad():
        error = temporally_weighted_mse(model(inputs), outputs)
        return float(error / temporally_weighted_mse(torch.zeros_like(outputs), outputs))


def mixed_models(discretization: str = "exact", nonlinearity: str = "linear", **kind: Any) -> list[RNNFunctional]:
    return [
        initial_model(
            width,
            parameterization=name,
            nonlinearity=nonlinearity,
            discretization=discretization,
            seed=1,
            **kind,
        )
        for name, width in (("direct", 3), ("softplus", 8), ("exp", 5), ("direct", 1))
    ]


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@pytest.mark.parametrize("discretization", ["exact", "euler"])
@pytest.mark.parametrize("dt", [1.0, 0.5])
def test_initial_pairs_are_fast_and_stable(name: str, discretization: str, dt: float) -> None:
    options: dict[str, Any] = {"dt": dt, "discretization": discretization, "oscillating": True}
    model = initial_model(33, parameterization=name, recurrence="ssm", **options)
    modes = modes_of(model.rnn, model.rnn.rate_l0.detach(), model.get_parameter("rnn.frequency_l0").detach())
    decay = mode_decay(*modes)[:-1]
    assert (decay.abs() < 0.95).all()
    assert 0 < float(decay.angle().abs().max()) <= math.pi / 2 + 0.1


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@pytest.mark.parametrize("discretization", ["exact", "euler"])
@pytest.mark.parametrize("dt", [1.0, 0.5])
def test_initial_rates_are_fast_and_stable(name: str, discretization: str, dt: float) -> None:
    model = initial_model(200, parameterization=name, discretization=discretization, dt=dt)
    kind = parameterization(name)
    rate = dt * kind.rate(model.rnn.rate_l0.detach())
    lowest = min(INITIAL_RATES[0], 0.475 * dt * kind.range.high)
    decay = torch.exp(-rate) if discretization == "exact" else 1 - rate
    assert float(-decay.log().max()) >= lowest - 1e-12
    assert float(-decay.log().min()) <= INITIAL_RATES[1] + 1e-12
    # Entries of U and c have variance 1 / m: the squared norm is 1 within 6 standard deviations.
    for weight in (model.rnn.weight_ih_l0, model.readout.weight):
        assert abs(float(weight.detach().norm() ** 2) - 1) < 6 * (2 / 200) ** 0.5


def test_initial_model_is_the_same_for_every_parameterization_and_differs_by_seed() -> None:
    first, second = (initial_model(16, parameterization=name, seed=4) for name in ("exp", "direct"))
    assert torch.equal(first.rnn.weight_ih_l0, second.rnn.weight_ih_l0)
    rates = [parameterization(m.rnn.parameterization).rate(m.rnn.rate_l0) for m in (first, second)]
    torch.testing.assert_close(*rates, rtol=1e-14, atol=0)
    other = initial_model(16, parameterization="exp", seed=5)
    assert not torch.equal(first.rnn.weight_ih_l0, other.rnn.weight_ih_l0)


KINDS = [
    ("diagonal", False),
    ("diagonal", True),
    ("ssm", False),
    ("ssm", True),
    ("orthogonal", False),
    ("dense", False),
]
"""Recurrences, and whether they oscillate."""


@pytest.mark.parametrize(("recurrence", "oscillating"), KINDS)
@pytest.mark.parametrize("discretization", ["exact", "euler"])
@pytest.mark.parametrize("nonlinearity", ["hardtanh", "tanh"])
def test_with_nonlinearity_is_the_linear_model_for_small_inputs(
    discretization: str, nonlinearity: str, recurrence: str, oscillating: bool
) -> None:
    options: dict[str, Any] = {"recurrence": recurrence, "oscillating": oscillating}
    model = initial_model(7, parameterization="softplus", discretization=discretization, **options)
    with torch.no_grad():
        model.get_parameter("rnn.bias_l0").uniform_(-1, 1)
        if recurrence == "dense":
            model.get_parameter("rnn.weight_hh_l0").uniform_(-0.3, 0.3)
        if oscillating:
            model.get_parameter("rnn.frequency_l0").mul_(0.9)  # within what an activation inside allows
    bent = with_nonlinearity(model, nonlinearity)
    scale = 1e-6
    with torch.no_grad():
        for m in (model, bent):
            m.get_parameter("rnn.bias_l0").mul_(scale)
        x = scale * torch.rand(2, 20, 1, dtype=torch.float64) * 0.01
        # tanh(z) = z up to z^3 / 3, and |z| stays below 1e-5.
        torch.testing.assert_close(bent(x), model(x), rtol=1e-9, atol=1e-16)


def test_with_nonlinearity_refuses_a_nonlinear_model() -> None:
    model = initial_model(3, parameterization="exp", nonlinearity="tanh")
    with pytest.raises(ValueError, match="model must be linear, got nonlinearity='tanh'"):
        with_nonlinearity(model, "hardtanh")


@pytest.mark.parametrize(("recurrence", "oscillating"), KINDS)
@pytest.mark.parametrize("discretization", ["exact", "euler"])
def test_linear_training_takes_adam_steps_of_the_loss_on_the_sequences(
    discretization: str, recurrence: str, oscillating: bool
) -> None:
    inputs, outputs = data()
    form = QuadraticForm.from_data(inputs, outputs)
    models = mixed_models(discretization, recurrence=recurrence, oscillating=oscillating)
    by_hand = copy.deepcopy(models)
    losses = train_linear(models, form, steps=3, learning_rate=0.05)
    for model, other, loss in zip(models, by_hand, losses, strict=True):
        optimizer = torch.optim.Adam(other.parameters(), lr=0.05, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 0.05, total_steps=4, pct_start=0.1, cycle_momentum=False
        )
        zero = temporally_weighted_mse(torch.zeros_like(outputs), outputs)
        for _ in range(3):
            optimizer.zero_grad()
            error = temporally_weighted_mse(other(inputs), outputs) / zero
            error.backward()
            optimizer.step()
            schedule.step()
        # Adam divides by the gradient's size, so rounding reaches the weights at the step's scale.
        torch.testing.assert_close(loss, error.detach(), rtol=1e-9, atol=0)
        for (name, value), expected in zip(model.named_parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-8, msg=name)


@pytest.mark.parametrize(("recurrence", "oscillating"), KINDS)
@pytest.mark.parametrize("nonlinearity", ["hardtanh", "tanh"])
def test_sequence_training_of_many_is_the_training_of_each(
    nonlinearity: str, recurrence: str, oscillating: bool
) -> None:
    inputs, outputs = data()
    together = mixed_models(nonlinearity=nonlinearity, recurrence=recurrence, oscillating=oscillating)
    alone = copy.deepcopy(together)
    options: dict[str, Any] = {"steps": 4, "batch_size": 8, "learning_rate": 0.05, "seed": 9}
    losses = train_sequences(together, inputs, outputs, **options)
    for model, other, loss in zip(together, alone, losses, strict=True):
        own = train_sequences([other], inputs, outputs, **options)
        torch.testing.assert_close(loss, own[0], rtol=1e-9, atol=0)
        for value, expected in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("recurrence", "oscillating"), KINDS)
def test_sequence_training_starts_at_the_loss_of_the_models(recurrence: str, oscillating: bool) -> None:
    inputs, outputs = data(count=1)  # every minibatch is the one sequence
    models = mixed_models(nonlinearity="hardtanh", recurrence=recurrence, oscillating=oscillating)
    expected = [relative_error(model, inputs, outputs) for model in models]
    losses = train_sequences(models, inputs, outputs, steps=1, batch_size=2)
    torch.testing.assert_close(losses.tolist(), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("target", ["exp", "pol"])
def test_trained_models_approximate_the_target(target: str) -> None:
    inputs, outputs = data(target, count=256, length=50)
    models = mixed_models()
    train_linear(models, QuadraticForm.from_data(inputs, outputs), steps=600)
    fresh, answers = targets.generate(target, 64, 50, seed=8)
    widest = models[1]
    assert relative_error(widest, fresh, answers) < 1e-3
    bent = with_nonlinearity(widest, "hardtanh")
    before = relative_error(bent, fresh, answers)
    train_sequences([bent], inputs.float(), outputs.float(), steps=200, batch_size=32)
    after = relative_error(bent, fresh, answers)
    assert after < 0.5 * before
    assert after < 0.01


@pytest.mark.parametrize(("target", "slowest", "decay"), [("exp", 0.5, "exponential"), ("pol", 1e-3, "polynomial")])
@pytest.mark.parametrize("nonlinearity", ["linear", "tanh"])
def test_memory_of_trained_models(target: str, slowest: float, decay: str, nonlinearity: str) -> None:
    """Sixteen rates up to 2, log-uniform: the record of 100 steps sees the slowest mode alone, or a power of t."""
    model = initial_model(16, parameterization="exp")
    raw = torch.linspace(math.log(slowest), math.log(2), 16, dtype=torch.float64)
    with torch.no_grad():
        for name, value in {"rnn.rate_l0": raw, "rnn.weight_ih_l0": 0.25, "readout.weight": 0.25 * raw.exp()}.items():
            model.get_parameter(name).copy_(torch.as_tensor(value))
    before = model.rnn.rate_l0.detach().clone()
    (loss,) = train_linear([model], QuadraticForm.from_data(*data(target)), steps=60, learning_rate=0.01)
    assert loss < 0.05 and bool((model.rnn.rate_l0 != before).all())
    trained = model if nonlinearity == "linear" else with_nonlinearity(model, nonlinearity)
    fit = memory_function(trained, 100).fit()
    assert fit.decay == decay and fit.margin > 1
    if decay == "exponential":
        # The next of the rates, 10 % above, leaves a tenth of itself within the window.
        assert fit.beta0 <= fit.rate <= 1.02 * fit.beta0 and fit.within_bound
    else:
        assert 0.4 < fit.rate == fit.exponent < 0.6 and not fit.within_bound


def test_training_is_reproducible_bit_for_bit() -> None:
    inputs, outputs = data(count=8192)  # 1 and 2 threads round its mean square differently
    form = QuadraticForm.from_data(inputs, outputs)
    runs = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        models = mixed_models()
        train_linear(models, form, steps=5)
        bent = [with_nonlinearity(model, "hardtanh") for model in models]
        losses = train_sequences(bent, inputs.float(), outputs.float(), steps=5, batch_size=16)
        assert torch.get_num_threads() == threads
        torch.set_num_threads(before)
        runs.append([losses] + [p.detach().clone() for model in bent for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_progress_counts_to_the_end() -> None:
    inputs, outputs = data()
    seen: list[tuple[int, int]] = []
    train_linear(
        mixed_models(),
        QuadraticForm.from_data(inputs, outputs),
        steps=3,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_errors_name_the_argument() -> None:
    inputs, outputs = data()
    form = QuadraticForm.from_data(inputs, outputs)
    linear, bent = mixed_models(), mixed_models(nonlinearity="hardtanh")
    with pytest.raises(ValueError, match="models must be linear, got nonlinearity='hardtanh'"):
        train_linear(bent, form, steps=1)
    with pytest.raises(ValueError, match="models must share nonlinearity"):
        train_sequences([*linear, *bent], inputs, outputs, steps=1, batch_size=1)
    with pytest.raises(ValueError, match="models must hold at least one model"):
        train_linear([], form, steps=1)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        train_linear(linear, form, steps=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        train_sequences(bent, inputs, outputs, steps=1, batch_size=0)
    with pytest.raises(ValueError, match=r"inputs must be \(N, T, 1\)"):
        train_sequences(bent, inputs[0], outputs[0], steps=1, batch_size=1)
    with pytest.raises(ValueError, match="targets must have the shape of inputs"):
        train_sequences(bent, inputs, outputs[:, 1:], steps=1, batch_size=1)
    with pytest.raises(TypeError, match=r"targets must be torch.float64 like inputs"):
        train_sequences(bent, inputs, outputs.float(), steps=1, batch_size=1)

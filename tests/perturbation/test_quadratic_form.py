"""The quadratic form is the brute-force error of linear models: data, population, any target."""

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.perturbation.quadratic_form import QuadraticForm, step_weights
from cofm_triton.perturbation.stacking import stack
from cofm_triton.reference import Dynamics, rnn_functional
from cofm_triton.reference.loss import mse, temporally_weighted_mse
from cofm_triton.step.stacked_cells import impulse_response
from cofm_triton.targets import generate, target

# Float64 throughout: sums of at most a few 1e4 products, and a least-squares centre that is good
# to 1e-12, leave 1e-10 with two digits to spare.
RTOL = 1e-10
DIRECT_EULER: dict[str, Any] = {"parameterization": "direct", "discretization": "euler", "nonlinearity": "linear"}


def det_inputs() -> Tensor:
    n = torch.arange(32, dtype=torch.float64)[:, None]
    t = torch.arange(100, dtype=torch.float64)
    return (1.5 * torch.sin(1.7 * n + 0.9 * t + 0.37 * n * t))[..., None]


def det_parameters() -> dict[str, Tensor]:
    i = torch.arange(8, dtype=torch.float64)
    return {
        "rnn.weight_ih_l0": torch.cos(i)[:, None],
        "rnn.bias_l0": 0.1 * torch.sin(i),
        "rnn.rate_l0": 0.9 * torch.logspace(-2, 0, 8, dtype=torch.float64),
        "readout.weight": torch.cos(2 * i + 1)[None] / 8,
        "readout.bias": torch.tensor([0.05], dtype=torch.float64),
    }


def copies(parameters: dict[str, Tensor], count: int, scale: float, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value + scale * torch.randn(count, *value.shape, generator=generator, dtype=torch.float64)
        for name, value in parameters.items()
    }


def random_model(inputs: int, units: int, outputs: int, **options: object) -> RNNFunctional:
    torch.manual_seed(inputs + 10 * units + 100 * outputs)
    options = {"nonlinearity": "linear", **options}
    return RNNFunctional(inputs, units, outputs, dtype=torch.float64, **options)


@pytest.mark.parametrize(
    ("name", "beta", "expected"),
    [
        ("exp", 0.0, 2.1524360229419),
        ("exp", 0.05, 138.97558499878),
        ("exp", 0.5, 1.6595427785907e34),
        ("pol", 0.0, 5.7481593810659),
        ("pol", 0.05, 134.18808860583),
        ("pol", 0.5, 1.6595427785907e34),
    ],
)
def test_deterministic_model(name: str, beta: float, expected: float) -> None:
    model = RNNFunctional(1, 8, dtype=torch.float64, **DIRECT_EULER)
    inputs = det_inputs()
    moved = {key: (value + (-beta if key == "rnn.rate_l0" else beta))[None] for key, value in det_parameters().items()}
    form = QuadraticForm.from_data(inputs, target(name)(inputs))
    assert form.errors(stack(model, moved)).item() == pytest.approx(expected, rel=RTOL)
    known = torch.stack((target(name).kernel(100), torch.zeros(100, dtype=torch.float64)))[None]
    form = QuadraticForm.from_data(inputs, target(name)(inputs), centre=known)
    assert form.errors(stack(model, moved)).item() == pytest.approx(expected, rel=RTOL)


@pytest.mark.parametrize("metric", ["twe", "mse"])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (2, 3)])
@pytest.mark.parametrize("recurrence", ["diagonal", "ssm"])
@pytest.mark.parametrize("discretization", ["euler", "exact"])
def test_brute_force_with_an_arbitrary_target(
    metric: str, inputs: int, outputs: int, recurrence: str, discretization: str
) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(37, 23, inputs, generator=generator, dtype=torch.float64)
    y = torch.randn(37, 23, outputs, generator=generator, dtype=torch.float64)
    options = {"recurrence": recurrence, "discretization": discretization, "dt": 0.7}
    model = random_model(inputs, 5, outputs, **options)
    moved = copies(dict(model.named_parameters()), 4, 0.1)
    errors = QuadraticForm.from_data(x, y, metric=metric).errors(stack(model, moved))
    dynamics = Dynamics("softplus", recurrence, "linear", 0.7, discretization)
    loss = {"twe": temporally_weighted_mse, "mse": mse}[metric]
    for k in range(4):
        parameters = {name: value[k] for name, value in moved.items()}
        expected = loss(rnn_functional(parameters, x, dynamics), y)
        assert errors[k].item() == pytest.approx(expected.item(), rel=RTOL)


@pytest.mark.parametrize("normalize_input", [False, True])
@pytest.mark.parametrize("units", [1, 4, 5])
@pytest.mark.parametrize("discretization", ["euler", "exact"])
def test_brute_force_of_pairs(units: int, discretization: str, normalize_input: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(37, 23, 2, generator=generator, dtype=torch.float64)
    y = torch.randn(37, 23, 3, generator=generator, dtype=torch.float64)
    options = {"oscillating": True, "normalize_input": normalize_input, "discretization": discretization, "dt": 0.2}
    model = random_model(2, units, 3, **options)
    moved = copies(dict(model.named_parameters()), 4, 0.1)
    errors = QuadraticForm.from_data(x, y).errors(stack(model, moved))
    dynamics = Dynamics(nonlinearity="linear", **options)  # type: ignore[arg-type]
    for k in range(4):
        parameters = {name: value[k] for name, value in moved.items()}
        expected = temporally_weighted_mse(rnn_functional(parameters, x, dynamics), y)
        assert errors[k].item() == pytest.approx(expected.item(), rel=RTOL)


def test_a_perfect_model_has_no_error_however_large_its_target() -> None:
    """The expanded square would leave 1e-16 times the target's square; the floor, 1e-12 of it, leaves 1e-22."""
    x = torch.randn(400, 30, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model = random_model(1, 6, 1)
    parameters = {name: value.detach()[None] for name, value in model.named_parameters()}
    parameters["readout.weight"] = 1e3 * parameters["readout.weight"]
    y = rnn_functional({name: value[0] for name, value in parameters.items()}, x, Dynamics(nonlinearity="linear"))
    form = QuadraticForm.from_data(x, y)
    assert 0 <= form.errors(stack(model, parameters)).item() < 1e-20 * (y**2).mean().item()


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**16))
def test_fewer_sequences_than_lags(sequences: int, length: int, seed: int) -> None:
    """A singular G: any centre gives the same error."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sequences, length, 1, generator=generator, dtype=torch.float64)
    y = torch.randn(sequences, length, 1, generator=generator, dtype=torch.float64)
    kernel = torch.randn(1, 1, 2, length, generator=generator, dtype=torch.float64)
    form = QuadraticForm.from_data(x, y, metric="mse")
    y_hat = torch.zeros_like(y)
    for k in range(length):
        for s in range(k + 1):
            y_hat[:, k, 0] += kernel[0, 0, 0, s] * x[:, k - s, 0] + kernel[0, 0, 1, s]
    # The error may be tiny beside the terms it is made of: absolute in their scale.
    scale = (y_hat**2).mean() + (y**2).mean()
    expected = ((y_hat - y) ** 2).mean()
    assert abs(form(kernel).item() - expected.item()) <= 1e-9 * scale.item()


@pytest.mark.parametrize(("sequences", "length", "channels"), [(3, 4, 2), (3, 17, 3), (2, 40, 1)])
@pytest.mark.parametrize("seed", range(5))
def test_few_sequences_of_many_lags_cost_no_digits(seed: int, sequences: int, length: int, channels: int) -> None:
    """More numbers in a kernel than in the data: those that nothing decides must not be large, to cancel later."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sequences, length, channels, generator=generator, dtype=torch.float64)
    y = torch.randn(sequences, length, 1, generator=generator, dtype=torch.float64)
    kernel = torch.randn(1, 1, channels + 1, length, generator=generator, dtype=torch.float64)
    inputs, y_hat = torch.cat((x, torch.ones_like(y)), 2), torch.zeros_like(y)
    for k in range(length):
        y_hat[:, k, 0] = (inputs[:, : k + 1].flip(1).mT * kernel[0, :, :, : k + 1]).sum((1, 2))
    expected = ((y_hat - y) ** 2).mean()
    actual = QuadraticForm.from_data(x, y, metric="mse")(kernel)[0]
    # At the very worst, rounding leaves eps / (4 ridge) = 6e-9; a ridge of 1e-13 left 3e-7 here.
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=0)


def test_population_is_the_limit_of_many_sequences() -> None:
    x, y = generate("exp", 20_000, 12, seed=4)
    model = random_model(1, 4, 1)
    moved = copies(dict(model.named_parameters()), 3, 0.2)
    cells = stack(model, moved)
    sampled = QuadraticForm.from_data(x, y).errors(cells)
    expected = QuadraticForm.population(target("exp").kernel(12)[None, None]).errors(cells)
    # Standard error of a mean of 20,000 squares: below sqrt(2 / 20,000) = 1 %; five of them.
    torch.testing.assert_close(sampled, expected, rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("name", "power"),
    [
        ("exp", 2.0713065195676945),
        ("pol", 14.785361699676622),
        ("twoparts", 4.349249465264158),
        ("sin", 74.55452192755097),
    ],
)
def test_population_error_of_the_zero_model(name: str, power: float) -> None:
    form = QuadraticForm.population(target(name).kernel(100)[None, None])
    zero = torch.zeros(1, 1, 2, 100, dtype=torch.float64)
    assert form(zero).item() == pytest.approx(power, rel=1e-10)


def test_worst_read_out_of_the_deterministic_model() -> None:
    """E is a quadratic form of the read-out: its largest eigenvalue, and the best of 2^8 corners."""
    model = RNNFunctional(1, 8, dtype=torch.float64, **DIRECT_EULER)
    moved = {name: value.expand(8, *value.shape).clone() for name, value in det_parameters().items()}
    moved["readout.weight"] = torch.eye(8, dtype=torch.float64)[:, None]
    moved["readout.bias"] = torch.zeros(8, 1, dtype=torch.float64)
    moved["rnn.bias_l0"] = torch.zeros(8, 8, dtype=torch.float64)  # the response to the input
    kernels = impulse_response(stack(model, moved), 100)
    form = QuadraticForm.population(torch.zeros(1, 1, 100, dtype=torch.float64))
    flat = kernels.flatten(1)
    matrix = flat @ form.gram @ flat.T
    assert torch.linalg.eigvalsh(matrix)[-1].item() == pytest.approx(105.30321890179823, rel=RTOL)
    corners = torch.tensor(list(product((-1.0, 1.0), repeat=8)), dtype=torch.float64)
    errors = form(torch.einsum("ki,ipct->kpct", corners, kernels))
    assert errors.max().item() == pytest.approx(419.2077977935637, rel=RTOL)


@pytest.mark.parametrize("options", [{}, {"oscillating": True}, {"oscillating": True, "normalize_input": True}])
def test_gradient_through_the_kernel(options: dict[str, object]) -> None:
    x, y = generate("pol", 20, 9, seed=5)
    model = random_model(1, 3, 1, **options)
    form = QuadraticForm.from_data(x, y)
    names = [name for name, _ in model.named_parameters()]
    values = [value.detach()[None].clone().requires_grad_() for value in model.parameters()]

    def error(*leaves: Tensor) -> Tensor:
        return form.errors(stack(model, dict(zip(names, leaves, strict=True))))

    assert torch.autograd.gradcheck(error, values)


def test_the_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = generate("exp", 8, 10)
    model = random_model(1, 3, 1)
    cells = stack(model, copies(dict(model.named_parameters()), 7, 0.1))
    form = QuadraticForm.from_data(x, y)
    whole = form.errors(cells)
    monkeypatch.setattr("cofm_triton.perturbation.quadratic_form._CHUNK_NUMBERS", 100)
    torch.testing.assert_close(form.errors(cells), whole, rtol=1e-13, atol=0)


def test_weights() -> None:
    assert step_weights(7, "mse").tolist() == [1 / 7] * 7
    assert step_weights(100, "twe").sum().item() == pytest.approx(1.7909856657307524, rel=1e-14)
    with pytest.raises(ValueError, match="metric must be one of"):
        step_weights(3, "sup")

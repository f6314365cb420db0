from itertools import product

import pytest
import torch
from torch import Tensor, nn

from cofm_triton.reference import (
    NONLINEARITIES,
    Dynamics,
    candidates,
    differences,
    increments,
    linear_memory,
    memory_function,
    rnn_functional,
    sign_vectors,
)

OPTIONS = list(product(["diagonal", "ssm"], NONLINEARITIES, ["euler", "exact"]))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def random_params(units: int = 4, inputs: int = 2, outputs: int = 3) -> dict[str, Tensor]:
    return {
        "rnn.weight_ih_l0": random(units, inputs, seed=1),
        "rnn.bias_l0": random(units, seed=2),
        "rnn.rate_l0": -random(units, seed=3).abs(),
        "readout.weight": random(outputs, units, seed=4),
        "readout.bias": random(outputs, seed=5),
    }


@pytest.mark.parametrize("normalize_input", [False, True])
@pytest.mark.parametrize("units", [3, 4])
@pytest.mark.parametrize(("recurrence", "name", "discretization"), OPTIONS)
def test_increments_of_pairs(
    recurrence: str, name: str, discretization: str, units: int, normalize_input: bool
) -> None:
    dynamics = Dynamics("exp", recurrence, name, 0.5, discretization, oscillating=True, normalize_input=normalize_input)
    params, inputs = random_params(units), 2 * random(6, 2)
    params["rnn.rate_l0"] = params["rnn.rate_l0"][: (units + 1) // 2]
    params["rnn.frequency_l0"] = 0.3 * random(units // 2, seed=6)
    rest = params["readout.bias"]
    subtracted = differences(lambda x: rnn_functional(params, x, dynamics), inputs, 30, dt=0.5, initial_output=rest)
    direct = increments(params, inputs, 30, dynamics)
    torch.testing.assert_close(direct, subtracted, rtol=1e-11, atol=1e-12 * max(1.0, float(direct.abs().max())))


@pytest.mark.parametrize(("recurrence", "name", "discretization"), OPTIONS)
def test_increments_are_the_differences_of_the_output(recurrence: str, name: str, discretization: str) -> None:
    dynamics = Dynamics("exp", recurrence, name, 0.5, discretization)
    params, inputs = random_params(), 2 * random(6, 2)
    direct = increments(params, inputs, 30, dynamics)
    assert direct.shape == (6, 30, 3)
    subtracted = differences(
        lambda x: rnn_functional(params, x, dynamics),
        inputs,
        30,
        dt=0.5,
        initial_output=params["readout.bias"],
    )
    torch.testing.assert_close(direct, subtracted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("recurrence", "name", "discretization"), OPTIONS)
def test_increments_keep_relative_accuracy_in_float32(recurrence: str, name: str, discretization: str) -> None:
    dynamics = Dynamics("exp", recurrence, name, 1.0, discretization)
    params, inputs = random_params(1, 1, 1), torch.tensor([[0.2], [3.0]], dtype=torch.float64)
    params["rnn.rate_l0"] = torch.tensor([-1.0], dtype=torch.float64)
    params["rnn.weight_ih_l0"] = params["rnn.weight_ih_l0"].abs()  # relu stays on its slope
    params["rnn.bias_l0"] = torch.zeros(1, dtype=torch.float64)
    exact = increments(params, inputs, 60, dynamics)
    single = {key: value.float() for key, value in params.items()}
    actual = increments(single, inputs.float(), 60, dynamics)
    assert exact[:, -1].abs().max() < 1e-6
    # Every step multiplies by a factor rounded to float32, about twice.
    torch.testing.assert_close(actual.double(), exact, rtol=60 * 2 * 1.2e-7, atol=0)


def test_a_hardtanh_unit_has_one_over_t_memory_only_without_a_ball() -> None:
    # sup_x = |c u| / (1 + a t), reached where |x| = (1 + a t) / |u|: the last saturated moment.
    rate, u, c, length = 0.25, 0.5, -1.5, 41
    params = {
        "rnn.weight_ih_l0": torch.tensor([[u]], dtype=torch.float64),
        "rnn.rate_l0": torch.tensor([rate], dtype=torch.float64),
        "readout.weight": torch.tensor([[c]], dtype=torch.float64),
    }
    dynamics = Dynamics("direct", "diagonal", "hardtanh", 1.0, "euler")
    time = torch.arange(length, dtype=torch.float64)
    inputs = ((1 + rate * time) / u)[:, None]
    memory = memory_function(increments(params, inputs, length, dynamics), inputs)
    torch.testing.assert_close(memory.values, abs(c * u) / (1 + rate * time))
    torch.testing.assert_close(memory.argmax, inputs)
    ball = candidates(1, radius=4.0)
    inside = memory_function(increments(params, ball, length, dynamics), ball).values
    # From (|u| R - 1) / a = 4 on nothing saturates, and the memory decays by 1 - a a step.
    torch.testing.assert_close(inside[5:], inside[4:-1] * (1 - rate))


@pytest.mark.parametrize("norm", ["inf", "inf+1"])
@pytest.mark.parametrize("discretization", ["euler", "exact"])
@pytest.mark.parametrize("size", [1, 3])
def test_closed_form_on_the_sphere(size: int, discretization: str, norm: str) -> None:
    dynamics = Dynamics("exp", "diagonal", "linear", 0.5, discretization)
    params, corners = random_params(5, size, 2), 0.7 * sign_vectors(size)
    found = memory_function(increments(params, corners, 20, dynamics), corners, norm=norm)
    closed = linear_memory(params, 20, dynamics, radius=0.7, norm=norm)
    torch.testing.assert_close(found.values, closed, rtol=1e-12, atol=0)
    interior = 0.7 * (2 * torch.rand(500, size, dtype=torch.float64) - 1)
    interior = interior / interior.abs().amax(1, keepdim=True) * 0.7
    inside = memory_function(increments(params, interior, 20, dynamics), interior, norm=norm)
    assert (inside.values <= closed * (1 + 1e-12)).all()


def test_a_linear_functional_has_the_memory_of_its_kernel() -> None:
    params, ball = random_params(5, 2, 1), candidates(2, radius=3.0)
    del params["rnn.bias_l0"]
    dynamics = Dynamics("exp", "diagonal", "linear", 0.5, "exact")
    memory = memory_function(increments(params, ball, 20, dynamics), ball).values
    decay, gain = dynamics.decay(params), dynamics.gain(params)
    weights = gain / 0.5 * params["readout.weight"] * decay ** torch.arange(20)[:, None]
    torch.testing.assert_close(memory, (weights @ params["rnn.weight_ih_l0"]).abs().sum(1))


def test_candidates_fill_the_ball_with_sign_vectors() -> None:
    points = candidates(3, radius=2.0, levels=4)
    assert points.shape == (32, 3)
    assert len(points.unique(dim=0)) == 32
    assert torch.equal(points.abs().amax(1), points.abs().amin(1))
    assert torch.equal(points.abs().amax(1).unique(), torch.tensor([0.5, 1.0, 1.5, 2.0]).double())


def test_any_module_can_be_differenced() -> None:
    gru = nn.GRU(2, 3, batch_first=True, dtype=torch.float64)
    inputs = random(4, 2)
    with torch.no_grad():
        velocities = differences(lambda x: gru(x)[0], inputs, 12, dt=0.1)
        outputs, _ = gru(inputs[:, None].expand(4, 12, 2))
    torch.testing.assert_close(velocities.cumsum(1) * 0.1, outputs)
    torch.testing.assert_close(velocities[:, 0], outputs[:, 0] / 0.1)


def test_memory_by_hand_and_nan_in_sight() -> None:
    inputs = torch.tensor([[1.0, -2.0], [0.5, 0.0]])
    velocities = torch.tensor([[[1.0, -4.0], [1.0, 0.0]], [[0.5, 0.0], [0.0, -2.0]]])
    memory = memory_function(velocities, inputs)
    assert memory.values.tolist() == [2.0, 4.0]
    assert torch.equal(memory.argmax, inputs)
    assert memory_function(velocities, inputs, norm="inf+1").values.tolist() == pytest.approx([4 / 3, 4 / 3])
    velocities[0, 1, 0] = torch.nan
    assert memory_function(velocities, inputs).values.isnan().tolist() == [False, True]


def test_errors() -> None:
    with pytest.raises(ValueError, match="norm"):
        memory_function(torch.ones(1, 1, 1), torch.ones(1, 1), norm="l2")
    with pytest.raises(ValueError, match="zero vector"):
        memory_function(torch.ones(1, 1, 1), torch.zeros(1, 1))
    with pytest.raises(ValueError, match="norm"):
        linear_memory(random_params(), 3, Dynamics(nonlinearity="linear"), norm="l2")
    with pytest.raises(ValueError, match="nonlinearity"):
        linear_memory(random_params(), 3, Dynamics())

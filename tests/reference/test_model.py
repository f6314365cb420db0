from itertools import product

import pytest
import torch
from torch import Tensor

from cofm_triton.reference import (
    NONLINEARITIES,
    PARAMETERIZATIONS,
    Dynamics,
    nonlinearity,
    parameterization,
    rnn_functional,
    rnn_scan,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def random_params(units: int = 4, inputs: int = 2, outputs: int = 3, biases: bool = True) -> dict[str, Tensor]:
    params = {
        "rnn.weight_ih_l0": random(units, inputs, seed=1),
        "rnn.rate_l0": random(units, seed=3).abs() / 2,
        "readout.weight": random(outputs, units, seed=4),
    }
    if biases:
        params["rnn.bias_l0"] = random(units, seed=2)
        params["readout.bias"] = random(outputs, seed=5)
    return params


def one_unit(**dynamics: object) -> tuple[dict[str, Tensor], Dynamics]:
    values = {
        "rnn.weight_ih_l0": [[0.7]],
        "rnn.bias_l0": [0.1],
        "rnn.rate_l0": [0.3],
        "readout.weight": [[1.3]],
        "readout.bias": [-0.2],
    }
    params = {name: torch.tensor(v, dtype=torch.float64) for name, v in values.items()}
    options = {"parameterization": "direct", "nonlinearity": "linear", "dt": 0.5} | dynamics
    return params, Dynamics(**options)  # type: ignore[arg-type]


def test_one_linear_unit_by_euler() -> None:
    params, dynamics = one_unit(discretization="euler")
    y = rnn_functional(params, torch.full((1, 50, 1), 2.0, dtype=torch.float64), dynamics)[0, :, 0]
    expected = {0: 0.775, 9: 5.020316371785302, 49: 6.298077529685869}
    for k, value in expected.items():
        assert y[k].item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("recurrence", ["diagonal", "ssm"])
def test_one_linear_unit_exactly(recurrence: str) -> None:
    params, dynamics = one_unit(discretization="exact", recurrence=recurrence)
    y = rnn_functional(params, torch.full((1, 50, 1), 2.0, dtype=torch.float64), dynamics)[0, :, 0]
    time = 0.5 * torch.arange(1, 51, dtype=torch.float64)
    solution = 1.3 * (0.7 * 2 + 0.1) / 0.3 * (1 - torch.exp(-0.3 * time)) - 0.2
    torch.testing.assert_close(y, solution, rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("recurrence", "name", "discretization", "biases"),
    list(product(["diagonal", "ssm"], NONLINEARITIES, ["euler", "exact"], [True, False])),
)
def test_step_by_step(recurrence: str, name: str, discretization: str, biases: bool) -> None:
    dt, params, x = 0.5, random_params(biases=biases), random(2, 9, 2)
    dynamics = Dynamics("exp", recurrence, name, dt, discretization)
    act = nonlinearity(name).act
    rate = params["rnn.rate_l0"].exp()
    decay = 1 - dt * rate if discretization == "euler" else torch.exp(-dt * rate)
    h = torch.zeros(2, 4, dtype=torch.float64)
    outputs = []
    for k in range(9):
        e = x[:, k] @ params["rnn.weight_ih_l0"].T + params.get("rnn.bias_l0", 0.0)
        if recurrence == "ssm" or name == "linear":
            exact_gain = (1 - decay) / rate
            h = decay * h + (dt if discretization == "euler" else exact_gain) * e
        else:
            h = h + dt * act(e - (1 - decay) / dt * h)
        state = act(h) if recurrence == "ssm" else h
        outputs.append(state @ params["readout.weight"].T + params.get("readout.bias", 0.0))
    y = rnn_functional(params, x, dynamics)
    torch.testing.assert_close(y, torch.stack(outputs, 1), rtol=1e-12, atol=1e-12)


def test_linear_euler_is_the_nonlinear_formula_with_the_identity() -> None:
    params, x = random_params(biases=False), random(2, 9, 2)
    y = rnn_functional(params, x, Dynamics("exp", "diagonal", "linear", 0.5, "euler"))
    e, rate = x @ params["rnn.weight_ih_l0"].T, params["rnn.rate_l0"].exp()
    h, _ = rnn_scan(e, rate, dt=0.5, nonlinearity="linear")
    torch.testing.assert_close(y, h @ params["readout.weight"].T)


@pytest.mark.parametrize("name", [n for n in PARAMETERIZATIONS if n != "direct"])
def test_parameterisations_of_equal_rates_agree(name: str) -> None:
    rate = torch.tensor([0.05, 0.3, 0.6, 0.9], dtype=torch.float64)
    params, x = random_params(), random(2, 9, 2)
    outputs = [
        rnn_functional(
            params | {"rnn.rate_l0": parameterization(p).inverse(rate)},
            x,
            Dynamics(p, "diagonal", "hardtanh", 1.0, "exact"),
        )
        for p in (name, "direct")
    ]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-13, atol=1e-13)


def test_exact_discretisation_is_stable_where_euler_is_not() -> None:
    params = random_params() | {"rnn.rate_l0": torch.full((4,), 3.0, dtype=torch.float64)}
    x = random(1, 200, 2)
    exact = rnn_functional(params, x, Dynamics("exp", "ssm", "linear", 1.0, "exact"))
    euler = rnn_functional(params, x, Dynamics("exp", "ssm", "linear", 1.0, "euler"))
    # rate = e^3 = 20: Euler multiplies the state by -19 a step.
    assert exact.abs().max() < 10
    assert euler.abs().max() > 1e200


@pytest.mark.parametrize("recurrence", ["diagonal", "ssm"])
@pytest.mark.parametrize("name", ["tanh", "linear"])
@pytest.mark.parametrize("discretization", ["euler", "exact"])
def test_gradients_of_every_parameter(recurrence: str, name: str, discretization: str) -> None:
    params = {key: value.requires_grad_() for key, value in random_params(3, 1, 1).items()}
    x = random(1, 4, 1).requires_grad_()
    dynamics = Dynamics("softplus", recurrence, name, 0.7, discretization)

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return rnn_functional(dict(zip(params, values, strict=True)), x, dynamics)

    assert torch.autograd.gradcheck(run, (x, *params.values()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recurrence": "gru"}, "recurrence"),
        ({"nonlinearity": "gelu"}, "nonlinearity"),
        ({"parameterization": "sigmoid"}, "name"),
        ({"discretization": "zoh"}, "discretization"),
    ],
)
def test_unknown_options(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rnn_functional(random_params(), random(1, 2, 2), Dynamics(**options))  # type: ignore[arg-type]

import pytest
import torch
from torch import Tensor

from cofm_triton.reference import Dynamics, linear_kernel, rnn_functional

PARAMS = {
    "rnn.weight_ih_l0": torch.tensor([[0.7]], dtype=torch.float64),
    "rnn.bias_l0": torch.tensor([0.1], dtype=torch.float64),
    "rnn.rate_l0": torch.tensor([0.3], dtype=torch.float64),
    "readout.weight": torch.tensor([[1.3]], dtype=torch.float64),
    "readout.bias": torch.tensor([-0.2], dtype=torch.float64),
}


def random_params() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "rnn.weight_ih_l0": (4, 2),
        "rnn.bias_l0": (4,),
        "rnn.rate_l0": (4,),
        "readout.weight": (3, 4),
        "readout.bias": (3,),
    }
    return {name: torch.randn(shape, dtype=torch.float64, generator=generator) for name, shape in shapes.items()}


def test_one_unit() -> None:
    kappa, kb = linear_kernel(PARAMS, 6, Dynamics("direct", "diagonal", "linear", 0.5, "euler"))
    assert kappa[0, 0, 5].item() == pytest.approx(0.20188591718749996, rel=1e-12)
    torch.testing.assert_close(kb[0], kappa[0, 0] / 7)


@pytest.mark.parametrize("discretization", ["euler", "exact"])
@pytest.mark.parametrize("recurrence", ["diagonal", "ssm"])
@pytest.mark.parametrize("biases", [True, False])
def test_the_output_is_the_convolution(discretization: str, recurrence: str, biases: bool) -> None:
    dynamics = Dynamics("softplus", recurrence, "linear", 0.5, discretization)
    params = random_params()
    if not biases:
        del params["rnn.bias_l0"], params["readout.bias"]
    x = torch.randn(2, 15, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    kappa, kb = linear_kernel(params, 15, dynamics)
    y = torch.zeros(2, 15, 3, dtype=torch.float64) + params.get("readout.bias", 0.0)
    for k in range(15):
        for s in range(k + 1):
            y[:, k] += x[:, k - s] @ kappa[:, :, s].T + kb[:, s]
    torch.testing.assert_close(rnn_functional(params, x, dynamics), y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("discretization", ["euler", "exact"])
@pytest.mark.parametrize("units", [3, 4])
@pytest.mark.parametrize("normalize_input", [False, True])
def test_pairs_are_complex_units(discretization: str, units: int, normalize_input: bool) -> None:
    dynamics = Dynamics(
        nonlinearity="linear", dt=0.5, discretization=discretization, oscillating=True, normalize_input=normalize_input
    )
    params = {
        name: value[..., :units] if name == "readout.weight" else value[:units] if name.startswith("rnn") else value
        for name, value in random_params().items()
    }
    params["rnn.rate_l0"] = params["rnn.rate_l0"][: (units + 1) // 2]
    params["rnn.frequency_l0"] = torch.tensor([1.1, -0.4], dtype=torch.float64)[: units // 2]
    kappa, kb = linear_kernel(params, 15, dynamics)
    silent = rnn_functional(params, torch.zeros(1, 15, 2, dtype=torch.float64), dynamics)[0]
    torch.testing.assert_close(kb.cumsum(1).T + params["readout.bias"], silent, rtol=1e-12, atol=1e-12)
    for channel in range(2):
        impulse = torch.zeros(1, 15, 2, dtype=torch.float64)
        impulse[0, 0, channel] = 1
        response = rnn_functional(params, impulse, dynamics)[0] - silent
        torch.testing.assert_close(kappa[:, channel].T, response, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("discretization", ["euler", "exact"])
def test_heaviside_response(discretization: str) -> None:
    dynamics, p = Dynamics("exp", "diagonal", "linear", 0.5, discretization), random_params()
    x = torch.tensor([0.4, -1.1], dtype=torch.float64)
    decay, gain = dynamics.decay(p), dynamics.gain(p)
    weight = gain * (p["rnn.weight_ih_l0"] @ x + p["rnn.bias_l0"])
    steps = torch.arange(1, 21, dtype=torch.float64)[:, None]
    y = (weight * (1 - decay**steps) / (1 - decay)) @ p["readout.weight"].T + p["readout.bias"]
    actual = rnn_functional(p, x.expand(1, 20, 2), dynamics)[0]
    torch.testing.assert_close(actual, y, rtol=1e-12, atol=1e-12)


def test_derivative_in_the_raw_weights_by_euler() -> None:
    # d kappa_s / d w_i = -dt^2 c_i U_i s l_i^{s-1} f'(w_i)
    params, dt = random_params(), 0.5
    dynamics = Dynamics("exp", "diagonal", "linear", dt, "euler")

    def kappa(w: Tensor) -> Tensor:
        return linear_kernel(params | {"rnn.rate_l0": w}, 9, dynamics)[0][0, 0]

    w = params["rnn.rate_l0"]
    s = torch.arange(9, dtype=torch.float64)[:, None]
    powers = dynamics.decay(params) ** (s - 1)
    cu = params["readout.weight"][0] * params["rnn.weight_ih_l0"][:, 0]
    expected = -(dt**2) * cu * s * powers * w.exp()
    jacobian = torch.autograd.functional.jacobian(kappa, w)
    torch.testing.assert_close(jacobian, expected, rtol=1e-12, atol=1e-14)


def test_only_linear_models_have_a_kernel() -> None:
    with pytest.raises(ValueError, match=r"nonlinearity.*'hardtanh'"):
        linear_kernel(PARAMS, 3, Dynamics())

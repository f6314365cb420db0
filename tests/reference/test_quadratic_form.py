from itertools import product

import pytest
import torch
from torch import Tensor

from cofm_triton.reference import (
    Dynamics,
    linear_kernel,
    perturb,
    rnn_functional,
    targets,
    temporally_weighted_mse,
)
from cofm_triton.reference.loss import tail_weights
from cofm_triton.reference.quadratic_form import (
    arbitrary_target_error,
    gram,
    mismatch,
    population_moments,
    quadratic_error,
    response,
    sample_moments,
)

EULER = Dynamics("direct", "diagonal", "linear", 1.0, "euler")
DET_ERRORS = [
    ("exp", 0.0, 2.1524360229419),
    ("exp", 0.05, 138.97558499878),
    ("exp", 0.5, 1.6595427785907e34),
    ("pol", 0.0, 5.7481593810659),
    ("pol", 0.05, 134.18808860583),
    ("pol", 0.5, 1.6595427785907e34),
]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def random_params(units: int, inputs: int, outputs: int, seed: int = 0) -> dict[str, Tensor]:
    return {
        "rnn.weight_ih_l0": random(units, inputs, seed=seed + 1),
        "rnn.bias_l0": random(units, seed=seed + 2),
        "rnn.rate_l0": random(units, seed=seed + 3),
        "readout.weight": random(outputs, units, seed=seed + 4) / units,
        "readout.bias": random(outputs, seed=seed + 5),
    }


@pytest.mark.parametrize(
    ("target", "beta", "expected", "dtype"),
    # Growth by 1.5 a step, at beta = 0.5, leaves float32 no digits.
    [(*case, torch.float64) for case in DET_ERRORS]
    + [(*case, torch.float32) for case in DET_ERRORS if case[1] <= 0.05],
)
def test_brute_force_on_the_deterministic_model(
    det_inputs: Tensor,
    det_params: dict[str, Tensor],
    det_direction: dict[str, Tensor],
    target: str,
    beta: float,
    expected: float,
    dtype: torch.dtype,
) -> None:
    outputs = targets.causal_convolution(targets.kernel(target, 100), det_inputs)
    params = {key: value.to(dtype) for key, value in perturb(det_params, det_direction, beta).items()}
    y = rnn_functional(params, det_inputs.to(dtype), EULER)
    error = temporally_weighted_mse(y.double(), outputs).item()
    assert error == pytest.approx(expected, rel=1e-10 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize(("target", "beta", "expected"), DET_ERRORS)
def test_quadratic_form_on_the_deterministic_model(
    det_inputs: Tensor,
    det_params: dict[str, Tensor],
    det_direction: dict[str, Tensor],
    target: str,
    beta: float,
    expected: float,
) -> None:
    outputs = targets.causal_convolution(targets.kernel(target, 100), det_inputs)
    params = perturb(det_params, det_direction, beta)
    brute = temporally_weighted_mse(rnn_functional(params, det_inputs, EULER), outputs).item()
    z = mismatch(response(params, 100, EULER), targets.kernel(target, 100))
    form = gram(sample_moments(det_inputs))
    assert quadratic_error(z, form).item() == pytest.approx(brute, rel=1e-12)
    assert brute == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("recurrence", "discretization", "inputs", "outputs"),
    list(product(["diagonal", "ssm"], ["euler", "exact"], [1, 3], [1, 2])),
)
def test_quadratic_form_is_brute_force(recurrence: str, discretization: str, inputs: int, outputs: int) -> None:
    dynamics = Dynamics("softplus", recurrence, "linear", 0.5, discretization)
    params, teacher = random_params(4, inputs, outputs), random_params(3, inputs, outputs, 50)
    del teacher["rnn.bias_l0"], teacher["readout.bias"]
    x = random(6, 12, inputs) + 0.5
    y = rnn_functional(teacher, x, dynamics)
    brute = temporally_weighted_mse(rnn_functional(params, x, dynamics), y).item()
    form, model = gram(sample_moments(x)), response(params, 12, dynamics)
    z = mismatch(model, linear_kernel(teacher, 12, dynamics)[0])
    assert quadratic_error(z, form).item() == pytest.approx(brute, rel=1e-12)
    noisy = y + random(6, 12, outputs, seed=9)
    brute = temporally_weighted_mse(rnn_functional(params, x, dynamics), noisy).item()
    # The expanded square cancels: its terms are up to 1e3 times their sum here.
    expanded = arbitrary_target_error(model, form, x, noisy).item()
    assert expanded == pytest.approx(brute, rel=1e-11)


def test_gram_entries_by_their_definition() -> None:
    x = random(5, 7, 1)
    form = gram(sample_moments(x))
    v = 7 * torch.arange(1, 8, dtype=torch.float64) ** 2 / 140
    channels = torch.cat([x, torch.ones_like(x)], 2)
    for p, s, q, t in product(range(2), range(7), range(2), range(7)):
        later = range(max(s, t), 7)
        moments = [(channels[:, k - s, p] * channels[:, k - t, q]).mean() for k in later]
        entry = sum(v[k] ** 2 / 7 * r for k, r in zip(later, moments, strict=True))
        torch.testing.assert_close(form[p, s, q, t], entry)


@pytest.mark.parametrize("std", [1.0, 0.5])
def test_population_form(std: float) -> None:
    # E = sum_s V_s (kappa_s - rho_s)^2 + sum_{s,s'} V_{max(s,s')} kb_s kb_s'
    z, tails = random(1, 2, 15), tail_weights(15)
    lags = torch.arange(15)
    later = torch.maximum(lags[:, None], lags)
    expected = std**2 * (tails * z[0, 0] ** 2).sum() + z[0, 1] @ tails[later] @ z[0, 1]
    form = gram(population_moments(15, std=std))
    torch.testing.assert_close(quadratic_error(z, form), expected)


def test_population_form_is_the_limit_of_samples() -> None:
    x = random(200_000, 5, 2)
    difference = sample_moments(x) - population_moments(5, 2)
    assert difference.abs().max() < 6 * 2**0.5 / 200_000**0.5


def test_gradient() -> None:
    # dE/dw = 2 (dz/dw)^T G z
    dynamics = Dynamics("softplus", "diagonal", "linear", 1.0, "exact")
    params, rho = random_params(4, 1, 1), targets.kernel("pol", 10)
    form = gram(sample_moments(random(6, 10, 1)))

    def z_of(w: Tensor) -> Tensor:
        return mismatch(response(params | {"rnn.rate_l0": w}, 10, dynamics), rho)

    w = params["rnn.rate_l0"].requires_grad_()
    (gradient,) = torch.autograd.grad(quadratic_error(z_of(w), form), w)
    jacobian = torch.autograd.functional.jacobian(z_of, w)[0]
    expected = 2 * torch.einsum("psi,psqt,qt->i", jacobian, form, z_of(w)[0])
    torch.testing.assert_close(gradient, expected)


def test_worst_read_out(det_params: dict[str, Tensor]) -> None:
    # The target is the model's own response to its input, so z = J dc and E = dc^T J^T G J dc.
    params = det_params | {"rnn.bias_l0": torch.zeros(8, dtype=torch.float64)}

    def z_of(c: Tensor) -> Tensor:
        moved = response(params | {"readout.weight": c[None]}, 100, EULER)
        return moved[0] - response(params, 100, EULER)[0]

    c = det_params["readout.weight"][0]
    jacobian = torch.autograd.functional.jacobian(z_of, c)
    hessian = torch.einsum("psi,psqt,qtj->ij", jacobian, gram(population_moments(100)), jacobian)
    assert torch.linalg.eigvalsh(hessian)[-1].item() == pytest.approx(105.30321890179823, rel=1e-10)
    corners = torch.tensor(list(product((-1.0, 1.0), repeat=8)), dtype=torch.float64)
    errors = torch.einsum("ni,ij,nj->n", corners, hessian, corners)
    assert errors.max().item() == pytest.approx(419.2077977935637, rel=1e-10)


def test_only_linear_models_have_a_response() -> None:
    with pytest.raises(ValueError, match="nonlinearity"):
        response(random_params(2, 1, 1), 5, Dynamics())

import math

import pytest
import torch
from torch import Tensor

from cofm_triton.reference import PARAMETERIZATIONS, parameterization

STABLE = ["exp", "softplus", "inverse", "lru"]
WEIGHTS = torch.linspace(-12, 3, 61, dtype=torch.float64)
RATES = {
    "direct": [-0.5, 1e-9, 0.3, 40.0],
    "relu": [1e-9, 0.3, 40.0],
    "exp": [1e-300, 1e-9, 0.3, 40.0],
    "softplus": [1e-300, 1e-9, math.log(2), 40.0, 5e4],
    "inverse": [1e-12, 0.3, 1.999999999, 2.0],
    "lru": [1e-300, 1e-9, 0.3, 0.999999],
}


def test_every_parameterisation_is_covered() -> None:
    assert set(RATES) == set(PARAMETERIZATIONS)


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_rate_of_the_inverse_is_the_rate(name: str) -> None:
    rates = torch.tensor(RATES[name], dtype=torch.float64)
    entry = parameterization(name)
    assert entry.name == name
    w = entry.inverse(rates)
    # w is rounded, and f turns that into a relative error of at most |w f' / f| ulps.
    condition = (w * entry.derivative(w) / entry.rate(w)).abs()
    error = (entry.rate(w) - rates).abs() / rates.abs()
    assert (error <= 4e-16 * (2 + condition)).all()


@pytest.mark.parametrize(
    ("name", "w", "rate"),
    [
        ("direct", -0.5, -0.5),
        ("relu", -0.5, 0.0),
        ("exp", 1.0, math.e),
        ("softplus", 0.0, math.log(2)),
        ("softplus", 800.0, 800.0),
        ("softplus", -40.0, math.exp(-40)),
        ("inverse", 1.0, 2 / 3),
        ("lru", 0.0, 1 - math.exp(-1)),
        ("lru", -40.0, math.exp(-40)),
    ],
)
def test_rates(name: str, w: float, rate: float) -> None:
    value = parameterization(name).rate(torch.tensor(w, dtype=torch.float64))
    assert float(value) == pytest.approx(rate, rel=4e-16)


@pytest.mark.parametrize("name", STABLE)
def test_stable_rates_are_positive(name: str) -> None:
    assert (parameterization(name).rate(torch.linspace(-80, 80, 999)) > 0).all()


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_derivative_is_autograd(name: str) -> None:
    w = WEIGHTS.clone().requires_grad_()
    entry = parameterization(name)
    (slope,) = torch.autograd.grad(entry.rate(w).sum(), w)
    torch.testing.assert_close(entry.derivative(w), slope)


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("direct", lambda w: 1 / w**2),
        ("relu", lambda w: torch.where(w > 0, 1 / w**2, 0.0)),
        ("exp", lambda w: torch.exp(-w)),
        ("softplus", lambda w: torch.sigmoid(w) / torch.logaddexp(w, w.new_zeros(())) ** 2),
        ("inverse", lambda w: 2 * w.abs()),
        # In terms of the discrete decay l: |l'| / (1 - l)^2.
        ("lru", lambda w: torch.exp(w - w.exp()) / torch.expm1(-w.exp()) ** 2),
    ],
)
def test_gradient_scale(name: str, scale: object) -> None:
    w = WEIGHTS[WEIGHTS != 0]
    assert callable(scale)
    torch.testing.assert_close(parameterization(name).gradient_scale(w), scale(w), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", STABLE)
def test_gradient_scale_is_finite_where_its_square_underflows(name: str) -> None:
    scale = parameterization(name).gradient_scale(torch.tensor([-400.0], dtype=torch.float64))
    assert scale.isfinite().all() and (scale > 0).all()


@pytest.mark.parametrize("name", STABLE)
@pytest.mark.parametrize("beta", [0.01, 0.1, 0.5, 1.0])
def test_modulus_is_the_sup_found_on_a_grid(name: str, beta: float) -> None:
    entry = parameterization(name)
    w = torch.linspace(-30, 6, 20_001, dtype=torch.float64)
    shifts = torch.linspace(-beta, beta, 21, dtype=torch.float64)[:, None]
    found = float((entry.rate(w) / entry.rate(w + shifts) - 1).abs().max())
    # The grid's step of 1.8e-3 misses the sup by its square.
    assert found <= entry.modulus(beta) * (1 + 1e-12)
    assert found == pytest.approx(entry.modulus(beta), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "beta", "modulus"),
    [
        ("exp", 0.1, 0.10517091807565),
        ("softplus", 0.1, 0.10517091807565),
        ("inverse", 0.1, 0.15177446878758),
        ("inverse", 0.5, 1.0),
        ("inverse", 1.0, 2.7320508075689),
        ("direct", 0.1, math.inf),
        ("relu", 0.1, math.inf),
        ("direct", 0.0, 0.0),
    ],
)
def test_modulus_values(name: str, beta: float, modulus: float) -> None:
    assert parameterization(name).modulus(beta) == pytest.approx(modulus, rel=1e-12)


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(name: str, dtype: torch.dtype) -> None:
    entry = parameterization(name)
    w: Tensor = torch.linspace(-2, 2, 5, dtype=dtype)
    for value in (entry.rate(w), entry.derivative(w), entry.gradient_scale(w)):
        assert value.dtype == dtype
        assert value.shape == w.shape


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"softplus.*'sigmoid'"):
        parameterization("sigmoid")

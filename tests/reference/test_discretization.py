import math
from fractions import Fraction

import pytest
import torch

from cofm_triton.reference import (
    complement,
    effective_matrix,
    effective_rate,
    linear_decay,
    linear_gain,
    matrix_gain,
    phi,
)

POINTS = [-1.01, -0.2, -1e-3, -1e-12, 0.0, 1e-300, 1e-12, 1e-5, 0.1, 0.3, 0.999, 1.0, 1.001, 2.0]
RATES = torch.tensor([1e-12, 1e-6, 0.3, 1.9, 700.0], dtype=torch.float64)


def phi_derivative(x: float, order: int) -> float:
    """Derivative of sum_n (-x)^n / (n + 1)!, summed in exact rationals."""
    total = Fraction(0)
    for n in range(order, 60):
        factor = math.perm(n, order) * (-1) ** n
        total += Fraction(factor, math.factorial(n + 1)) * Fraction(x) ** (n - order)
    return float(total)


@pytest.mark.parametrize("x", POINTS)
def test_phi_and_its_derivatives(x: float) -> None:
    argument = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    value = phi(argument)
    (first,) = torch.autograd.grad(value, argument, create_graph=True)
    (second,) = torch.autograd.grad(first, argument)
    assert value.item() == pytest.approx(phi_derivative(x, 0), rel=4e-16)
    # Above 1 the quotient's derivatives cancel up to 3 and 12 times.
    assert first.item() == pytest.approx(phi_derivative(x, 1), rel=2e-15)
    assert second.item() == pytest.approx(phi_derivative(x, 2), rel=4e-15)


@pytest.mark.parametrize("x", [-3.0, 0.0, 1e-12, 0.7, 1.0, 1.5, 30.0, 700.0])
def test_complement_keeps_the_digits_of_its_derivative(x: float) -> None:
    argument = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    value = complement(argument)
    (slope,) = torch.autograd.grad(value, argument)
    assert value.item() == pytest.approx(-math.expm1(-x), rel=4e-16)
    assert slope.item() == pytest.approx(math.exp(-x), rel=4e-16)


def test_phi_of_large_arguments() -> None:
    x = torch.tensor([1e3, 1e30, torch.inf], dtype=torch.float64)
    assert torch.equal(phi(x), 1 / x)


@pytest.mark.parametrize("dt", [0.1, 1.0])
def test_exact_step_solves_the_equation(dt: float) -> None:
    # h' = -rate h + e over dt from h = 0 reaches (1 - e^{-rate dt}) / rate * e.
    decay, gain = linear_decay(RATES, dt, "exact"), linear_gain(RATES, dt, "exact")
    torch.testing.assert_close(decay, torch.exp(-dt * RATES))
    torch.testing.assert_close(gain, -torch.expm1(-dt * RATES) / RATES, rtol=1e-15, atol=0)
    halves = linear_gain(RATES, dt / 2, "exact")
    torch.testing.assert_close(gain, halves * (1 + linear_decay(RATES, dt / 2, "exact")))


@pytest.mark.parametrize("dt", [0.1, 1.0])
def test_effective_rate_gives_the_exact_decay_to_an_euler_step(dt: float) -> None:
    a = effective_rate(RATES, dt, "exact")
    torch.testing.assert_close(1 - dt * a, torch.exp(-dt * RATES), rtol=1e-15, atol=1e-16)
    torch.testing.assert_close(a, RATES * phi(dt * RATES), rtol=1e-15, atol=0)


def test_euler() -> None:
    assert torch.equal(effective_rate(RATES, 0.5, "euler"), RATES)
    assert torch.equal(linear_decay(RATES, 0.5, "euler"), 1 - 0.5 * RATES)
    assert torch.equal(linear_gain(RATES, 0.5, "euler"), torch.full_like(RATES, 0.5))


def test_zero_rate_has_finite_gradients() -> None:
    rate = torch.zeros(1, requires_grad=True)
    gain = linear_gain(rate, 0.5, "exact")
    (slope,) = torch.autograd.grad(gain, rate)
    assert gain.item() == 0.5
    assert slope.item() == -0.125  # dt^2 phi'(0)


@pytest.mark.parametrize("function", [effective_rate, linear_decay, linear_gain])
def test_unknown_discretization(function: object) -> None:
    assert callable(function)
    with pytest.raises(ValueError, match=r"discretization.*'zoh'"):
        function(RATES, 1.0, "zoh")


@pytest.mark.parametrize("slow", [1e-12, 1e-6, 1.0])
def test_matrices_of_slow_units_keep_their_digits(slow: float) -> None:
    rate = slow * torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    for function, of_rates in ((effective_matrix, effective_rate), (matrix_gain, linear_gain)):
        ours = function(torch.diag(rate), 0.01, "exact")
        expected = torch.diag(of_rates(rate, 0.01, "exact"))
        torch.testing.assert_close(ours, expected, rtol=2e-15, atol=0)

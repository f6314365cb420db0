"""One step of the linear and the nonlinear recurrence, and the gain phi near its removable pole."""

import math
from typing import Any

import pytest
import torch

from cofm_triton import reference
from cofm_triton.discretization import (
    DISCRETIZATIONS,
    complement,
    effective_matrix,
    effective_rate,
    is_exact,
    linear_decay,
    linear_gain,
    matrix_gain,
    phi,
)

FUNCTIONS = (effective_rate, linear_decay, linear_gain)
POINTS = [-3.0, -0.26, -0.25, -1e-9, 0.0, 1e-12, 1e-4, 0.2499, 0.25, 0.9, 1.0, 1.1, 30.0, 800.0]


@pytest.mark.parametrize("function", [complement, phi])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_slopes(function: Any, dtype: torch.dtype) -> None:
    x = torch.tensor(POINTS, dtype=dtype, requires_grad=True)
    value = function(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    for point, ours, our_slope in zip(x.tolist(), value.tolist(), slope.tolist(), strict=True):
        # phi and -phi' as sums of positive terms where quotients would cancel (|x| <= 4).
        if function is complement:
            expected, expected_slope = -math.expm1(-point), math.exp(-point)
        elif abs(point) <= 4:
            terms = range(60)
            expected = math.fsum((-point) ** n / math.factorial(n + 1) for n in terms)
            expected_slope = -math.fsum((n + 1) * (-point) ** n / math.factorial(n + 2) for n in terms)
        else:
            expected = -math.expm1(-point) / point
            expected_slope = (math.exp(-point) * (point + 1) - 1) / point**2
        # A few roundings; the slope of phi's quotient cancels at most like 1 / 0.25^2.
        rtol = 32 * torch.finfo(dtype).eps
        assert ours == pytest.approx(expected, rel=rtol, abs=0)
        tiny = torch.finfo(dtype).tiny
        assert our_slope == pytest.approx(expected_slope, rel=rtol * max(1, abs(point)), abs=tiny)


def test_phi_at_zero_to_third_order() -> None:
    x = torch.zeros((), dtype=torch.float64, requires_grad=True)
    value = phi(x)
    derivatives = []
    for _ in range(3):
        (value_prime,) = torch.autograd.grad(value, x, create_graph=True)
        derivatives.append(value_prime.item())
        value = value_prime
    assert derivatives == pytest.approx([-1 / 2, 1 / 3, -1 / 4], rel=1e-14)


@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
@pytest.mark.parametrize("dt", [0.01, 1.0, 3.0])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_against_the_definition(function: Any, discretization: str, dt: float) -> None:
    rate = torch.tensor([-0.5, 0.0, 1e-8, 0.3, 2.0, 50.0], dtype=torch.float64)
    expected = getattr(reference, function.__name__)(rate, dt, discretization)
    torch.testing.assert_close(function(rate, dt, discretization), expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
def test_the_two_forms_of_the_linear_step_agree(discretization: str) -> None:
    """Putting a into the nonlinear formula with act(z) = z gives the linear decay 1 - dt a."""
    rate, dt = torch.logspace(-6, 1, 30, dtype=torch.float64), 0.7
    decay = 1 - dt * effective_rate(rate, dt, discretization)
    torch.testing.assert_close(decay, linear_decay(rate, dt, discretization), rtol=0, atol=2.3e-16)


def test_exact_steps_compose() -> None:
    """Two steps of dt with the same input are one step of 2 dt: it is the true solution."""
    rate = torch.tensor([0.0, 1e-5, 0.4, 3.0], dtype=torch.float64)
    decay, gain = (f(rate, 0.3, "exact") for f in (linear_decay, linear_gain))
    torch.testing.assert_close(linear_decay(rate, 0.6, "exact"), decay * decay, rtol=1e-15, atol=0)
    torch.testing.assert_close(linear_gain(rate, 0.6, "exact"), gain + decay * gain, rtol=1e-15, atol=0)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("bad", ["Exact", "zoh", None])
def test_unknown_discretization(function: Any, bad: Any) -> None:
    with pytest.raises(ValueError, match=r"discretization must be one of \('exact', 'euler'\)"):
        function(torch.ones(1), 1.0, bad)


def test_is_exact() -> None:
    assert [is_exact(name) for name in ("exact", "euler")] == [True, False]


@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
def test_matrices_that_are_diagonal_up_to_a_rotation(discretization: str) -> None:
    rate, dt = torch.tensor([0.0, 1e-3, 0.4, 7.0], dtype=torch.float64), 0.3
    basis, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    for function, of_rates in ((effective_matrix, effective_rate), (matrix_gain, linear_gain)):
        ours = function(basis.T @ torch.diag(rate) @ basis, dt, discretization)
        expected = basis.T @ torch.diag(of_rates(rate, dt, discretization)) @ basis
        torch.testing.assert_close(ours, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
@pytest.mark.parametrize("name", ["effective_matrix", "matrix_gain"])
def test_matrices_that_turn(name: str, discretization: str) -> None:
    matrix = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours = globals()[name](matrix, 0.3, discretization)
    torch.testing.assert_close(ours, getattr(reference, name)(matrix, 0.3, discretization), rtol=1e-13, atol=1e-13)
    assert torch.autograd.gradcheck(lambda m: globals()[name](m, 0.3, discretization), matrix.requires_grad_())
    with pytest.raises(ValueError, match="discretization must be one of"):
        globals()[name](matrix, 0.3, "zoh")

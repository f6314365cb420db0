"""One step of the linear and the nonlinear recurrence, and the gain phi near its removable pole."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from cofm_triton import reference
from cofm_triton.step.discretization import (
    DISCRETIZATIONS,
    complement,
    effective_matrix,
    effective_rate,
    is_exact,
    linear_decay,
    linear_gain,
    matrix_step,
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


# --- matrices ----------------------------------------------------------------------------------

DT = [0.01, 0.1, 1.0]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def turning(size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """W of a dense layer: rates from 1e-6 to 10, and turns."""
    free = random(size, size, seed=1)
    return (torch.diag(torch.logspace(-6, 1, size, dtype=torch.float64)) + (free - free.T) / 4).to(dtype)


def driven(matrix: Tensor, encoder: Tensor, dt: float, discretization: str) -> Tensor:
    return reference.matrix_gain(matrix, dt, discretization) @ encoder / dt


@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
def test_matrices_that_are_diagonal_up_to_a_rotation(discretization: str) -> None:
    rate, dt = torch.tensor([0.0, 1e-3, 0.4, 7.0], dtype=torch.float64), 0.3
    basis, _ = torch.linalg.qr(random(4, 4))
    matrix = basis.T @ torch.diag(rate) @ basis
    effective = basis.T @ torch.diag(effective_rate(rate, dt, discretization)) @ basis
    gain = basis.T @ torch.diag(linear_gain(rate, dt, discretization)) @ basis
    torch.testing.assert_close(effective_matrix(matrix, dt, discretization), effective, rtol=1e-13, atol=1e-13)
    ours = matrix_step(matrix, torch.eye(4, dtype=torch.float64), dt, discretization)
    for value, expected in zip(ours, (effective, gain / dt), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
def test_matrices_that_turn(discretization: str) -> None:
    matrix, encoder = random(4, 4, seed=1), random(4, 2, seed=2)
    expected = reference.effective_matrix(matrix, 0.3, discretization)
    torch.testing.assert_close(effective_matrix(matrix, 0.3, discretization), expected, rtol=1e-13, atol=1e-13)
    ours, encoded = matrix_step(matrix, encoder, 0.3, discretization)
    torch.testing.assert_close(ours, expected, rtol=1e-13, atol=1e-13)
    right = driven(matrix, encoder, 0.3, discretization)
    torch.testing.assert_close(encoded, right, rtol=1e-13, atol=1e-13)
    leaves = (matrix.requires_grad_(), encoder.requires_grad_())
    assert torch.autograd.gradcheck(lambda w: effective_matrix(w, 0.3, discretization), leaves[:1])
    assert torch.autograd.gradcheck(lambda w, u: matrix_step(w, u, 0.3, discretization), leaves)
    assert torch.autograd.gradgradcheck(lambda w, u: matrix_step(w, u, 0.3, discretization), leaves)


@pytest.mark.parametrize("function", [effective_matrix, lambda w, *step: matrix_step(w, w, *step)])
def test_unknown_discretization_of_a_matrix(function: Any) -> None:
    with pytest.raises(ValueError, match="discretization must be one of"):
        function(torch.eye(2), 0.3, "zoh")


@pytest.mark.parametrize("dt", DT)
@pytest.mark.parametrize("slow", [1e-6, 1e-3, 1e-2, 0.1, 1.0])
def test_matrices_of_every_size_have_the_digits_of_float64(slow: float, dt: float) -> None:
    """W = P^T diag(rate) P, whose functions are known; PyTorch's matrix_exp alone loses five digits at some sizes."""
    rate, size = slow * torch.linspace(0.1, 1, 6, dtype=torch.float64), 6
    basis, _ = torch.linalg.qr(random(size, size))
    matrix, encoder = basis.T @ torch.diag(rate) @ basis, random(size, 2, seed=1)
    expected = basis.T @ torch.diag(effective_rate(rate, dt, "exact")) @ basis
    right = basis.T @ torch.diag(phi(dt * rate)) @ basis @ encoder
    atol = 64 * 2.0**-52 * max(1 / dt, slow)
    torch.testing.assert_close(effective_matrix(matrix, dt, "exact"), expected, rtol=0, atol=atol)
    ours, encoded = matrix_step(matrix, encoder, dt, "exact")
    torch.testing.assert_close(ours, expected, rtol=0, atol=atol)
    torch.testing.assert_close(encoded, right, rtol=0, atol=64 * 2.0**-52)
    (slope,) = torch.autograd.grad(effective_matrix(matrix.requires_grad_(), dt, "exact").sum(), matrix)
    # Quotients of differences (a_i - a_j) / (r_i - r_j) take the place of a slope between units i and j.
    quotients = torch.exp(-dt * rate) * phi(dt * (rate[:, None] - rate))
    turned = basis.T @ (quotients * (basis @ torch.ones_like(matrix) @ basis.T)) @ basis
    torch.testing.assert_close(slope, turned, rtol=0, atol=64 * 2.0**-52 * size / dt)
    # The definition has no difference: its error is relative to W.
    theirs = reference.effective_matrix(matrix, dt, "exact")
    torch.testing.assert_close(theirs, expected, rtol=0, atol=64 * 2.0**-52 * slow)


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1.0, 1e12])
def test_the_size_of_the_encoder_costs_no_digits(scale: float) -> None:
    matrix, encoder = turning(5), scale * random(5, 3)
    effective, encoded = matrix_step(matrix, encoder, 0.5, "exact")
    torch.testing.assert_close(effective, effective_matrix(matrix, 0.5, "exact"), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(encoded, driven(matrix, encoder, 0.5, "exact"), rtol=1e-12, atol=1e-14 * scale)


# --- errors, as the docstrings state them ---------------------------------------------------------


def derivatives(function: Any, x: Tensor, orders: int = 3) -> list[Tensor]:
    """A function that acts elementwise, and its first derivatives, in float64."""
    x = x.detach().requires_grad_()
    value, found = function(x), []
    for _ in range(orders):
        found.append(value.detach().double())
        (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    return found


@pytest.mark.parametrize("dt", DT)
@pytest.mark.parametrize(
    ("name", "roundings"), [("effective_rate", (2, 2, 2)), ("linear_decay", (2, 2, 2)), ("linear_gain", (2, 4, 16))]
)
def test_roundings_of_coefficients(name: str, roundings: tuple[int, ...], dt: float) -> None:
    """Of float32 against the definition in float64, at the same rates: the last derivative is the second."""
    rate = torch.logspace(-6, 1, 500)
    ours = derivatives(lambda r: globals()[name](r, dt, "exact"), rate)
    right = derivatives(lambda r: getattr(reference, name)(r, dt, "exact"), rate.double())
    unit = torch.finfo(torch.float32).eps * (1 + dt * rate.double())
    for value, expected, count in zip(ours, right, roundings, strict=True):
        assert ((value - expected).abs() <= count * unit * expected.abs()).all()


@pytest.mark.parametrize("dt", DT)
@pytest.mark.parametrize("slow", [1.0, 1e-4])
def test_matrices_are_rounded_once(dt: float, slow: float) -> None:
    """Of float32 against the definition in float64, gradients too; with slow = 1e-4 every unit is slow."""
    matrix, encoder, size = slow * turning(8, torch.float32), random(8, 3).float(), 8
    weights = random(size, size, seed=4).float(), random(size, 3, seed=5).float()
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = [matrix.to(dtype).requires_grad_(), encoder.to(dtype).requires_grad_()]
        if dtype == torch.float32:
            values = matrix_step(leaves[0], leaves[1], dt, "exact")
        else:
            effective = reference.effective_matrix(leaves[0], dt, "exact")
            values = effective, driven(leaves[0], leaves[1], dt, "exact")
        total = sum(((w.to(dtype) * v).sum() for w, v in zip(weights, values, strict=True)), torch.zeros(()))
        results.append([v.detach().double() for v in (*values, *torch.autograd.grad(total, leaves))])
    # Half an eps of each entry, and what cancels in float64: some roundings of 1 / dt, and of |U| and the weights.
    atols = (1 / dt, 1.0, 1.0, 1.0)
    for ours, right, atol in zip(*results, atols, strict=True):
        torch.testing.assert_close(ours, right, rtol=2.0**-24, atol=64 * 2.0**-52 * atol)
    alone = effective_matrix(matrix, dt, "exact").double()
    torch.testing.assert_close(alone, results[1][0], rtol=2.0**-24, atol=64 * 2.0**-52 / dt)

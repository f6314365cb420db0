"""Coefficients of pairs of units, as the definitions have them, accurate and with accurate gradients."""

import math

import pytest
import torch

from cofm_triton import reference
from cofm_triton.step.oscillation import bounded_angle, contracting_angle, effective_pair

RATES = [0.0, 1e-9, 1e-4, 0.1, 0.3, 0.35, 1.0, 5.0, 60.0]
ANGLES = [-3.0, -1e-8, 0.0, 1e-5, 0.5, math.pi / 2, 2.0]


@pytest.mark.parametrize("discretization", ["exact", "euler"])
@pytest.mark.parametrize("dt", [0.25, 1.0])
def test_pairs_are_those_of_the_definition(dt: float, discretization: str) -> None:
    grid = torch.cartesian_prod(torch.tensor(RATES), torch.tensor(ANGLES) / dt).T.contiguous()
    ours = effective_pair(*grid, dt, discretization)
    expected = reference.effective_pair(*grid.double(), dt, discretization)
    for actual, exact in zip(ours, expected, strict=True):
        # Relative but for the roundings of pi / 2 and of exponents.
        torch.testing.assert_close(actual.double(), exact, rtol=2e-6, atol=1e-7 / dt * torch.exp(-dt * grid[0]).max())


def test_small_rates_and_angles_keep_their_digits() -> None:
    rate, frequency = torch.tensor([1e-7, 0.0, 1e-7]), torch.tensor([0.0, 1e-4, 1e-4])
    alpha, _ = effective_pair(rate, frequency, 1.0, "exact")
    exact, _ = reference.effective_pair(rate.double(), frequency.double(), 1.0, "exact")
    torch.testing.assert_close(alpha.double(), exact, rtol=5e-7, atol=0)


def test_gradients() -> None:
    rate = torch.tensor(RATES, dtype=torch.float64).requires_grad_()
    frequency = torch.linspace(-3, 3, len(RATES), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda r, w: effective_pair(r, w, 0.5, "exact"), (rate, frequency))
    assert torch.autograd.gradgradcheck(lambda r, w: effective_pair(r, w, 0.5, "exact"), (rate, frequency))
    # exp(-dt r) cos(dt w) for a rate so large that expm1 has no digit of it left.
    fast = torch.tensor([40.0], requires_grad=True)
    (slope,) = torch.autograd.grad(effective_pair(fast, torch.zeros(1), 1.0, "exact")[0], fast)
    torch.testing.assert_close(slope, torch.tensor([math.exp(-40.0)]))


def test_contracting_angle_of_eulers_method() -> None:
    rate = torch.tensor([1e-3, 1.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    angle = contracting_angle(rate, 0.5, "euler")
    assert torch.equal(angle, reference.contracting_angle(rate, 0.5, "euler"))
    for r, a in zip(rate[:-1], angle, strict=False):
        assert reference.contracts(r, a / 0.5 * (1 - 1e-12), 0.5)
        assert not reference.contracts(r, a / 0.5 + 1e-6, 0.5)


def test_contracting_angle_is_that_of_the_definition_and_has_gradients() -> None:
    rate = torch.tensor(RATES[1:], dtype=torch.float64, requires_grad=True)
    angle = contracting_angle(rate, 1.0)
    assert torch.equal(angle.isinf(), reference.contracting_angle(rate, 1.0).isinf())
    finite = angle.isfinite()
    torch.testing.assert_close(angle[finite], reference.contracting_angle(rate, 1.0)[finite], rtol=1e-12, atol=0)
    (slope,) = torch.autograd.grad(angle[finite].sum(), rate)
    assert slope.isfinite().all()
    assert bool((slope[~finite.detach()] == 0).all())
    assert bool((slope[finite.detach()] > 0.9).all())


def test_bounded_angle_is_that_of_the_definition() -> None:
    raw = torch.linspace(-50, 50, 11)
    assert torch.equal(bounded_angle(raw, 1.5), reference.bounded_angle(raw, 1.5))


def test_unknown_discretization() -> None:
    with pytest.raises(ValueError, match="discretization must be one of"):
        effective_pair(torch.ones(1), torch.ones(1), 1.0, "zoh")

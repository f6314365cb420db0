"""Pairs of units that decay and turn: coefficients, and what of them is stable, over grids and long products."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from cofm_triton.reference import (
    bounded_angle,
    contracting_angle,
    contracts,
    effective_pair,
    pair_matrix,
    rnn_scan,
)

ROUNDING = 1e-14
ACTS = ("linear", "tanh", "hardtanh", "relu")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def grid() -> tuple[Tensor, Tensor]:
    """Rates, and angles of every quadrant and sign, quarter turns among them."""
    rates = torch.tensor([1e-6, 1e-3, 0.03, 0.2, 0.5, 1.0, 3.0], dtype=torch.float64)
    angles = torch.linspace(-math.pi, math.pi, 65, dtype=torch.float64)
    pairs = torch.cartesian_prod(rates, angles)
    return pairs[:, 0], pairs[:, 1]


def extremes(alpha: Tensor, omega: Tensor) -> Tensor:
    """The Jacobians I - S (I - M) of a step of length 1 for s in {0, 1}^2, (4, ..., 2, 2)."""
    turn = pair_matrix(alpha, omega)
    eye = torch.eye(2, dtype=alpha.dtype)
    return torch.stack([eye - torch.tensor(s, dtype=alpha.dtype)[:, None] * turn for s in product((0, 1), repeat=2)])


def radius(matrices: Tensor) -> Tensor:
    """The spectral radius of 2 x 2 matrices."""
    mean = (matrices[..., 0, 0] + matrices[..., 1, 1]) / 2
    root = torch.complex(mean.square() - torch.linalg.det(matrices), torch.zeros_like(mean)).sqrt()
    return torch.maximum((mean + root).abs(), (mean - root).abs())


@pytest.mark.parametrize("dt", [0.25, 1.0])
def test_exact_coefficients_are_those_of_the_matrix_exponential(dt: float) -> None:
    rate, angle = grid()
    ours = pair_matrix(*effective_pair(rate, angle / dt, dt, "exact"))
    flow = torch.matrix_exp(-dt * pair_matrix(rate, angle / dt))
    torch.testing.assert_close(dt * ours, torch.eye(2, dtype=torch.float64) - flow, rtol=0, atol=ROUNDING)


def test_exact_coefficients_of_slow_pairs_keep_their_digits() -> None:
    rate, frequency = torch.tensor([1e-9], dtype=torch.float64), torch.tensor([1e-8], dtype=torch.float64)
    alpha, omega = effective_pair(rate, frequency, 1.0, "exact")
    # 1 - e^{-r} cos(w) = r - r^2 / 2 + w^2 / 2, up to r w^2 / 2.
    torch.testing.assert_close(alpha, rate - rate**2 / 2 + frequency**2 / 2, rtol=1e-15, atol=0)
    torch.testing.assert_close(omega, frequency * torch.exp(-rate), rtol=1e-14, atol=0)


def test_a_pair_is_stable_in_the_linear_regime_at_every_angle() -> None:
    rate, angle = grid()
    alpha, omega = effective_pair(rate, angle, 1.0, "exact")
    torch.testing.assert_close(radius(extremes(alpha, omega)[3]), torch.exp(-rate), rtol=1e-9, atol=0)
    # Euler's steps are outside the unit circle as soon as r^2 + w^2 > 2 r.
    euler = radius(extremes(*effective_pair(rate, angle, 1.0, "euler"))[3])
    assert torch.equal(euler > 1 + ROUNDING, rate**2 + angle**2 > 2 * rate + 3 * ROUNDING)


@pytest.mark.parametrize("discretization", ["exact", "euler"])
def test_products_of_every_order_stay_bounded_where_pairs_contract(discretization: str) -> None:
    """All 4^k products of up to 6 steps over the grid: in the maximum norm none is above 1."""
    rate, angle = grid()
    alpha, omega = effective_pair(rate, angle, 1.0, discretization)
    steps = extremes(alpha, omega)[:, contracts(alpha, omega, 1.0)]
    assert 30 < steps.shape[1] < len(rate)
    products = torch.eye(2, dtype=torch.float64).expand(1, steps.shape[1], 2, 2)
    for _ in range(6):
        products = (steps[:, None] @ products[None]).flatten(0, 1)
        assert products.abs().sum(-1).max() <= 1 + ROUNDING
        assert radius(products).max() <= 1 + 1e-7  # of a defective matrix, the root of a rounding


@pytest.mark.parametrize("discretization", ["exact", "euler"])
def test_some_product_grows_where_pairs_do_not_contract(discretization: str) -> None:
    """One unit at a time until it rests, or both by turns: beyond the bound, however little, there is growth."""
    rate, angle = grid()
    alpha, omega = effective_pair(rate, angle, 1.0, discretization)
    steps = extremes(alpha, omega)[:, ~contracts(alpha * (1 - 1e-6), omega * (1 - 1e-6), 1.0)]
    assert steps.shape[1] > 50
    # 2^40 steps of a slow unit, to the digit: powers by squaring.
    powers = [torch.linalg.matrix_power(steps[k], 2**40) for k in (1, 2)]
    by_turns, slowly = radius(steps[1] @ steps[2]), radius(powers[0] @ powers[1])
    largest = torch.stack((by_turns, slowly, radius(steps[3]), *map(radius, powers))).amax(0)
    assert bool(((largest > 1) | largest.isnan()).all())


def test_random_slopes_are_no_worse_than_extreme_ones() -> None:
    rate = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    angle = contracting_angle(rate, 1.0).clamp(max=math.pi / 2)
    turn = pair_matrix(*effective_pair(rate, angle, 1.0, "exact"))
    state = random(200, 2, 1).sign()
    for k in range(300):
        slopes = torch.rand(200, 2, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(k))
        state = state - slopes * (turn @ state)
        assert state.abs().max() <= 1 + ROUNDING


@pytest.mark.parametrize("dt", [0.5, 1.0])
def test_contracting_angle_is_the_bound(dt: float) -> None:
    rate = torch.tensor([1e-8, 1e-4, 0.01, 0.1, 0.3, 0.34], dtype=torch.float64) / dt
    angle = contracting_angle(rate, dt)
    assert torch.allclose(angle[:2], dt * rate[:2], rtol=1e-3, atol=0) and bool((angle < math.pi / 4).all())
    for factor, expected in ((1 - 1e-6, True), (1 + 1e-6, False)):
        assert bool((contracts(*effective_pair(rate, factor * angle / dt, dt, "exact"), dt) == expected).all())
    assert contracting_angle(torch.tensor([0.35 / dt]), dt).isinf().all()


@pytest.mark.parametrize("name", ACTS[1:])
def test_constant_inputs_lead_to_rest_at_every_angle(name: str) -> None:
    """V = Phi(z[0]) + Phi(z[1]) falls by (1 - rho^2) |act(z)|^2 / 2 a step or more, from anywhere."""
    rate, angle = grid()
    alpha, omega = effective_pair(rate, angle, 1.0, "exact")
    potential = {
        "tanh": lambda z: z.abs() + torch.log1p(torch.exp(-2 * z.abs())) - math.log(2),
        "hardtanh": lambda z: torch.where(z.abs() < 1, z.square() / 2, z.abs() - 0.5),
        "relu": lambda z: z.clamp(min=0).square() / 2,
    }[name]
    act = {"tanh": torch.tanh, "hardtanh": lambda z: z.clamp(-1, 1), "relu": torch.relu}[name]
    state, x, turn = 20 * random(len(rate), 2), 3 * random(len(rate), 2, seed=1), pair_matrix(alpha, omega)
    for _ in range(300):
        z = x - (turn @ state.unsqueeze(-1)).squeeze(-1)
        state = state + act(z)
        after = x - (turn @ state.unsqueeze(-1)).squeeze(-1)
        before, now = potential(z).sum(-1), potential(after).sum(-1)
        fall = -torch.expm1(-2 * rate) * act(z).square().sum(-1) / 2
        assert bool((now <= before - fall + ROUNDING * (1 + before)).all())


@pytest.mark.parametrize("name", ["tanh", "hardtanh", "relu"])
def test_bounded_inputs_lead_to_bounded_states(name: str) -> None:
    """Inputs that push a pair along its own way round, which is what moves it furthest."""
    steps = torch.arange(3000, dtype=torch.float64)
    rate, angle = torch.full((8,), 0.1, dtype=torch.float64), torch.linspace(0.05, 3.1, 8, dtype=torch.float64)
    x = torch.stack((torch.cos(steps[:, None] * angle), -torch.sin(steps[:, None] * angle)), -1).flatten(1)[None]
    alpha, omega = effective_pair(rate, angle, 1.0, "exact")
    h, _ = rnn_scan(x, alpha, nonlinearity=name, frequency=omega)
    # A unit on its own would come to rest at (1 + |x|) / alpha; a pair's turn adds at most as much again, over omega.
    assert h.abs().max() < 2 * 2 / alpha.min()
    assert h[:, 1500:].abs().max() < 1.01 * h[:, :1500].abs().max()


def test_bounded_angle_is_odd_and_within_its_bound() -> None:
    raw = torch.tensor([-1e6, -1.0, 0.0, 1e-9, 1.0, 1e6], dtype=torch.float64)
    angle = bounded_angle(raw, 1.5)
    torch.testing.assert_close(angle, -bounded_angle(-raw, 1.5))
    assert bool((angle.abs() < 1.5).all()) and angle[2] == 0
    assert angle[4] == 0.75


def test_unknown_discretization() -> None:
    with pytest.raises(ValueError, match=r"discretization must be one of .* got 'zoh'"):
        effective_pair(torch.ones(1), torch.ones(1), 1.0, "zoh")

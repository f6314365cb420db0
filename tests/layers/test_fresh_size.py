"""How large rows of a fresh U are: factors against sums over impulse responses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from cofm_triton.layers.fresh_size import balanced, handed_on, layer_factor, unit_factors
from cofm_triton.layers.stable_rnn import StableRNN
from cofm_triton.step.coefficients import Modes
from cofm_triton.step.oscillation import contracting_angle

# The integral over 512 angles, by trapezoids.
QUADRATURE = 2e-3
# The edge of a band lies anywhere between two of them, whose logarithms differ by 0.038; c is a root.
EDGE = 0.038 / 2
# 1 - l of the slowest unit here, where it is formed plainly.
CANCELLED = 4 * 2.0**-53 / 0.001
LINEAR = StableRNN(1, 1, nonlinearity="linear")


def fading(*rates: float) -> Modes:
    return Modes(torch.tensor(rates, dtype=torch.float64), None, 1.0, "exact")


def test_no_unit_answers_a_constant_with_more() -> None:
    rate, angle = torch.tensor([0.001, 0.001, 0.5], dtype=torch.float64), torch.tensor([0.0, 1.0, 3.0]).double()
    decay = torch.polar((-rate).exp(), -angle)
    gain = (1 - decay.abs().square()).sqrt()
    factors = unit_factors(LINEAR, Modes(rate, angle, 1.0, "exact"), 0)
    expected = torch.stack([((1 - decay).abs() / gain)[0], torch.ones(()).double(), torch.ones(()).double()])
    torch.testing.assert_close(factors, expected, rtol=CANCELLED, atol=0)
    assert (factors * gain / (1 - decay).abs() <= 1 + CANCELLED).all()


@pytest.mark.parametrize("nonlinearity", ["tanh", "hardtanh"])
def test_where_units_saturate_no_rhythm_is_answered_with_more(nonlinearity: str) -> None:
    rate, angle = torch.tensor([0.001, 0.02, 0.5], dtype=torch.float64), torch.tensor([1.0, 1.5, 0.3]).double()
    layer = StableRNN(1, 6, nonlinearity=nonlinearity, recurrence="diagonal")
    factors = unit_factors(layer, Modes(rate, angle, 1.0, "exact"), 3)
    decay = (-rate).exp()
    torch.testing.assert_close(factors, (1 - decay) / (1 - decay.square()).sqrt(), rtol=CANCELLED, atol=0)


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_a_layer_restores_the_variance_of_noise(depth: int) -> None:
    """Of units of one rate, whose layers answer an impulse with (1 - l) l^k, one after the other."""
    decay = math.exp(-0.1)
    once = (1 - decay) * decay ** torch.arange(2000.0, dtype=torch.float64)
    answers = [torch.eye(1, 2000, dtype=torch.float64)[0]]
    for _ in range(depth + 1):
        answers.append(
            torch.nn.functional.conv1d(answers[-1][None, None], once.flip(0)[None, None], padding=1999)[0, 0, :2000]
        )
    below, behind = (answers[n].square().sum() for n in (depth, depth + 1))
    expected = (below / behind).sqrt() * (1.05 if depth else 1)
    torch.testing.assert_close(layer_factor(LINEAR, fading(0.1, 0.1), depth), expected, rtol=QUADRATURE, atol=0)


@pytest.mark.parametrize(("widest", "expected"), [(math.pi, 1), (math.pi / 4, 0.5)])
def test_pairs_that_turn_pass_on_noise_below_their_largest_angle(widest: float, expected: float) -> None:
    """All power of white noise is in that band behind the first layer, so that the next is to pass on the less."""
    turning = Modes(torch.tensor([0.01, 0.1]).double(), torch.tensor([widest / 2, widest]).double(), 1.0, "exact")
    passed = float(unit_factors(LINEAR, turning, 1).square().mean())
    assert float(layer_factor(LINEAR, turning, 0)) == pytest.approx(passed**-0.5, rel=EDGE)
    assert float(layer_factor(LINEAR, turning, 1)) == pytest.approx(1.05 * expected * passed**-0.5, rel=EDGE)


def test_states_that_rise_keep_the_mean_square_of_constants() -> None:
    layer = StableRNN(1, 3, recurrence="diagonal", oscillating=False)
    assert float(unit_factors(layer, fading(0.001, 0.1, 3.0), 2).square().mean()) == pytest.approx(1, rel=1e-12)


def test_pairs_that_rise_end_at_their_input() -> None:
    """In the first layer, where one unit of each pair is driven and its partner stays at 0."""
    options: dict[str, Any] = dict(recurrence="diagonal", max_time_scale=10, dtype=torch.float64, batch_first=True)
    layer = StableRNN(1, 8, bias=False, **options)
    with torch.no_grad():
        factors = unit_factors(layer, layer._cell.modes(layer, "_l0"), 0)
        layer.weight_ih_l0.zero_()[::2, 0] = factors  # the partner is driven below 0 while the unit rises
        end = layer(torch.ones(1, 300, 1, dtype=torch.float64))[0][0, -1]
    assert (end[::2] - 1).abs().max() < 1e-6


@pytest.mark.parametrize("size", [(5, 4), (4, 1)])
def test_rows_above_relu(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    rows = balanced(torch.randn(size, dtype=torch.float64))
    assert rows.sum(1).abs().max() < 1e-14
    assert torch.equal(rows[1], -rows[0]) and torch.equal(rows[3], -rows[2])


def test_what_relu_hands_on_without_the_mean_that_all_units_share() -> None:
    """Of normal states with standard deviations f, through rows of U without mean."""
    torch.manual_seed(0)
    layer, f = StableRNN(1, 64, oscillating=False), torch.logspace(-1, 0, 64, dtype=torch.float64)
    outputs = (f * torch.randn(10_000, 64, dtype=torch.float64)).relu()
    rows = balanced(torch.randn(2000, 64, dtype=torch.float64)) / 8
    size = (outputs @ rows.T).square().mean().sqrt() / f.square().mean().sqrt()
    assert float(handed_on(layer, f)) == pytest.approx(float(size), rel=0.05)


@pytest.mark.parametrize("recurrence", ["ssm", "dense"])
def test_one_pair_in_four_starts_without_a_turn(recurrence: str) -> None:
    layer = StableRNN(2, 32, recurrence=recurrence)
    name = "frequency_l0" if recurrence == "ssm" else "weight_hh_l0"
    free = layer.get_parameter(name).detach()
    turns = free if recurrence == "ssm" else torch.diagonal(free, -1)[::2]
    assert (turns == 0).tolist() == [k % 4 == 0 for k in range(16)]


def test_fresh_dense_relu_pairs_turn_as_elementwise_ones() -> None:
    """Uniformly up to the angle at which gradients begin to grow, not at it."""
    torch.manual_seed(0)
    layer = StableRNN(2, 256, recurrence="dense")
    modes = layer._cell.modes(layer, "_l0")
    assert modes.frequency is not None
    share = modes.frequency / contracting_angle(modes.rate, 1.0)
    slow = share[(share > 0) & (modes.rate < 0.3)]
    assert float(slow.max()) < 1 and 0.4 < float(slow.mean()) < 0.6


@pytest.mark.parametrize("recurrence", ["dense", "orthogonal"])
def test_inputs_as_they_are_start_as_in_the_paper(recurrence: str) -> None:
    """No turns, and rows of U within 1 / sqrt(D)."""
    layer = StableRNN(2, 32, recurrence=recurrence, normalize_input=False)
    assert float(layer.weight_ih_l0.detach().abs().max()) <= 32**-0.5
    assert recurrence != "dense" or not layer.weight_hh_l0.any()

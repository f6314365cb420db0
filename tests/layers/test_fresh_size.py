"""How large rows of a fresh U are: factors against sums over impulse responses."""

from __future__ import annotations

import math

import pytest
import torch

from cofm_triton.layers.fresh_size import layer_factor, rising_factors, unit_factors
from cofm_triton.layers.stable_rnn import StableRNN
from cofm_triton.step.coefficients import Modes

# The integral over 512 angles, by trapezoids.
QUADRATURE = 2e-3
# 1 - l of the slowest unit here, where it is formed plainly.
CANCELLED = 4 * 2.0**-53 / 0.001


def fading(*rates: float) -> Modes:
    return Modes(torch.tensor(rates, dtype=torch.float64), None, 1.0, "exact")


def test_no_unit_answers_a_constant_with_more() -> None:
    rate, angle = torch.tensor([0.001, 0.001, 0.5], dtype=torch.float64), torch.tensor([0.0, 1.0, 3.0]).double()
    decay = torch.polar((-rate).exp(), -angle)
    gain = (1 - decay.abs().square()).sqrt()
    factors = unit_factors(Modes(rate, angle, 1.0, "exact"))
    expected = torch.stack([((1 - decay).abs() / gain)[0], torch.ones(()).double(), torch.ones(()).double()])
    torch.testing.assert_close(factors, expected, rtol=CANCELLED, atol=0)
    assert (factors * gain / (1 - decay).abs() <= 1 + CANCELLED).all()


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
    torch.testing.assert_close(layer_factor(fading(0.1, 0.1), depth), expected, rtol=QUADRATURE, atol=0)


def test_pairs_that_turn_pass_on_white_noise() -> None:
    turning = Modes(torch.tensor([0.01, 0.1]).double(), torch.tensor([1.0, 2.0]).double(), 1.0, "exact")
    assert float(layer_factor(turning, 0)) == pytest.approx(1, rel=QUADRATURE)


def test_states_that_rise_keep_the_mean_square_of_constants() -> None:
    assert float(rising_factors(fading(0.001, 0.1, 3.0), 2).square().mean()) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("recurrence", ["ssm", "dense"])
def test_one_pair_in_four_starts_without_a_turn(recurrence: str) -> None:
    layer = StableRNN(2, 32, recurrence=recurrence)
    name = "frequency_l0" if recurrence == "ssm" else "weight_hh_l0"
    free = layer.get_parameter(name).detach()
    turns = free if recurrence == "ssm" else torch.diagonal(free, -1)[::2]
    assert (turns == 0).tolist() == [k % 4 == 0 for k in range(16)]


@pytest.mark.parametrize("recurrence", ["dense", "orthogonal"])
def test_inputs_as_they_are_start_as_in_the_paper(recurrence: str) -> None:
    """No turns, and rows of U within 1 / sqrt(D)."""
    layer = StableRNN(2, 32, recurrence=recurrence, normalize_input=False)
    assert float(layer.weight_ih_l0.detach().abs().max()) <= 32**-0.5
    assert recurrence != "dense" or not layer.weight_hh_l0.any()

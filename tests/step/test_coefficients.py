"""What a step is made of: iterated, it is the definition; K copies have it as each of them alone."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from cofm_triton.layers.stable_rnn import StableRNN
from cofm_triton.reference import Dynamics, frequency_unit, hidden
from cofm_triton.step.activation import activation
from cofm_triton.step.activations import NONLINEARITIES
from cofm_triton.step.coefficients import Step, free_frequency, in_modes, modes_of, step_coefficients, unit_span
from cofm_triton.step.pairs import as_complex, as_reals

OPTIONS = list(product(["diagonal", "ssm"], NONLINEARITIES, ["euler", "exact"]))
STEPS, UNITS = 15, 5


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(**options: Any) -> tuple[StableRNN, dict[str, Tensor]]:
    model = StableRNN(2, UNITS, dt=0.5, dtype=torch.float64, **options)
    return model, {name: 0.7 * randn(*value.shape, seed=len(name)) for name, value in model.named_parameters()}


def step_of(rnn: StableRNN, weights: dict[str, Tensor]) -> Step:
    names = ("rate_l0", "frequency_l0", "weight_ih_l0", "bias_l0")
    raw, free, encoder, bias = (weights.get(name) for name in names)
    assert raw is not None and encoder is not None and bias is not None
    return step_coefficients(rnn, raw, free, encoder, bias)


def iterated(step: Step, x: Tensor) -> Tensor:
    """act_out of every state, (T, m), after inputs (T, d): act takes the two numbers of a pair one by one."""
    act_in, act_out = activation(step.act_in), activation(step.act_out)
    h, rows = torch.zeros_like(step.bias), []
    for now in x:
        z = step.encoder @ now.to(step.encoder) + step.bias - step.rate * h
        h = h + step.dt * (as_complex(act_in(as_reals(z))) if z.is_complex() else act_in(z))
        rows.append(act_out(as_reals(h) if h.is_complex() else h))
    return torch.stack(rows)


@pytest.mark.parametrize("normalize_input", [False, True])
@pytest.mark.parametrize("oscillating", [False, True])
@pytest.mark.parametrize(("recurrence", "name", "discretization"), OPTIONS)
def test_iterated_they_are_the_definition(
    recurrence: str, name: str, discretization: str, oscillating: bool, normalize_input: bool
) -> None:
    kinds: dict[str, Any] = dict(recurrence=recurrence, nonlinearity=name, discretization=discretization)
    switches: dict[str, Any] = dict(oscillating=oscillating, normalize_input=normalize_input)
    rnn, weights = layer(**kinds, **switches)
    x = randn(STEPS, 2)
    h, _ = hidden(
        {f"rnn.{key}": value for key, value in weights.items()}, x[None], Dynamics(dt=0.5, **kinds, **switches)
    )
    wanted = activation(name)(h[0]) if recurrence == "ssm" else h[0]
    actual = iterated(step_of(rnn, weights), x)
    # States of size 1 to 10: T steps, each of which rounds a handful of numbers of that size.
    atol = 8 * STEPS * torch.finfo(torch.float64).eps * max(1.0, wanted.abs().max().item())
    torch.testing.assert_close(actual[:, :UNITS], wanted, rtol=0, atol=atol)
    assert actual.shape[1] == (UNITS + 1 if oscillating else UNITS) and not actual[:, UNITS:].any()


def test_the_gain_of_the_paper() -> None:
    options: dict[str, Any] = dict(parameterization="lru", recurrence="diagonal", normalize_input="paper")
    for name in ("linear", "tanh"):
        rnn, weights = layer(nonlinearity=name, oscillating=False, **options)
        plain, _ = layer(nonlinearity=name, oscillating=False, **options | {"normalize_input": False})
        rate = -torch.expm1(-torch.exp(weights["rate_l0"]))  # 1 - exp(-exp(w))
        ours, without = step_of(rnn, weights), step_of(plain, weights)
        # 1 - rate^2 rounds at the size of 1, and may be 0.1 here.
        scale = (1 - rate.square()).sqrt()
        torch.testing.assert_close(ours.encoder, scale[:, None] * without.encoder, rtol=1e-13, atol=0)
        torch.testing.assert_close(ours.bias, scale * without.bias, rtol=1e-13, atol=0)


@pytest.mark.parametrize(("recurrence", "name"), [("ssm", "linear"), ("diagonal", "relu"), ("diagonal", "tanh")])
@pytest.mark.parametrize("oscillating", [False, True])
def test_copies_have_them_as_each_alone(recurrence: str, name: str, oscillating: bool) -> None:
    rnn, weights = layer(recurrence=recurrence, nonlinearity=name, oscillating=oscillating)
    copies = {key: value + 0.1 * randn(3, *value.shape, seed=9) for key, value in weights.items()}
    together = step_of(rnn, copies)
    for k in range(3):
        alone = step_of(rnn, {key: value[k] for key, value in copies.items()})
        for field in ("rate", "encoder", "bias"):
            # The machine's vector functions may round the last lanes of a row another way.
            torch.testing.assert_close(getattr(together, field)[k], getattr(alone, field), rtol=4e-15, atol=1e-15)


def test_a_single_unit_gets_a_partner_at_zero() -> None:
    assert in_modes(torch.tensor([1.0, 2.0, 3.0])).tolist() == [1 + 2j, 3 + 0j]
    assert in_modes(torch.tensor([1.0, 2.0])).tolist() == [1 + 2j]


@pytest.mark.parametrize("width", [1, 2, 3, 9])
@pytest.mark.parametrize("scale", [1.5, 50.0, 1e4])
def test_frequencies_of_linear_states_have_units(width: int, scale: float) -> None:
    """Those of the definition, the slowest pair first, in copies of a layer too."""
    rnn = StableRNN(1, width, max_time_scale=scale, dtype=torch.float64)
    pairs, modes = width // 2, -(-width // 2)
    raw, free = randn(3, modes), randn(3, pairs, seed=1)
    found = modes_of(rnn, raw, free).frequency
    assert found is not None and found.shape == raw.shape and not found[:, pairs:].any()
    torch.testing.assert_close(found[:, :pairs], frequency_unit(pairs, scale) * free, rtol=1e-14, atol=0)
    torch.testing.assert_close(free_frequency(rnn, raw, found[:, :pairs]), free, rtol=1e-14, atol=0)


@pytest.mark.parametrize("options", [dict(learnable_dt=True), dict(recurrence="diagonal"), dict(oscillating=False)])
def test_other_frequencies_have_none(options: dict[str, Any]) -> None:
    assert unit_span(StableRNN(1, 4, **options)) == 1


@pytest.mark.parametrize("gated", [False, True])
def test_fresh_pairs_turn_alike_whatever_their_units(gated: bool) -> None:
    angles = []
    for scale in (20.0, 1e4):
        torch.manual_seed(0)
        rnn = StableRNN(2, 17, max_time_scale=scale, gated=gated, dtype=torch.float64)
        found = modes_of(rnn, rnn.rate_l0, rnn.get_parameter("frequency_l0")).frequency
        assert found is not None
        angles.append(found)
    torch.testing.assert_close(*angles, rtol=1e-14, atol=0)
    assert 2 < float(angles[0].max()) < math.pi and float(angles[0].min()) == 0

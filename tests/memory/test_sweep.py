"""memory_sweep: every perturbed copy is the copy's own memory function; envelopes, files, bad arguments."""

import copy
import csv
import math
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cofm_triton.layers.stable_rnn import RNNFunctional
from cofm_triton.memory.decay_fit import fit_decay
from cofm_triton.memory.function import memory_function
from cofm_triton.memory.sweep import memory_sweep
from cofm_triton.perturbation.directions import parameter_shapes, random_direction, slow_direction

RADII = [0.0, 0.05, 0.3]


def functional(**options: Any) -> RNNFunctional:
    torch.manual_seed(1)
    return RNNFunctional(2, 5, 2, dtype=torch.float64, **options)


def moved(model: nn.Module, direction: Mapping[str, Tensor], radius: float) -> nn.Module:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, value in other.named_parameters():
            value += radius * direction.get(name, torch.zeros(())).to(value)
    return other


@pytest.mark.parametrize("ball", ["inf", "l2"])
@pytest.mark.parametrize(
    ("recurrence", "name"),
    [("diagonal", "linear"), ("diagonal", "hardtanh"), ("diagonal", "tanh"), ("ssm", "tanh"), ("ssm", "relu")],
)
def test_each_copy_alone(recurrence: str, name: str, ball: str) -> None:
    model = functional(recurrence=recurrence, nonlinearity=name)
    sweep = memory_sweep(model, 25, radii=RADII, directions=3, seed=4, ball=ball, min_radius=0.1)
    assert sweep.values.shape == (3, 3, 25) and sweep.beta0.shape == (3, 3)
    for r, radius in enumerate(RADII):
        for j in range(3):
            direction = random_direction(parameter_shapes(model), j, seed=4, ball=ball)
            alone = memory_function(moved(model, direction, radius), 25, min_radius=0.1)
            torch.testing.assert_close(sweep.values[r, j], alone.values, rtol=1e-10, atol=1e-15)
            assert sweep.beta0[r, j].item() == pytest.approx(alone.beta0, rel=1e-12)
    assert torch.equal(sweep.upper, sweep.values.amax(1)) and torch.equal(sweep.lower, sweep.values.amin(1))
    assert not sweep.diverged.any()


@pytest.mark.parametrize(("recurrence", "name"), [("ssm", "linear"), ("diagonal", "tanh"), ("ssm", "tanh")])
def test_each_copy_of_pairs_alone(recurrence: str, name: str) -> None:
    """Closed forms, a matrix of blocks, and calls of the layer."""
    model = functional(recurrence=recurrence, nonlinearity=name, oscillating=True, normalize_input=True)
    inputs = torch.tensor([[0.5, -1.0], [2.0, 0.3]], dtype=torch.float64)
    sweep = memory_sweep(model, 12, radii=RADII, directions=2, seed=4, inputs=inputs)
    for r, radius in enumerate(RADII):
        for j in range(2):
            other = moved(model, random_direction(parameter_shapes(model), j, seed=4), radius)
            alone = memory_function(other, 12, inputs=inputs)
            torch.testing.assert_close(sweep.values[r, j], alone.values, rtol=1e-10, atol=1e-13)
            assert sweep.beta0[r, j].item() == pytest.approx(alone.beta0, rel=1e-12)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_any_module(kind: type[nn.Module]) -> None:
    torch.manual_seed(2)
    model = kind(2, 3, batch_first=True)
    sweep = memory_sweep(model, 12, radii=RADII, directions=2, inputs=torch.eye(2), dt=0.5)
    for r, radius in enumerate(RADII):
        for j in range(2):
            wide = copy.deepcopy(model).double()
            direction = random_direction(parameter_shapes(model), j)
            alone = memory_function(moved(wide, direction, radius), 12, inputs=torch.eye(2), dt=0.5)
            torch.testing.assert_close(sweep.values[r, j], alone.values, rtol=1e-9, atol=1e-14)
    assert bool(sweep.beta0.isnan().all()) and sweep.floor > 0


def test_one_domain_for_all_copies() -> None:
    """Directions move the bias: copies have one although the model has none."""
    model = functional(nonlinearity="hardtanh")
    assert memory_function(model, 5).settings.min_radius == 2.0**-20
    assert memory_sweep(model, 5, radii=RADII, directions=2).settings.min_radius == 1.0
    still = [{"rnn.rate_l0": torch.ones(5)}]
    assert memory_sweep(model, 5, radii=RADII, directions=still).settings.min_radius == 2.0**-20
    assert memory_sweep(model, 5, radii=RADII, directions=2, norm="inf+1").settings.min_radius == 2.0**-20


def test_given_directions_and_growth() -> None:
    """Along the slow direction a direct model of rate 0.1 loses its memory's decay at radius 0.1."""
    model = functional(nonlinearity="linear", parameterization="direct", discretization="euler")
    with torch.no_grad():
        model.rnn.rate_l0.fill_(0.1)
    sweep = memory_sweep(model, 400, radii=[0.0, 0.05, 0.1, 3.0], directions=[slow_direction(model)])
    rates = [-math.log(0.9), -math.log(0.95), 0.0, -math.log(3.9)]
    assert sweep.beta0[:, 0].tolist() == pytest.approx(rates, abs=1e-12)
    fits = sweep.fit()
    assert [fit.decay for fit in fits] == ["exponential", "exponential", "none", "none"]
    assert [fit.rate for fit in fits[:2]] == pytest.approx(rates[:2], rel=1e-6)
    assert fits[0].within_bound and not sweep.diverged.any()
    wild = memory_sweep(model, 400, radii=[0.0, 900.0], directions=[slow_direction(model)])
    assert wild.diverged.tolist() == [[False], [True]] and wild.upper[1, -1] == math.inf


def test_radius_zero_is_the_model() -> None:
    model = functional(bias=False)
    sweep = memory_sweep(model, 30, radii=[0.0], directions=4)
    torch.testing.assert_close(sweep.values[0], memory_function(model, 30).values.expand(4, -1))


def test_many_copies_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model = functional(nonlinearity="hardtanh")
    arguments: dict[str, Any] = dict(radii=[0.1, 0.2], directions=5, samples=10)
    whole = memory_sweep(model, 60, **arguments)
    # By its name in the table of modules: as an attribute of the package it is the function.
    monkeypatch.setattr(import_module("cofm_triton.memory.sweep"), "_HELD_NUMBERS", 100)
    monkeypatch.setattr("cofm_triton.memory.evaluator._NUMBERS", 500)
    pieces = memory_sweep(model, 60, **arguments)
    torch.testing.assert_close(pieces.values, whole.values, rtol=1e-12, atol=0)


def test_csv(tmp_path: Path) -> None:
    sweep = memory_sweep(functional(dt=0.5), 4, radii=RADII, directions=2)
    sweep.to_csv(tmp_path / "sweep.csv")
    rows = list(csv.DictReader((tmp_path / "sweep.csv").open()))
    assert list(rows[0]) == ["radius", "direction", "step", "time", "memory"]
    assert [float(row["memory"]) for row in rows] == sweep.values.flatten().tolist()
    assert {float(row["radius"]) for row in rows} == set(RADII)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(radii=None), TypeError, "radii"),
        (dict(radii=[]), ValueError, "radii"),
        (dict(radii=[-1.0]), ValueError, "radii"),
        (dict(directions=0), ValueError, "directions"),
        (dict(directions="3"), TypeError, "directions"),
        (dict(directions=[{"nothing": torch.ones(1)}]), ValueError, "directions"),
        (dict(ball="l1"), ValueError, "ball"),
        (dict(seed=-1), ValueError, "seed"),
        (dict(radius=-1.0), ValueError, "radius"),
        (dict(norm="l1"), ValueError, "norm"),
        (dict(model="model"), TypeError, "model"),
        (dict(length=0), ValueError, "length"),
    ],
)
def test_errors(options: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"model": functional(), "length": 5, "radii": RADII, "directions": 2} | options
    with pytest.raises(error, match=message):
        memory_sweep(arguments.pop("model"), arguments.pop("length"), **arguments)


def test_the_fit_is_of_the_upper_envelope_and_the_slowest_copy() -> None:
    model = RNNFunctional(2, 5, 2, nonlinearity="linear", dtype=torch.float64)
    sweep = memory_sweep(model, 60, radii=[0.3], directions=4)
    (fit,) = sweep.fit()
    assert fit is not None
    assert fit.beta0 == sweep.beta0[0].min() and fit.beta0 < sweep.beta0[0].max()
    assert fit == fit_decay(sweep.times, sweep.values[0].amax(0), beta0=fit.beta0)

"""Scripts that train: every row can be made, settings are chosen as promised, the table says what was run."""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from bench import adding, digits, learning, series

SCRIPTS = {"adding": adding, "digits": digits, "series": series}
ROWS = [(script, name) for script, module in SCRIPTS.items() for name in module.ROWS]
SIZES = learning.Sizes(3, 6, None)


@pytest.mark.parametrize(("script", "name"), ROWS)
def test_a_row(script: str, name: str) -> None:
    """Gives batch-first outputs of its width for all of its settings; the chosen ones are of its grid."""
    row = SCRIPTS[script].ROWS[name]
    assert row.chosen in row.grid
    for nonlinearity in {settings.nonlinearity for settings in row.grid}:
        assert learning.Model(row.make(SIZES, nonlinearity), 6, 2)(torch.randn(2, 5, 3), 1).shape == (2, 4, 2)


@pytest.mark.parametrize("make", [learning.stable(2), learning.residual()])
def test_the_time_scale_reaches_our_layers(make: learning.Make) -> None:
    scales = [
        {part.max_time_scale for part in make(sizes, "relu").modules() if hasattr(part, "max_time_scale")}
        for sizes in (SIZES, SIZES._replace(max_time_scale=7.0))
    ]
    assert scales == [{1000.0}, {7.0}]


def test_training_takes_as_many_batches_as_steps() -> None:
    taken: list[int] = []

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for count in itertools.count():
            taken.append(count)
            yield torch.ones(2, 3, 1), torch.ones(2)

    def loss(model: learning.Model, x: Tensor, y: Tensor) -> Tensor:
        return (model(x)[:, 0, 0] - y).square().mean()

    model = learning.Model(nn.RNN(1, 4, batch_first=True), 4, 1)
    before = loss(model, *next(batches()))
    assert learning.fit(model, batches(), loss, steps=20, settings=learning.Settings(0.01, "tanh")) > 0
    assert len(taken) == 21
    assert loss(model, *next(batches())) < before


def test_settings_are_chosen_on_the_validation_set(capsys: pytest.CaptureFixture[str]) -> None:
    """The grid with the first seed, then every seed with what was best; a run that diverged never is."""
    grid = learning.grid((0.4, 0.1, 0.2, 0.3), "tanh")
    row = learning.Row(learning.rnn, grid, grid[0])
    calls = []

    def train(model: learning.Model, settings: learning.Settings, seed: int, selecting: bool) -> tuple[float, float]:
        rate = settings.rate
        calls.append((rate, seed, selecting))
        diverged = math.nan if rate == 0.4 else abs(rate - 0.2)
        return 0.001 * seed, diverged if selecting else float(seed)

    experiment = learning.Experiment({"row": row}, learning.Score("error", ".2f", min), 3, 2, train)
    options = argparse.Namespace(models=["row"], select=True, seeds=[5, 1, 3], width=4, max_time_scale=None)
    [runs] = experiment.table(options)
    assert calls == [(settings.rate, 5, True) for settings in grid] + [(0.2, seed, False) for seed in (5, 1, 3)]
    assert capsys.readouterr().out.splitlines()[-1] == "| row | tanh | 0.2 | 46 | 3.00 | 1.00 to 5.00 | 3.0 |"
    assert [run.score for run in runs] == [5.0, 1.0, 3.0]


def test_a_seed_fixes_the_weights() -> None:
    weights: list[Tensor] = []

    def train(model: learning.Model, settings: learning.Settings, seed: int, selecting: bool) -> tuple[float, float]:
        weights.append(model.head.weight.detach().clone())
        return 0.0, 0.0

    row = learning.Row(learning.gru, learning.grid((0.1,), "tanh"), learning.Settings(0.1, "tanh"))
    experiment = learning.Experiment({"row": row}, learning.Score("error", ".2f", min), 3, 2, train)
    experiment.table(argparse.Namespace(models=["row"], select=False, seeds=[0, 0, 1], width=4, max_time_scale=None))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])

"""The adding problem is the one of the literature, and a layer learns a short one."""

from __future__ import annotations

import pytest
import torch

from bench import adding


@pytest.mark.parametrize("length", [2, 7, 100])
def test_the_problem(length: int) -> None:
    """One marker in each half; the target is the sum of the numbers beside them."""
    x, sums = adding.draw(50, length, torch.Generator().manual_seed(0))
    numbers, markers = x.unbind(2)
    half = length // 2
    assert torch.equal(markers[:, :half].sum(1), torch.ones(50))
    assert torch.equal(markers[:, half:].sum(1), torch.ones(50))
    assert set(markers.flatten().tolist()) <= {0.0, 1.0}
    assert numbers.min() >= 0 and numbers.max() < 1
    torch.testing.assert_close((numbers * markers).sum(1), sums)


def test_who_always_answers_one() -> None:
    """Has the error 1/6, but for the spread of 20,000 squares: their standard deviation is sqrt(7 / 180)."""
    _, sums = adding.draw(20_000, 2, torch.Generator().manual_seed(0))
    assert float((sums - 1).square().mean()) == pytest.approx(1 / 6, abs=4 * (7 / 180 / 20_000) ** 0.5)


def test_training_validation_and_test_differ() -> None:
    """Whatever the seed."""
    seeds = [adding.VALIDATION_SEED, adding.TEST_SEED, *(adding.TRAINING_SEED + seed for seed in range(3))]
    first = {float(adding.draw(1, 4, torch.Generator().manual_seed(seed))[1]) for seed in seeds}
    assert len(first) == len(seeds)


def test_a_short_run(capsys: pytest.CaptureFixture[str]) -> None:
    """The layer with the nonlinearity inside learns 20 steps in a moment."""
    options = ["--length", "20", "--steps", "150", "--seeds", "0", "--width", "16"]
    [[run]] = adding.main(["--models", "diagonal", *options])
    assert run.score < 0.05
    assert [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()[2:]] == ["| diagonal"]

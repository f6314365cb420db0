"""The example of the README runs and learns, and chooses settings without looking at the test set."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn")

from bench import digits

SCRIPT = Path(__file__).parents[2] / "bench" / "digits.py"


def test_a_short_run() -> None:
    """Most of the digits right after three epochs of small layers, where guessing gets a tenth."""
    options = ["--models", "ssm", "dense", "--epochs", "3", "--width", "32", "--seeds", "0"]
    done = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == ["ssm", "dense"]
    assert float(rows[0][4].removesuffix(" %")) > 50


def test_settings_are_chosen_without_the_test_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice is the best of the grid on the last images of the training set, and never sees another image."""
    seen = []

    def train(
        name: str, settings: digits.Settings, images: torch.Tensor, classes: torch.Tensor, training: int, **_: int
    ) -> digits.Result:
        seen.append((len(images), training))
        return digits.Result(name, settings, 0, 1.0, float(settings.nonlinearity == "relu"), 0.0)

    monkeypatch.setattr(digits, "train", train)
    [[best]] = digits.main(["--select", "--models", "dense", "--seeds", "0"])
    assert best.settings == digits.Settings(digits.RATES[0], "relu")
    assert set(digits.CHOSEN) == set(digits.GRID)
    assert all(settings in digits.GRID[name] for name, settings in digits.CHOSEN.items())
    assert seen[:-1] == [(digits.TRAINING, digits.TRAINING - digits.VALIDATION)] * len(digits.GRID["dense"])
    assert seen[-1] == (1797, digits.TRAINING)

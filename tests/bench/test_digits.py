"""The example of the README runs and learns, and chooses settings without looking at the test set."""

from __future__ import annotations

import itertools
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
    assert float(rows[0][4]) > 50


@pytest.mark.parametrize("selecting", [False, True])
def test_what_is_learned_and_what_is_held_out(selecting: bool) -> None:
    """The end of the training set while settings are chosen, which then never meet the test set."""
    images = torch.arange(1797)
    (learned, _), (held_out, _) = digits.split(images, images, selecting)
    end = digits.TRAINING if selecting else 1797
    assert len(held_out) == (digits.VALIDATION if selecting else 360)
    assert torch.equal(torch.cat([learned, held_out]), images[:end])


def test_an_epoch_meets_every_image_once() -> None:
    images = torch.arange(100)
    epoch = itertools.islice(digits.batches(images, -images), -(-100 // digits.BATCH))
    met, classes = (torch.cat(parts) for parts in zip(*epoch, strict=True))
    assert torch.equal(met.sort().values, images)
    assert torch.equal(classes, -met)

"""The example of the README runs and learns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn")

SCRIPT = Path(__file__).parents[1] / "bench" / "digits.py"


def test_a_short_run() -> None:
    """A third of the digits right after three epochs of small layers, where guessing gets a tenth."""
    options = ["--models", "diagonal", "dense", "--epochs", "3", "--width", "32"]
    done = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == ["diagonal", "dense"]
    assert max(float(row[3].removesuffix(" %")) for row in rows) > 33

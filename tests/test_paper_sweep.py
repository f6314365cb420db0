"""The comparison with the paper's sweep runs, and its way of computing is the equation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "bench" / "paper_sweep.py"


def test_a_short_run() -> None:
    options = ["--sequences", "16", "--directions", "1"]
    done = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:]]
    assert [row[3] for row in rows] == ["22"] * 7
    assert all(float(row[-1].replace(",", "")) > 0 for row in rows)

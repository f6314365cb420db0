"""The comparison with the paper's sweep runs, and its way of computing is the equation."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import cofm_triton as cofm
from cofm_triton import reference

SCRIPT = Path(__file__).parents[2] / "bench" / "paper_sweep.py"


def test_a_short_run() -> None:
    options = ["--sequences", "16", "--directions", "1"]
    done = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:]]
    assert len(rows) == 8 and all(len(row) == 10 for row in rows)
    assert {row[3] for row in rows} == {"22"}
    seconds = [float(cell) for row in rows for cell in row[4:7]]
    assert all(0 <= value < 300 for value in seconds)


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("recurrence", ["diagonal", "orthogonal"])
def test_the_papers_way_is_the_equation(recurrence: str, lean: bool) -> None:
    """Against the definition's recurrences, with the same random numbers."""
    spec = importlib.util.spec_from_file_location("paper_sweep", SCRIPT)
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    inputs, targets = cofm.targets.generate("pol", 3, 7)
    torch.manual_seed(0)
    actual = bench.paper_pass(bench.Row("hardtanh", recurrence, (4,)), 4, inputs, targets, lean=lean)
    torch.manual_seed(0)
    encoder, bias, readout = (torch.empty(4).uniform_(-0.5, 0.5).double() for _ in range(3))
    rate, basis = torch.rand(4).double(), torch.linalg.qr(torch.randn(4, 4).double()).Q
    drive = inputs * encoder + bias
    if recurrence == "diagonal":
        h = reference.paper_cells.diagonal_cell(drive, rate, dt=1.0, nonlinearity="hardtanh")
    else:
        h = reference.paper_cells.rotated_cell(drive, rate, basis, dt=1.0, nonlinearity="hardtanh")
    expected = cofm.temporally_weighted_mse((h @ readout)[..., None], targets)
    assert actual == pytest.approx(float(expected), rel=1e-12)

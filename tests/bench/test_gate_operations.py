"""What the table of gates' operations counts."""

from __future__ import annotations

import pytest

pytest.importorskip("numba")

from bench import gate_operations


def test_both_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """RG-LRU has two divisions and a root for each register, and more products than polynomials of degree 5 have."""
    gate_operations.main(["--rounds", "1", "--shape", "1", "40", "8"])
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    counts = dict(zip(lines[0][1:-1], map(int, lines[2][1:-1]), strict=True))
    assert counts["divisions"] == 2 and counts["roots"] == 1 and counts["products and fused"] >= 15
    assert lines[6][0] == "(1, 40, 8)" and all(float(cell) > 0 for cell in lines[6][1:])

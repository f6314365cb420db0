"""A line of the table of certificates: prediction, measurement and rule of one case."""

from __future__ import annotations

import pytest

pytest.importorskip("numba")
pytest.importorskip("triton")

from bench import certificates


def test_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a fast unit: 24 / 0.69 steps predicted and measured, four times 16 / 0.69 by the CPU's rule."""
    monkeypatch.setattr(certificates, "LENGTH", 2000)
    monkeypatch.setattr(certificates, "SAMPLE", 300)
    certificates.main(["--units", "7", "--acts", "tanh", "--rates", "0.5", "--scales", "0.01"])
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[2].strip("|").split("|")]
    assert cells[:3] == ["tanh", "0.5", "0.01"]
    predicted, middle, largest, cpu, gpu = map(int, cells[4:9])
    assert middle <= predicted <= gpu < cpu + 1 and middle <= largest
    assert cells[9] == "0" and cells[11].startswith("+")

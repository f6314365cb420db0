"""What the table of gated recurrences counts."""

from __future__ import annotations

import pytest
import torch

from bench import gates
from cofm_triton.evidence.benchmark.peers import peers


def test_operations_move_what_they_read_and_write() -> None:
    x, row = torch.ones(4, 3), torch.ones(3)
    cases = [
        (lambda: x + x, 24), (lambda: x * row, 27), (lambda: x.T.view(3, 4), 0), (lambda: x.sum(), 13),
        (lambda: torch.empty(9), 0), (lambda: x.clone()[:1].copy_(row), 24 + 6), (lambda: x + row.expand(4, 3), 27),
    ]  # fmt: skip
    for run, numbers in cases:
        with gates.Moved() as moved:
            run()
        assert moved.bytes == 4 * numbers


def test_the_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours is first; a loop over rows moves several times as much."""
    chosen = [peer for peer in peers() if peer.name == "row loop"]
    monkeypatch.setattr(gates, "peers", lambda: chosen)
    gates.main(["--shape", "2", "5", "8", "--seconds", "0"])
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:4]]
    assert [line[0] for line in lines] == ["cofm_triton.gated_rnn", "row loop"]
    assert (float(lines[0][3]), float(lines[0][6])) == (4, 11) and float(lines[1][6]) > 44

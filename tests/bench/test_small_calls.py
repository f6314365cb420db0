"""The table of small calls: every row is measured, by calls that do what their name says."""

from __future__ import annotations

import pytest
import torch

from bench import small_calls
from cofm_triton import linear_scan


def test_both_tables(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(small_calls, "CALLS", 1)
    monkeypatch.setattr(small_calls, "SHAPE", (1, 8, 4))
    monkeypatch.setattr(small_calls, "find_spec", lambda name: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    small_calls.main(["--rounds", "1", "--widths", "4"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    numbers = {name: cells for name, *cells in rows if cells[0][:1].isdigit()}
    assert list(numbers) == [*(name for name, _ in small_calls.scans()), "nn.RNNCell, us", *small_calls.LAYERS]
    assert all(float(cell) > 0 for cells in numbers.values() for cell in cells)


def test_passes() -> None:
    """Without gradients, and with those by both arguments."""
    seen: list[bool] = []

    def scan(x: torch.Tensor, a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(torch.is_grad_enabled() and x.requires_grad and a.requires_grad)
        return linear_scan(x, a)

    for call in small_calls.passes(scan):
        call()
    assert seen == [False, True]

"""The page of results says what its files say, where and when it was measured, and that no GPU was."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cofm_triton.cli import main
from cofm_triton.evidence import machine
from cofm_triton.evidence.benchmark import contract, measure, results
from cofm_triton.evidence.results_page import SCALING, write_page
from cofm_triton.evidence.validation import report
from cofm_triton.evidence.validation.check import Outcome

WHERE = {**machine.describe(torch.device("cpu"), None), "device": "abacus"}


def record(contestant: str, seconds: float) -> results.Record:
    turns = measure.Turns(lambda: None, lambda: None, torch.device("cpu"), pairs=[(1.0, seconds)])
    case = contract.Case("linear_scan", "fixed size", (1, 256, 4), torch.float32)
    return results.record(case, contract.FORWARD, contestant, turns, 100, 100)


def test_page(tmp_path: Path) -> None:
    session = results.Results([record("cofm", 2.0), record("peer", 5.0)])
    session.leave_out("other", "linear_scan", "not installed")
    session.write(tmp_path / "results" / SCALING, WHERE, smoke=False)
    missed = Outcome("linear_scan:gated:float32:1x1x1:plain:0", "torch@cpu", {"h": 3.0})
    report.write(tmp_path / "results", [missed], {"machine": WHERE})
    page = write_page(tmp_path / "results", tmp_path / "RESULTS.md").read_text()
    assert "Nothing here was measured on a GPU" in page
    assert page.count("abacus") == 2 and page.count(WHERE["date"]) == 2 and torch.__version__ in page
    assert "2.00 (2.00-2.00)" in page and "2.50" in page
    assert "other, linear_scan: not installed" in page
    assert f"{missed.replay}  MISSED" in page
    assert "What the compiler makes" not in page


def test_a_gpu_is_not_denied(tmp_path: Path) -> None:
    results.Results([record("cofm", 2.0)]).write(tmp_path / SCALING, {**WHERE, "device_type": "cuda"}, smoke=False)
    assert "measured on a GPU" not in write_page(tmp_path, tmp_path / "RESULTS.md").read_text()


def test_results_survive_their_file(tmp_path: Path) -> None:
    session = results.Results([replace(record("cofm", 2.0), bytes_moved=None)])
    session.leave_out("other", "linear_scan", "not installed")
    session.write(tmp_path / SCALING, WHERE, smoke=False)
    assert results.read(tmp_path / SCALING) == (session, WHERE)


def test_nothing_to_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "--page"]) == 2
    assert f"holds none of {SCALING}" in capsys.readouterr().err

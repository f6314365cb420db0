"""`cofm bench`: a smoke run leaves a table, a file and a figure; peers that grow slow are left behind."""

import json
from pathlib import Path

import pytest
import torch

from cofm_triton.cli import bench, main
from cofm_triton.evidence.benchmark import scaling
from cofm_triton.evidence.benchmark.contract import FORWARD, Contestant, Peer, Unsupported
from cofm_triton.evidence.benchmark.results import Results
from cofm_triton.evidence.case import Case
from cofm_triton.evidence.problem import Problem
from cofm_triton.evidence.registry import benchmarks
from cofm_triton.support.lock import one_writer


@pytest.mark.slow
def test_smoke_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    words = ["bench", "--preset", "smoke", "--operators", "rnn_scan", "--device", "cpu", "--out", str(tmp_path)]
    assert main(words) == 0
    output = capsys.readouterr().out
    assert "rnn_scan, fixed size, float32" in output and "rnn_scan, fixed batch, float32" in output
    assert (tmp_path / bench.TABLE).read_text() in output
    content = json.loads((tmp_path / bench.JSON).read_text())
    ours = {(r["study"], r["size"], r["pass_name"]) for r in content["records"] if r["contestant"] == "cofm"}
    assert len(ours) == 2 * 2 * len(scaling.PRESETS["smoke"].exponents)
    beginnings = [(tmp_path / name).read_bytes()[:5] for name in bench.FIGURES]
    assert beginnings == [b"\x89PNG\r", b"<?xml", b"%PDF-"]


def test_a_second_run_is_refused_while_one_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    with one_writer(tmp_path):
        assert main(["bench", "--preset", "smoke", "--operators", "rnn_scan", "--out", str(tmp_path)]) == 2
    assert "writes to" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--operators", "scan"]) == 2
    assert "'scan' is not one of" in capsys.readouterr().err


def test_what_is_measured_stays_without_host_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that fails, as on a full disk, costs a line of the table."""
    pytest.importorskip("triton")
    monkeypatch.setenv("CC", "false")
    (line,) = bench._host_lines(smoke=True)
    assert line.startswith("Host times of calls on a GPU are left out: ") and "status 1" in line


def test_presets_are_those_of_the_benchmark() -> None:
    assert set(bench.PRESETS) == set(scaling.PRESETS)
    exponents = scaling.PRESETS["quick"].exponents
    assert (min(exponents), max(exponents)) == (8, 20)


def test_a_peer_that_declines_leaves_no_time() -> None:
    def decline(problem: Problem) -> Contestant:
        raise Unsupported("not this one")

    peer, results, preset = Peer("choosy", {"rnn_scan": decline}), Results(), scaling.PRESETS["quick"]
    case = Case("rnn_scan", "fixed batch", (1, 4, 2), scaling.DTYPE)
    problem = benchmarks()["rnn_scan"].draw(case, torch.device("cpu"))
    assert scaling._measure(case, problem, FORWARD, peer, preset, results) is None
    assert results.left_out == {("choosy", "rnn_scan"): ["not this one"]}


@pytest.mark.parametrize(("times", "follows"), [([], True), ([0.1, 0.1], True), ([0.05, 0.4], False), ([0.7], False)])
def test_a_peer_is_followed_while_its_next_run_stays_short(times: list[float], follows: bool) -> None:
    peer, results, preset = Peer("slow", {}), Results(), scaling.PRESETS["quick"]
    case = Case("rnn_scan", "fixed batch", (1, 4096, 32), scaling.DTYPE)
    assert scaling._affordable(times, preset, peer, case, results) == follows
    assert bool(results.left_out) != follows
    if not follows:
        assert not scaling._affordable(times, preset, peer, case, results)  # nor at greater lengths
        ((reason,),) = results.left_out.values()
        assert reason == f"fixed batch, T >= 4,096: more than {preset.longest:g} s a run"

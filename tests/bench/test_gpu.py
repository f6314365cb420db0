"""`make gpu` with stand-ins for the GPU: what it runs, writes and says."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench import gpu
from cofm_triton.evidence import machine, published
from cofm_triton.evidence.benchmark import contract, measure, results
from cofm_triton.evidence.case import Case
from cofm_triton.evidence.validation import report
from cofm_triton.evidence.validation.check import Outcome

CASE = Case("linear_scan", "fixed size", (1, 256, 4), torch.float32)
WHERE = {**machine.describe(torch.device("cpu"), None), "device": "NVIDIA Abacus 80GB", "device_type": "cuda"}
GIB = 2**30


def recorded(case: Case, pass_name: str, seconds: float) -> results.Record:
    turns = measure.Turns(lambda: None, lambda: None, torch.device("cpu"), pairs=[(1e-3, seconds)])
    return results.record(case, pass_name, results.OURS, turns, 100, 100)


@pytest.fixture
def abacus(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """A GPU that is asked only for its name; the list of commands that were run, whose results are made up."""
    ran: list[Sequence[str]] = []

    def run_together(chosen: Sequence[Sequence[str]]) -> list[int]:
        for command in chosen:
            ran.append(command)
            if "validate" in command:
                out = Path(command[command.index("--out") + 1])
                report.write(out, [Outcome("linear_scan:gated:float32:1x1x1:plain:0", "triton@cuda", {"h": 0.5})], {})
            if "bench" in command:
                out = Path(command[command.index("--out") + 1])
                session = results.Results([recorded(CASE, contract.FORWARD, 2e-3)])
                session.write(out / "scaling.json", WHERE, smoke=False)
                (out / "scaling.png").write_bytes(b"picture")
        return [0] * len(chosen)

    def shapes(device: torch.device) -> results.Results:
        rows = [(published.cases()[0], name, 1e-3) for name in contract.PASSES]
        return results.Results([recorded(*row) for row in rows])

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: WHERE["device"])
    monkeypatch.setattr(gpu, "run_together", run_together)
    monkeypatch.setattr(gpu, "copy_bandwidth", lambda device: 2.5e12)
    monkeypatch.setattr(gpu, "published_shapes", shapes)
    return ran


def test_without_a_gpu_one_sentence_and_a_status_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu, "run_together", lambda chosen: pytest.fail("has begun"))
    assert gpu.main(tmp_path / "results", tmp_path / "RESULTS.md") == gpu.NO_GPU == 3
    said = capsys.readouterr()
    assert "finds no GPU here" in said.err and said.err.count("\n") == 1 and not said.out
    assert not list(tmp_path.iterdir())


def test_files_and_page(tmp_path: Path, abacus: list[Sequence[str]]) -> None:
    assert gpu.main(tmp_path / "results", tmp_path / "RESULTS.md") == 0
    kinds = ["validate" if "validate" in words else "pytest" if "pytest" in words else "bench" for words in abacus]
    assert kinds == ["validate", "pytest", "bench"]
    assert all(words[0] == sys.executable for words in abacus)
    assert (tmp_path / "results" / "gpu-nvidia-abacus-80gb.png").read_bytes() == b"picture"
    session, where = results.read(tmp_path / "results" / "gpu-nvidia-abacus-80gb.json")
    assert where == WHERE and len(session.records) == 3
    page = (tmp_path / "RESULTS.md").read_text()
    assert "## NVIDIA Abacus 80GB" in page and "A copy moves 2.50 TB/s. Of 1 calls" in page
    assert "the tests marked `gpu` passed" in page and "gpu-nvidia-abacus-80gb.png" in page
    assert "| 4,096 | cofm (NVIDIA Abacus 80GB) | 1 |" in page and "warpscan (H100, published) | 0.206 | 2.93" in page
    assert "Nothing here was measured on a GPU" not in page


@pytest.mark.parametrize(("statuses", "status"), [([1, 0, 0], 1), ([0, 1, 0], 1)])
def test_what_is_wrong_is_written_and_said(
    statuses: list[int], status: int, tmp_path: Path, abacus: list[Sequence[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up, left = gpu.run_together, iter(statuses)
    monkeypatch.setattr(gpu, "run_together", lambda chosen: [next(left) for _ in made_up(chosen)])
    assert gpu.main(tmp_path / "results", tmp_path / "RESULTS.md") == status
    content = json.loads((tmp_path / "results" / "gpu-nvidia-abacus-80gb.json").read_text())
    assert content["tests_exit_status"] == statuses[1]


def test_without_a_benchmark_nothing_is_written(
    tmp_path: Path, abacus: list[Sequence[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "run_together", lambda chosen: [2] * len(chosen))
    assert gpu.main(tmp_path / "results", tmp_path / "RESULTS.md") == 1
    assert "nothing was written" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_commands_are_those_of_the_command_line() -> None:
    """Their options are parsed by the commands themselves; pytest knows the marker."""
    from cofm_triton.cli import _parser

    (validate, tests), benchmark = gpu.commands(Path("out"))
    for words in (validate[3:], benchmark[3:]):
        assert _parser(list(words)).parse_args(words).device == "cuda"
    assert tests[1:3] == ["-m", "pytest"] and tests[tests.index("-m", 3) + 1] == "gpu"
    assert gpu.run_together([[sys.executable, "-c", f"raise SystemExit({k})"] for k in (0, 3)]) == [0, 3]


def test_shapes_that_do_not_fit_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (GIB // 2, GIB))
    found = gpu.published_shapes(torch.device("cuda"))
    assert not found.records
    (reasons,) = found.left_out.values()
    assert len(reasons) == 2 and "needs 24 GiB" in reasons[1]


def test_published_shapes_are_timed_in_both_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the CPU for a GPU, a shape that is small, and a clock that stands still."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (GIB, GIB))
    monkeypatch.setattr(published, "cases", lambda: [Case(published.OPERATOR, "tiny", (2, 16, 3), torch.float32)])
    found = gpu.published_shapes(torch.device("cpu"))
    assert [entry.pass_name for entry in found.records] == list(contract.PASSES)
    assert [entry.bytes_moved for entry in found.records] == [12 * 96, 32 * 96]


def test_the_copy_takes_an_eighth_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**15, GIB))
    sizes: list[Any] = []

    def clock(run: Any) -> float:
        sizes.append(run().nbytes)
        return 1e-3

    monkeypatch.setattr(gpu, "gpu_seconds", clock)
    assert gpu.copy_bandwidth(torch.device("cpu")) == 2 * 4096 / 1e-3
    assert sizes == [4096]


def test_the_clock_sweeps_the_cache_before_every_timed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's own clock, with a driver that notes what it is asked."""
    driver = pytest.importorskip("triton.runtime").driver
    events: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            events.append("event")

        def elapsed_time(self, other: Any) -> float:
            return 10.0

    interface = SimpleNamespace(Event=Event, synchronize=lambda: None)
    stand_in = SimpleNamespace(
        get_device_interface=lambda: interface,
        get_empty_cache_for_benchmark=lambda: None,
        clear_cache=lambda cache: events.append("sweep"),
    )
    monkeypatch.setattr(type(driver), "active", property(lambda self: stand_in))
    assert measure.gpu_seconds(lambda: events.append("run")) == 10.0 / 1e3
    assert events[-4:] == ["sweep", "event", "run", "event"]


def test_published_rates() -> None:
    """12 bytes of every number forward, 32 in both passes, give the rates that they state: 2.93 to 3.03 TB/s."""
    rows = [[word.strip(" |") for word in line.split(" | ")] for line in published.lines([]) if "warpscan" in line]
    assert [(row[3], row[5]) for row in rows] == [("2.93", "2.97"), ("3.03", "3.01")]

"""The benchmarks run, check their contestants, and report what they measured."""

import inspect
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from cofm_triton.evidence.benchmark import contract, measure, results, shapes, table
from cofm_triton.evidence.benchmark.cases import cases
from cofm_triton.evidence.benchmark.check import WrongResult, check
from cofm_triton.evidence.benchmark.peers import peers
from cofm_triton.evidence.case import Case
from cofm_triton.evidence.registry import benchmarks

pytest.importorskip("pytest_benchmark")

REPOSITORY = Path(__file__).parents[2]


def smoke_run(path: Path) -> tuple[str, dict[str, Any]]:
    """What a smoke run prints, and the file it writes."""
    options = ["--benchmark-only", "--smoke", "--benchmark-quiet", "-p", "no:cacheprovider", "--results", str(path)]
    command = [sys.executable, "-m", "pytest", "bench", *options]
    # Neither the workers of this test run, where nothing can be timed, nor its interpreter concern the benchmarks.
    foreign = ("PYTEST_", "TRITON_INTERPRET")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_smoke_run(tmp_path: Path) -> None:
    """One test, since the run takes a while: every operator is measured, every peer runs or is explained."""
    output, content = smoke_run(tmp_path / "new folder" / "bench.json")

    records = content["records"]
    expected = {
        (case.operator, case.dtype_name, pass_name)
        for case in cases(smoke=True)
        for pass_name in benchmarks()[case.operator].passes
    }
    measured = {(r["operator"], r["dtype"], r["pass_name"]) for r in records if r["contestant"] == "cofm"}
    assert measured == expected
    for entry in records:
        for name in ("seconds", "copy_seconds", "ratio"):
            assert 0 < entry[name]["min"] <= entry[name]["median"] <= entry[name]["max"] < math.inf

    left_out = content["left_out"]
    known = {entry["contestant"] for entry in [*records, *left_out]}
    assert {peer.name for peer in peers()} <= known
    for entry in left_out:
        assert f"{entry['contestant']}, {entry['operator']}: {'; '.join(entry['reasons'])}" in output

    assert content["smoke"] is True
    assert content["machine"]["versions"]["torch"] == torch.__version__
    assert {"date", "device", "threads", "load_before"} <= set(content["machine"])


def test_every_scan_sweep_and_layer_is_timed() -> None:
    """A file that no longer registers its operator would leave no trace in a run."""
    forward = {name for name, operator in benchmarks().items() if contract.FORWARD in operator.passes}
    both = {name for name, operator in benchmarks().items() if contract.FORWARD_BACKWARD in operator.passes}
    scans = {"linear_scan", "gated_scan", "rnn_scan", "dense_rnn", "rnn_readout", "stable_rnn"}
    scans |= {"paired_linear_scan", "paired_rnn_scan", "activations", "gated_rnn"}
    assert both == scans and forward == {*scans, "memory_sweep", "perturbation_error"}
    assert {case.operator for case in cases(smoke=True)} == forward


def test_every_study_is_part_of_the_full_run() -> None:
    everything = cases(smoke=False)
    assert len(everything) == len(set(everything))
    assert {(case.operator, case.variant) for case in everything} == {
        (name, study) for name, operator in benchmarks().items() for study in operator.studies
    }


def test_fixed_size_is_fixed() -> None:
    assert {math.prod(shape) for shape in shapes.FIXED_SIZE} == {shapes.ELEMENTS}
    assert [shape[1] for shape in shapes.FIXED_SIZE] == [shape[1] for shape in shapes.FIXED_BATCH]
    assert shapes.LENGTHS[0] == 2**8 and shapes.LENGTHS[-1] == 2**20


def test_traffic_of_both_passes_adds_up() -> None:
    operators = benchmarks()
    case = Case("linear_scan", "any", (2, 3, 5), torch.bfloat16)
    copied = 2 * 2 * 3 * 5 * 2
    assert operators["linear_scan"].bytes_moved(case, contract.FORWARD) == copied
    assert operators["linear_scan"].bytes_moved(case, contract.FORWARD_BACKWARD) == 2.5 * copied
    assert operators["gated_scan"].bytes_moved(case, contract.FORWARD_BACKWARD) == 4 * copied
    assert operators["stable_rnn"].bytes_moved(case, contract.FORWARD) is None


def test_runs_and_copies_take_turns() -> None:
    order: list[str] = []
    turns = measure.Turns(lambda: order.append("copy"), lambda: order.append("run"), torch.device("cpu"))
    assert turns.warm_up(max_time=0.0, min_rounds=3) == 3
    order.clear()
    for _ in range(3):
        turns.before()
        turns.run()
    assert order == ["copy", "copy", "run", "run"] * 3  # each after one of its own kind
    assert len(turns.pairs) == 3


def test_long_runs_follow_each_other_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(measure, "LEAD_SECONDS", 0.0)
    turns = measure.Turns(lambda: order.append("copy"), lambda: order.append("run"), torch.device("cpu"))
    turns.warm_up(max_time=0.0, min_rounds=1)
    order.clear()
    turns.before()
    turns.run()
    assert order == ["copy", "run"]


def test_on_a_gpu_tritons_clock_takes_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its interface is the real one; the GPU is not there."""
    testing = pytest.importorskip("triton.testing")
    assert {"rep", "return_mode"} <= set(inspect.signature(testing.do_bench).parameters)
    asked: list[str] = []

    def do_bench(run: Any, *, rep: int, return_mode: str) -> float:
        run()
        asked.append(return_mode)
        return 2.0 if len(asked) % 2 else 5.0

    monkeypatch.setattr(testing, "do_bench", do_bench)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    turns = measure.Turns(lambda: None, lambda: None, torch.device("cuda"))
    turns.take(max_time=1.0, min_rounds=3)
    assert turns.pairs == [(2e-3, 5e-3)] * measure.GPU_ROUNDS
    assert set(asked) == {"median"}


def test_a_loop_is_captured_once_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for CUDA: warm-up outside the capture, one capture per pass, a replay per run."""
    (peer,) = [peer for peer in peers() if peer.name == "loop, CUDA graph"]
    module = sys.modules[peer.prepare["rnn_scan"].__module__]
    events: list[str] = []

    class Stream:
        def wait_stream(self, other: Any) -> None:
            events.append("wait")

    class Graph:
        def replay(self) -> None:
            events.append("replay")

    @contextmanager
    def capturing(graph: Graph) -> Iterator[None]:
        events.append("begin")
        yield
        events.append("end")

    stand_ins = {
        "Stream": Stream, "current_stream": Stream, "stream": nullcontext, "CUDAGraph": Graph, "graph": capturing,
    }  # fmt: skip
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)

    def forward() -> torch.Tensor:
        events.append("run")
        return torch.ones(1)

    contestant = module.graphed(contract.Contestant(forward, None, torch.clone))
    assert contestant.forward() is contestant.forward()
    warm_up = ["wait", *["run"] * module.WARM_UP_RUNS, "wait"]
    assert events == [*warm_up, "begin", "run", "end", "replay", "replay"]
    assert contestant.forward_backward is None


def test_ratios_are_taken_round_by_round() -> None:
    """A machine that is ten times slower in one round changes times, but not the ratio."""
    pairs = [(1.0, 2.0), (10.0, 20.0), (1.0, 2.0), (2.0, 5.0)]
    turns = measure.Turns(lambda: None, lambda: None, torch.device("cpu"), pairs=pairs)
    assert turns.ratio() == (2.0, 2.0, 2.5)
    assert turns.candidate_seconds() == (2.0, 3.5, 20.0)
    assert turns.yardstick_seconds() == (1.0, 1.5, 10.0)


def results_of(**pairs: list[tuple[float, float]]) -> Any:
    """Results of one case, from (copy, run) seconds per contestant."""
    case = Case("linear_scan", "any", (1, 1024, 1024), torch.float32)
    session = results.Results()
    for name, rounds in pairs.items():
        turns = measure.Turns(lambda: None, lambda: None, torch.device("cpu"), pairs=rounds)
        moved = 1000 if name == "cofm" else None
        session.records.append(results.record(case, contract.FORWARD, name, turns, moved, 1000))
    return session


def test_peers_are_compared_through_their_own_copies() -> None:
    session = results_of(cofm=[(1.0, 2.0)], peer=[(10.0, 60.0)])
    ours, peer = session.records
    assert table.advantage(ours, peer) == 3.0
    assert ours.bandwidth == 0.5
    assert peer.bandwidth is None


def test_long_runs_are_compared_by_the_clock() -> None:
    """A copy may take three times as long after a long run as after a short one."""
    ours, peer = results_of(cofm=[(1.0, 6.0)], peer=[(3.0, 33.0)]).records
    assert table.advantage(ours, peer) == 5.5
    assert table.advantage(peer, ours) == 1 / 5.5
    ours, peer = results_of(cofm=[(1.0, 6.0)], peer=[(3.0, 27.0)]).records
    assert table.advantage(ours, peer) == 1.5


def test_table_shows_losses_and_reasons() -> None:
    session = results_of(cofm=[(1.0, 2.0)] * 3, slow=[(1.0, 8.0)], fast=[(1.0, 1.0)] * 3, other=[(1.0, 1.0)] * 3)
    session.leave_out("absent", "linear_scan", "not installed")
    session.leave_out("absent", "linear_scan", "not installed")
    lines = list(table.lines(session, ["other"]))
    (row,) = [line for line in lines if line.strip().startswith("1x1024x1024")]
    assert row.split() == [
        "1x1024x1024",
        "fwd",
        "2e+03",
        "2.00",
        "(2.00-2.00)",
        "50%",
        "4.00",
        "n=1",
        "0.50",
        "!",
        "0.50",
        "!",
    ]
    assert "Lost: 1 of 2 comparisons with peers that do the same work" in lines
    assert sum("fast takes 0.50" in line for line in lines) == 1
    assert lines[-2:] == ["Left out:", "  absent, linear_scan: not installed"]


def test_a_wrong_contestant_fails_the_smoke_run() -> None:
    case = cases(smoke=True)[0]
    operator = benchmarks()[case.operator]
    problem = operator.draw(case, torch.device("cpu"))
    right = operator.ours(problem)
    wrong = contract.Contestant(
        lambda: right.forward() * 1.001,
        lambda: [2 * g for g in right.forward_backward()],  # type: ignore[misc]
        torch.clone,
    )
    for pass_name in contract.PASSES:
        check(case, problem, right, pass_name, None)
        with pytest.raises(WrongResult, match=f"cofm, .*{re.escape(pass_name)}: an error of .* times its bound"):
            check(case, problem, wrong, pass_name, None)


def test_results_of_dense_models_are_checked() -> None:
    """Bounds that grow from step to step stay numbers, and those of states below what two runs could differ by."""
    operator = benchmarks()["dense_rnn"]
    case = Case("dense_rnn", "test", (1, 64, 32), torch.float32)
    problem = operator.draw(case, torch.device("cpu"))
    for pass_name in contract.PASSES:
        check(case, problem, operator.ours(problem), pass_name, None)
    error = problem.bounds()["h"].error
    assert bool((error.amax((0, 2)) <= torch.arange(1, 65)).all())  # 2 dt a step, and its roundings

"""Options of a benchmark session, its cases, and the table and file at its end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cofm_triton.evidence import machine
from cofm_triton.evidence.benchmark import table
from cofm_triton.evidence.benchmark.contract import FORWARD, Case, Peer
from cofm_triton.evidence.benchmark.peers import declines, missing, peers
from cofm_triton.evidence.benchmark.registry import OPERATORS, cases
from cofm_triton.evidence.benchmark.results import OURS, Results

RESULTS = pytest.StashKey[Results]()
LOAD = pytest.StashKey[float | None]()
DEFAULT_FILE = "out/bench.json"


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--smoke`, `--results`, `--device`."""
    group = parser.getgroup("cofm_triton")
    group.addoption("--smoke", action="store_true", help="every case once, tiny, with its result checked")
    group.addoption("--results", default=DEFAULT_FILE, metavar="FILE", help=f"JSON to write ({DEFAULT_FILE})")
    group.addoption("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="device of the tensors")


def pytest_configure(config: pytest.Config) -> None:
    """One collection of results per session, and how busy the machine was before it."""
    config.stash[RESULTS] = Results()
    config.stash[LOAD] = machine.load()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Contestants of a case follow one another, so that the machine changes little between them."""
    if "contestant" not in metafunc.fixturenames:
        return
    smoke, results = metafunc.config.getoption("smoke"), metafunc.config.stash[RESULTS]
    device = torch.device(metafunc.config.getoption("device"))
    parameters = [
        pytest.param(case, pass_name, peer, id=f"{case.label(pass_name)}-{peer.name if peer else OURS}")
        for case in cases(smoke)
        for pass_name in OPERATORS[case.operator].passes
        for peer in [None, *_running(case, pass_name, results, smoke, device)]
    ]
    metafunc.parametrize(("case", "pass_name", "contestant"), parameters)


def _running(case: Case, pass_name: str, results: Results, smoke: bool, device: torch.device) -> list[Peer]:
    """Peers that can run a case; why the others cannot is kept for the report."""
    found = []
    compiled_once = case.operator == "linear_scan" and case.dtype == torch.float32 and pass_name == FORWARD
    for peer in peers():
        if case.operator not in peer.prepare:
            continue
        reason = missing(peer) or declines(peer, case, device)
        if smoke and peer.slow_to_compile and not compiled_once:
            reason = reason or "slow to compile, so once in a smoke run"
        if reason is None:
            found.append(peer)
        else:
            results.leave_out(peer.name, case.operator, reason)
    return found


@pytest.fixture
def results(request: pytest.FixtureRequest) -> Results:
    """What this session has measured so far."""
    return request.config.stash[RESULTS]


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device of all tensors."""
    return torch.device(request.config.getoption("device"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table and write the file, whatever has been measured."""
    results = config.stash[RESULTS]
    if not results.records:
        return
    terminalreporter.section("benchmarks")
    other_work = [peer.name for peer in peers() if not peer.same_work]
    for line in table.lines(results, other_work):
        terminalreporter.write_line(line)
    path = Path(config.getoption("results"))
    load = config.stash[LOAD]
    where = machine.describe(torch.device(config.getoption("device")), load)
    results.write(path, where, config.getoption("smoke"))
    terminalreporter.write_line(f"{where['device']}, {where['threads']} threads, {where['date']}: {path}")
    if load is not None and load > machine.BUSY:
        terminalreporter.write_line(f"The machine was busy: {load:.1f} processes per processor. Measure again.")

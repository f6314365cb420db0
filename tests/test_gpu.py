"""What only a GPU shows: the second device, streams, CUDA graphs, memory and the clock. `make gpu` runs these."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cofm_triton.evidence.benchmark.measure import gpu_seconds
from cofm_triton.evidence.case import Case
from cofm_triton.evidence.compilation.devices import DEVICES
from cofm_triton.evidence.problem import Problem
from cofm_triton.evidence.registry import benchmarks

pytestmark = pytest.mark.gpu

SHAPES = {"linear_scan": (3, 300, 40), "gated_scan": (2, 300, 40), "rnn_scan": (3, 200, 40)}  # the first two split time
OPERATORS = tuple(SHAPES)


def drawn(name: str, device: str) -> tuple[Problem, Callable[[], Tensor]]:
    """A problem, and the call of its operator that gives the states."""
    problem = benchmarks()[name].draw(Case(name, "gpu", SHAPES[name], torch.float32), torch.device(device))

    def call() -> Tensor:
        found = problem.operator.function(**problem.tensors, **problem.options)
        states: Tensor = found if isinstance(found, Tensor) else found[0]
        return states

    return problem, call


def excess(problem: Problem, states: Tensor) -> float:
    """The largest error over its bound."""
    return float(problem.bounds()["h"].excess(states))


@pytest.mark.parametrize("name", OPERATORS)
def test_a_call_runs_on_the_device_of_its_tensors(name: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs a second CUDA device")
    problem, call = drawn(name, "cuda:1")
    with torch.cuda.device(0):
        states = call()
        assert torch.cuda.current_device() == 0
    assert states.device == torch.device("cuda", 1)
    assert excess(problem, states) <= 1


@pytest.mark.parametrize("name", OPERATORS)
def test_a_call_waits_for_its_own_stream(name: str) -> None:
    problem, call = drawn(name, "cuda")
    x = problem.x.clone()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        problem.x.zero_()
        torch.cuda._sleep(10**8)  # a launch on another stream would read zeros
        problem.x.copy_(x)
        states = call()
    stream.synchronize()
    assert excess(problem, states) <= 1


@pytest.mark.parametrize("name", OPERATORS)
def test_a_captured_call_follows_its_input(name: str) -> None:
    problem, call = drawn(name, "cuda")
    call()  # compiles
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        states = call()
    problem.x.mul_(-0.5)
    graph.replay()
    torch.cuda.synchronize()
    assert excess(problem, states) <= 1


@pytest.mark.parametrize("name", OPERATORS)
def test_a_call_takes_the_memory_of_its_result(name: str) -> None:
    """And what its phases hand on where time is split: a quarter of it, and a megabyte, at most."""
    _, call = drawn(name, "cuda")
    call()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    states = call()
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before <= 1.25 * states.nbytes + 2**20


def test_a_copy_is_not_faster_than_the_memory() -> None:
    """4 MB fit into every L2 cache: the clock has to sweep it."""
    name = torch.cuda.get_device_name()
    peaks = [device.bandwidth for device in DEVICES.values() if device.name in name]
    if not peaks:
        pytest.skip(f"no data sheet of {name} in devices.py")
    source = torch.empty(2**20, device="cuda")
    target = torch.empty_like(source)
    assert source.nbytes / gpu_seconds(lambda: target.copy_(source)) <= peaks[0]

"""The Python loop over the rows captured in a CUDA graph: launching kernels one by one costs nothing any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from cofm_triton.evidence.benchmark.contract import Contestant, Peer, Problem

from .row_loop import dense, linear, nonlinear

# Runs before the capture: allocations and choices of kernels must lie behind it.
WARM_UP_RUNS = 3


def graphed(contestant: Contestant) -> Contestant:
    """The contestant with each of its passes captured, once, and replayed from then on."""
    both = contestant.forward_backward
    return Contestant(_captured(contestant.forward), None if both is None else _captured(both), contestant.to_states)


def _captured(run: Callable[[], Any]) -> Callable[[], Any]:
    captured: list[tuple[torch.cuda.CUDAGraph, Any]] = []

    def replay() -> Any:
        if not captured:
            captured.append(_capture(run))
        graph, results = captured[0]
        graph.replay()
        return results

    return replay


def _capture(run: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_RUNS):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()
    return graph, results


def _linear(problem: Problem) -> Contestant:
    return graphed(linear(problem))


def _nonlinear(problem: Problem) -> Contestant:
    return graphed(nonlinear(problem))


def _dense(problem: Problem) -> Contestant:
    return graphed(dense(problem))


PEER = Peer(
    name="loop, CUDA graph",
    prepare={"linear_scan": _linear, "gated_scan": _linear, "rnn_scan": _nonlinear, "dense_rnn": _dense},
    dtypes=(torch.float32, torch.bfloat16, torch.complex64),
    max_steps=2**13,  # some nodes of the graph a step: capturing more takes minutes
    devices=("cuda",),
)

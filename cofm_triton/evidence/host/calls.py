"""The calls whose host time is measured: ours, the floor, and other libraries' Triton paths."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import cofm_triton as cofm
from cofm_triton.evidence.benchmark.contract import Contestant, Unsupported, torch_contestant
from cofm_triton.evidence.benchmark.peers import missing, peers
from cofm_triton.evidence.case import Case, Shape
from cofm_triton.evidence.host import FLOOR
from cofm_triton.evidence.problem import Problem
from cofm_triton.evidence.registry import benchmarks

MANY_ROWS, FEW_ROWS, TINY = (32, 512, 1024), (8, 4096, 256), (4, 16, 32)


@dataclass(frozen=True)
class Call:
    """One row of the table.

    Attributes:
        name: what is called.
        shape: (B, T, D).
        prepare: makes the contestant; may raise `Unsupported`.
        is_peer: whether it is another library's, which may fail on a stub.
    """

    name: str
    shape: Shape
    prepare: Callable[[], Contestant]
    is_peer: bool = False


def calls() -> Iterator[Call]:
    """The floor first, then ours, then peers that run Triton kernels."""
    yield Call(FLOOR, TINY, _floor)
    for operator, shape in (
        ("linear_scan", MANY_ROWS), ("linear_scan", FEW_ROWS), ("gated_scan", FEW_ROWS), ("rnn_scan", FEW_ROWS),
    ):  # fmt: skip
        yield Call(operator, shape, partial(_operator, operator, shape))
    for recurrence, nonlinearity in (("diagonal", "tanh"), ("diagonal", "linear"), ("ssm", "relu")):
        for oscillating in (False, True):
            options: dict[str, Any] = dict(
                batch_first=True, recurrence=recurrence, nonlinearity=nonlinearity, oscillating=oscillating
            )
            name = f"StableRNN {recurrence} {nonlinearity}{' oscillating' if oscillating else ''}"
            yield Call(name, TINY, partial(_layer, cofm.StableRNN(TINY[2], TINY[2], **options)))
    yield Call("RNNFunctional(1, 32)", TINY, partial(_layer, cofm.RNNFunctional(1, TINY[2]), inputs=1))
    yield Call("two matrix products", TINY, _products)
    for peer in peers():
        if "cuda" in peer.devices and peer.in_triton:
            for operator in peer.prepare:
                yield Call(f"{peer.name}, {operator}", FEW_ROWS, partial(_peer, peer, operator), is_peer=True)


class _OnGPU(Problem):
    """A problem whose tensors pass for a GPU's."""

    @property
    def on_gpu(self) -> bool:
        return True


def _problem(operator: str, shape: Shape) -> Problem:
    drawn = benchmarks()[operator].draw(Case(operator, "host", shape, torch.float32), torch.device("cpu"))
    return _OnGPU(drawn.operator, drawn.tensors, drawn.pulls, drawn.options)


def _operator(operator: str, shape: Shape) -> Contestant:
    return benchmarks()[operator].ours(_problem(operator, shape))


def _peer(peer: Any, operator: str) -> Contestant:
    reason = missing(peer)
    if reason is not None:
        raise Unsupported(reason)
    contestant: Contestant = peer.prepare[operator](_problem(operator, FEW_ROWS))
    return contestant


def _floor() -> Contestant:
    from cofm_triton.evidence.host.floor import floor

    return torch_contestant(floor, [torch.zeros(TINY), torch.zeros(TINY[2])], torch.zeros(TINY))


def _layer(layer: torch.nn.Module, inputs: int = TINY[2]) -> Contestant:
    x = torch.zeros(*TINY[:2], inputs)

    def run(x: Tensor) -> Tensor:
        output: Any = layer(x)
        found: Tensor = output if isinstance(output, Tensor) else output[0]
        return found

    with torch.no_grad():
        grad = torch.zeros_like(run(x))
    return torch_contestant(run, [x], grad, parameters=list(layer.parameters()))


def _products() -> Contestant:
    """`F.linear` and its backward pass: what a layer's encoder costs by itself."""
    weight, bias = torch.zeros(TINY[2], TINY[2]), torch.zeros(TINY[2])
    leaves: Sequence[Tensor] = [torch.zeros(TINY), weight, bias]
    return torch_contestant(torch.nn.functional.linear, leaves, torch.zeros(TINY))

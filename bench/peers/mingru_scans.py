"""mingru-scans: its Triton kernel on a GPU, log T doublings in PyTorch elsewhere; it computes products of gates too.

Gates are stored for every step, (B, T, D); storing them for a time-invariant decay is not timed.
"""

from __future__ import annotations

from torch import Tensor

from cofm_triton.evidence.benchmark.contract import Contestant, Peer, torch_contestant
from cofm_triton.evidence.problem import Problem

from .eager_gates import with_gates


def _prepare(problem: Problem) -> Contestant:
    from mingru import linear_scan

    gates = problem["decay"].expand(problem.x.shape).to(problem.x.dtype).contiguous()

    def run(x: Tensor, gates: Tensor) -> Tensor:
        h: Tensor = linear_scan(gates, x)[1]
        return h

    return torch_contestant(run, [problem.x, gates], problem.grad)


def _prepare_gates(problem: Problem) -> Contestant:
    from mingru import linear_scan

    def scan(values: Tensor, decay: Tensor) -> Tensor:
        h: Tensor = linear_scan(decay, values)[1]
        return h

    return with_gates(scan, problem)


PEER = Peer(
    name="minGRU scan",
    prepare={"linear_scan": _prepare, "gated_scan": _prepare, "gated_rnn": _prepare_gates},
    modules=("mingru",),
    install="mingru-scans",
)

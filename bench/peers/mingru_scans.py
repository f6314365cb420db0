"""mingru-scans: its Triton kernel on a GPU, log T doublings in PyTorch elsewhere; it computes products of gates too.

Gates are stored for every step, (B, T, D); storing them for a time-invariant decay is not timed.
"""

from __future__ import annotations

from torch import Tensor

from cofm_triton.evidence.benchmark.contract import Contestant, Peer, Problem, torch_contestant


def _prepare(problem: Problem) -> Contestant:
    from mingru import linear_scan

    gates = problem.given["decay"].expand(problem.case.shape).to(problem.case.dtype).contiguous()

    def run(x: Tensor, gates: Tensor) -> Tensor:
        h: Tensor = linear_scan(gates, x)[1]
        return h

    return torch_contestant(run, [problem.x, gates], problem.grad)


PEER = Peer(
    name="minGRU scan",
    prepare={"linear_scan": _prepare, "gated_scan": _prepare},
    modules=("mingru",),
    install="mingru-scans",
)

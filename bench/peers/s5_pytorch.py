"""s5-pytorch: its associative scan with the operator of its layer, time first, as the layer calls it."""

from __future__ import annotations

import torch
from torch import Tensor

from cofm_triton.evidence.benchmark.contract import Contestant, Peer, Problem, torch_contestant


def _prepare(problem: Problem) -> Contestant:
    from s5.jax_compat import associative_scan
    from s5.s5_model import binary_operator

    gates = problem.given["decay"].expand(problem.case.shape).to(problem.case.dtype)
    x, gates, grad = (tensor.transpose(0, 1).contiguous() for tensor in (problem.x, gates, problem.grad))

    def run(x: Tensor, gates: Tensor) -> Tensor:
        h: Tensor = associative_scan(binary_operator, (gates, x))[1]
        return h

    return torch_contestant(run, [x, gates], grad, to_states=lambda h: h.transpose(0, 1))


PEER = Peer(
    name="S5",
    prepare={"linear_scan": _prepare, "gated_scan": _prepare},
    modules=("s5",),
    install="s5-pytorch",
    dtypes=(torch.float32, torch.complex64),
)

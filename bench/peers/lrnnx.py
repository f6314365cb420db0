"""lrnnx: the selective-scan kernel behind its S5 and LRU layers, which wraps the recurrence in two dense products.

`exp(delta A) = decay` with delta = 1, and identities for B and C, (B, D, T), complex64. The package imports a compiled
extension, which needs nvcc to build.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cofm_triton.evidence.benchmark.contract import Contestant, Peer, Problem, Unsupported, torch_contestant


def _prepare(problem: Problem) -> Contestant:
    try:
        from lrnnx.ops.simplified_scan import simplified_scan_fn
    except (ImportError, OSError) as error:
        raise Unsupported(f"does not import: {error}") from error
    x, grad = problem.x.mT.contiguous(), problem.grad.mT.contiguous()
    rates = problem.given["decay"].log()
    identity = torch.eye(len(rates), dtype=x.dtype, device=x.device)
    delta = torch.ones_like(x.real)

    def run(x: Tensor, rates: Tensor) -> Tensor:
        h: Tensor = simplified_scan_fn(x, delta, rates, identity, identity, discretization="dirac")
        return h

    return torch_contestant(run, [x, rates], grad, to_states=lambda h: h.mT)


PEER = Peer(
    name="lrnnx",
    prepare={"linear_scan": _prepare},
    modules=("lrnnx",),
    install="lrnnx (needs nvcc)",
    dtypes=(torch.complex64,),
    same_work=False,
)

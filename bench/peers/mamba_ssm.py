"""mamba-ssm: its selective scan on a GPU, its reference loop on the CPU, reduced to one state per channel.

`exp(delta A) = decay` and `delta B u = x` with delta = B = C = 1, (B, D, T): its kernel reads delta for every step. The
package imports its compiled extension, which needs nvcc to build, even for the reference.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cofm_triton.evidence.benchmark.contract import Contestant, Peer, Problem, Unsupported, torch_contestant


def _prepare(problem: Problem) -> Contestant:
    try:
        from mamba_ssm.ops import selective_scan_interface as interface
    except (ImportError, OSError) as error:
        raise Unsupported(f"does not import: {error}") from error
    scan = interface.selective_scan_ref if problem.x.device.type == "cpu" else interface.selective_scan_fn
    x, grad = problem.x.mT.contiguous(), problem.grad.mT.contiguous()
    log_decay = problem.given["decay"].log().unsqueeze(1)
    ones, delta = torch.ones_like(log_decay), torch.ones_like(x)

    def run(x: Tensor, log_decay: Tensor) -> Tensor:
        return scan(x, delta, log_decay, ones, ones)

    return torch_contestant(run, [x, log_decay], grad, to_states=lambda h: h.mT)


PEER = Peer(
    name="mamba-ssm",
    prepare={"linear_scan": _prepare},
    modules=("mamba_ssm",),
    install="mamba-ssm (needs nvcc)",
    max_steps=2**14 if not torch.cuda.is_available() else None,
)

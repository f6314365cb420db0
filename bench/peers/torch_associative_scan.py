"""torch's generic `associative_scan`, eager. Gates and inputs share a dtype, so 16-bit inputs have a 16-bit state."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._higher_order_ops.associative_scan import associative_scan

from cofm_triton.evidence.benchmark.contract import Contestant, Peer, Problem, torch_contestant


def combine(early: tuple[Tensor, Tensor], late: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Two steps as one: `(a2, b2) after (a1, b1) = (a2 a1, a2 b1 + b2)`."""
    return late[0] * early[0], late[0] * early[1] + late[1]


def scan(x: Tensor, decay: Tensor) -> Tensor:
    """All states, (B, T, D)."""
    gates = decay.to(x.dtype).expand(x.shape)
    states: Tensor = associative_scan(combine, (gates, x), dim=1, combine_mode="generic")[1]
    return states


def _prepare(problem: Problem) -> Contestant:
    return torch_contestant(scan, [problem.x, problem.given["decay"]], problem.grad)


PEER = Peer(
    name="associative_scan",
    prepare={"linear_scan": _prepare, "gated_scan": _prepare},
    dtypes=(torch.float32, torch.bfloat16, torch.complex64),
)

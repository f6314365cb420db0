"""Our own fallback in PyTorch alone, for machines without numba."""

from __future__ import annotations

import torch

from cofm_triton.evidence.benchmark.contract import Contestant, Peer, ours
from cofm_triton.evidence.problem import Problem


def _prepare(problem: Problem) -> Contestant:
    return ours(problem, "torch")


PEER = Peer(
    name="cofm, no numba",
    prepare=dict.fromkeys(("linear_scan", "gated_scan", "rnn_scan", "dense_rnn"), _prepare),
    dtypes=(torch.float32, torch.bfloat16, torch.complex64),
)

"""Our own fallback in PyTorch alone, for machines without numba."""

from __future__ import annotations

import torch

from cofm_triton.evidence.benchmark.contract import Peer
from cofm_triton.evidence.benchmark.operators import dense_rnn, gated_scan, linear_scan, rnn_scan

PEER = Peer(
    name="cofm, no numba",
    prepare={
        "linear_scan": lambda problem: linear_scan.contestant(problem, "torch"),
        "gated_scan": lambda problem: gated_scan.contestant(problem, "torch"),
        "rnn_scan": lambda problem: rnn_scan.contestant(problem, "torch"),
        "dense_rnn": lambda problem: dense_rnn.contestant(problem, "torch"),
    },
    dtypes=(torch.float32, torch.bfloat16, torch.complex64),
)

"""`torch.nn.RNN` of the same width: what users have today, and more work: two products per step, dense and tanh."""

from __future__ import annotations

import torch

from cofm_triton.benchmark.contract import Contestant, Peer, Problem
from cofm_triton.benchmark.operators.stable_rnn import module_contestant


def _prepare(problem: Problem) -> Contestant:
    width = problem.case.shape[2]
    layer = torch.nn.RNN(width, width, batch_first=True, device=problem.x.device, dtype=problem.case.dtype)
    return module_contestant(problem, layer)


PEER = Peer(
    name="nn.RNN",
    prepare=dict.fromkeys(("linear_scan", "rnn_scan", "dense_rnn", "stable_rnn"), _prepare),
    max_steps=2**16,
    same_work=False,
)

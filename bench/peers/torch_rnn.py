"""`torch.nn.RNN` of the same width: what users have today, and more work: two products per step, dense and tanh.

On a GPU this is cuDNN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cofm_triton.evidence.benchmark.contract import Contestant, Peer, Problem
from cofm_triton.evidence.benchmark.operators.stable_rnn import module_contestant


def _prepare(problem: Problem) -> Contestant:
    width = problem.case.shape[2]
    layer = torch.nn.RNN(width, width, batch_first=True, device=problem.x.device, dtype=problem.case.dtype)
    return module_contestant(problem, layer)


class _WithReadOut(torch.nn.Module):
    """`nn.RNN` of one input, read out by a linear layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rnn = torch.nn.RNN(1, width, batch_first=True)
        self.readout = torch.nn.Linear(width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """The output alone, in a tuple as layers return it."""
        return (self.readout(self.rnn(x)[0]),)


def _prepare_readout(problem: Problem) -> Contestant:
    return module_contestant(problem, _WithReadOut(problem.case.shape[2]).to(problem.x))


PEER = Peer(
    name="nn.RNN",
    prepare={
        **dict.fromkeys(("linear_scan", "rnn_scan", "dense_rnn", "stable_rnn"), _prepare),
        "rnn_readout": _prepare_readout,
    },
    max_steps=2**16,
    same_work=False,
)

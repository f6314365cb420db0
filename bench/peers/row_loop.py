"""A Python loop over the rows; the state is as wide as ours.

Rows come from `unbind`: with `x[:, t]` every row's gradient would be a tensor of the whole sequence's size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cofm_triton.evidence.benchmark.contract import Contestant, Peer, Problem, torch_contestant
from cofm_triton.evidence.benchmark.operators import dense_rnn


def _linear_scan(x: Tensor, decay: Tensor) -> Tensor:
    gates = decay.unbind(1) if decay.dim() == 3 else [decay] * x.shape[1]
    h = decay.new_zeros(x.shape[0], x.shape[2])
    states = []
    for row, gate in zip(x.unbind(1), gates, strict=True):
        h = gate * h + row
        states.append(h)
    return torch.stack(states, 1).to(x.dtype)


def _rnn_scan(x: Tensor, rate: Tensor) -> Tensor:
    h = rate.new_zeros(x.shape[0], x.shape[2])
    states = []
    for row in x.unbind(1):
        h = h + torch.nn.functional.hardtanh(row - rate * h)
        states.append(h)
    return torch.stack(states, 1).to(x.dtype)


def _dense_rnn(x: Tensor, weight: Tensor) -> Tensor:
    h = weight.new_zeros(x.shape[0], x.shape[2])
    states = []
    for row in x.unbind(1):
        h = h + dense_rnn.OPTIONS["dt"] * torch.tanh(row - h @ weight.T)
        states.append(h)
    return torch.stack(states, 1).to(x.dtype)


def linear(problem: Problem) -> Contestant:
    """Of a linear recurrence."""
    return torch_contestant(_linear_scan, [problem.x, problem.given["decay"]], problem.grad)


def nonlinear(problem: Problem) -> Contestant:
    """Of the nonlinear one."""
    return torch_contestant(_rnn_scan, [problem.x, problem.given["rate"]], problem.grad)


def dense(problem: Problem) -> Contestant:
    """Of the dense one."""
    return torch_contestant(_dense_rnn, [problem.x, problem.given["weight"]], problem.grad)


PEER = Peer(
    name="row loop",
    prepare={"linear_scan": linear, "gated_scan": linear, "rnn_scan": nonlinear, "dense_rnn": dense},
    dtypes=(torch.float32, torch.bfloat16, torch.complex64),
    max_steps=2**16,
)

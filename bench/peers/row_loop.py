"""A Python loop over the rows; the state is as wide as ours.

Rows come from `unbind`: with `x[:, t]` every row's gradient would be a tensor of the whole sequence's size.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from cofm_triton.evidence.benchmark.contract import Contestant, Peer, torch_contestant
from cofm_triton.evidence.problem import Problem

from .eager_gates import with_gates


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


def _dense_rnn(x: Tensor, weight: Tensor, dt: float) -> Tensor:
    h = weight.new_zeros(x.shape[0], x.shape[2])
    states = []
    for row in x.unbind(1):
        h = h + dt * torch.tanh(row - h @ weight.T)
        states.append(h)
    return torch.stack(states, 1).to(x.dtype)


def linear(problem: Problem) -> Contestant:
    """Of a linear recurrence."""
    return torch_contestant(_linear_scan, [problem.x, problem["decay"]], problem.grad)


def nonlinear(problem: Problem) -> Contestant:
    """Of the nonlinear one."""
    return torch_contestant(_rnn_scan, [problem.x, problem["rate"]], problem.grad)


def dense(problem: Problem) -> Contestant:
    """Of the dense one."""
    return torch_contestant(partial(_dense_rnn, dt=problem.options["dt"]), [problem.x, problem["weight"]], problem.grad)


def gated(problem: Problem) -> Contestant:
    """Of the gated linear one."""
    return with_gates(_linear_scan, problem)


PEER = Peer(
    name="row loop",
    prepare={
        "linear_scan": linear,
        "gated_scan": linear,
        "rnn_scan": nonlinear,
        "dense_rnn": dense,
        "gated_rnn": gated,
    },
    dtypes=(torch.float32, torch.bfloat16, torch.complex64),
    max_steps=2**16,
)

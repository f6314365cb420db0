"""`cofm.StableRNN` as it comes, one layer of D units on D features: a product, the scan of turning pairs and relu."""

from __future__ import annotations

import torch

import cofm_triton as cofm
from cofm_triton.evidence.benchmark.contract import Case, Contestant, Operator, Problem, torch_contestant
from cofm_triton.evidence.benchmark.operators.inputs import randn


def make(case: Case, device: torch.device) -> Problem:
    """x and the gradient of the output, both (B, T, D)."""
    return Problem(case, randn(case, device, 0), randn(case, device, 1))


def module_contestant(problem: Problem, layer: torch.nn.Module) -> Contestant:
    """Any layer that is called as `torch.nn.RNN` is, with `batch_first=True`."""
    return torch_contestant(lambda x: layer(x)[0], [problem.x], problem.grad, parameters=list(layer.parameters()))


def _ours(problem: Problem) -> Contestant:
    width = problem.case.shape[2]
    layer = cofm.StableRNN(width, width, batch_first=True, device=problem.x.device, dtype=problem.case.dtype)
    return module_contestant(problem, layer)


OPERATOR = Operator(
    name="stable_rnn",
    studies={"shapes": ([(8, 1024, 64), (32, 256, 256)], [torch.float32])},
    make=make,
    scales=True,
    ours=_ours,
)

"""`cofm_triton.StableRNN` as it comes, a layer of D units on D features: product, scan of turning pairs, relu."""

from __future__ import annotations

import torch

from cofm_triton.evidence.benchmark.contract import Contestant, torch_contestant
from cofm_triton.evidence.case import Case
from cofm_triton.evidence.draws import randn
from cofm_triton.evidence.operator import Benchmark, Operator
from cofm_triton.evidence.problem import Problem
from cofm_triton.layers.stable_rnn import StableRNN


def timed(case: Case, device: torch.device) -> Problem:
    """x and the gradient of the output, both (B, T, D)."""
    return Problem(OPERATOR, {"x": randn(case, device, 0)}, {"grad_h": randn(case, device, 1)})


def module_contestant(problem: Problem, layer: torch.nn.Module) -> Contestant:
    """Any layer that is called as `torch.nn.RNN` is, with `batch_first=True`."""
    return torch_contestant(lambda x: layer(x)[0], [problem.x], problem.grad, parameters=list(layer.parameters()))


def _ours(problem: Problem) -> Contestant:
    width = problem.x.shape[2]
    layer = StableRNN(width, width, batch_first=True, device=problem.x.device, dtype=problem.x.dtype)
    return module_contestant(problem, layer)


OPERATOR = Operator(
    name="stable_rnn",
    function=StableRNN,
    benchmark=Benchmark(
        studies={"shapes": ([(8, 1024, 64), (32, 256, 256)], [torch.float32])},
        draw=timed,
        ours=_ours,
        scales=True,
    ),
)

"""`cofm.dense_rnn` with tanh, `h[t] = h[t-1] + 0.5 tanh(x[t] - weight @ h[t-1])`; given: weight (D, D)."""

from __future__ import annotations

from typing import Any

import torch

import cofm_triton as cofm
from cofm_triton.evidence.benchmark.contract import Case, Contestant, Operator, Problem, torch_contestant
from cofm_triton.evidence.benchmark.operators.inputs import randn
from cofm_triton.evidence.tolerance import dense_rnn_bounds
from cofm_triton.ops.dense_rnn import traffic

OPTIONS: dict[str, Any] = {"dt": 0.5, "nonlinearity": "tanh"}


def make(case: Case, device: torch.device) -> Problem:
    """x, a matrix whose states neither vanish nor grow, and the gradient of h."""
    width = case.shape[2]
    generator = torch.Generator(device).manual_seed(2)
    coupling = torch.randn(width, width, dtype=case.dtype, device=device, generator=generator) / (3 * width**0.5)
    weight = 0.3 * torch.eye(width, dtype=case.dtype, device=device) + coupling
    return Problem(case, randn(case, device, 0), randn(case, device, 1), {"weight": weight})


def contestant(problem: Problem, backend: str | None = None) -> Contestant:
    """`cofm.dense_rnn` on one of its backends."""
    return torch_contestant(
        lambda x, weight: cofm.dense_rnn(x, weight, **OPTIONS, backend=backend)[0],
        [problem.x, problem.given["weight"]],
        problem.grad,
    )


OPERATOR = Operator(
    name="dense_rnn",
    studies={"shapes": ([(16, 512, width) for width in (16, 32, 64, 128, 256, 512)], [torch.float32])},
    make=make,
    scales=True,
    ours=contestant,
    traffic=lambda case, backward: traffic(*case.shape, case.dtype.itemsize, backward=backward),
    bounds=lambda problem: dense_rnn_bounds(problem.x, problem.given["weight"], grad_h=problem.grad, **OPTIONS),
)

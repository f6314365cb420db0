"""RG-LRU's gates in PyTorch, as models write them, and a scan of decays (B, T, D) behind them: here our own.

Other libraries' scans get their gates from `with_gates` too: none of them forms gates inside.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cofm_triton import linear_scan
from cofm_triton.evidence.benchmark.contract import Contestant, Peer, torch_contestant
from cofm_triton.evidence.problem import Problem

Scan = Callable[[Tensor, Tensor], Tensor]
Form = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def with_gates(scan: Scan, problem: Problem, *, form: Form | None = None) -> Contestant:
    """A contestant from `scan(values, decays)`; `form` makes them, `gates` when None."""
    made = gates if form is None else form

    def run(x: Tensor, rate: Tensor, p: Tensor, q: Tensor) -> Tensor:
        decay, values = made(x, rate, p, q)
        return scan(values, decay)

    leaves = [problem[name] for name in ("x", "rate", "rate_logit", "input_logit")]
    return torch_contestant(run, leaves, problem.grad)


def log_gates(x: Tensor, rate: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of decays, and values, of arXiv 2402.19427, eq 1-4."""
    exponent = rate * torch.sigmoid(p)
    return -exponent, torch.sqrt(-torch.expm1(-2 * exponent)) * (torch.sigmoid(q) * x)


def gates(x: Tensor, rate: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Decays and values."""
    logs, values = log_gates(x, rate, p, q)
    return torch.exp(logs), values


def ours(values: Tensor, decay: Tensor) -> Tensor:
    """Our scan of gates."""
    return linear_scan(values, decay)[0]


PEER = Peer(
    name="eager gates, our scan",
    prepare={"gated_rnn": lambda problem: with_gates(ours, problem)},
    dtypes=(torch.float32,),
)

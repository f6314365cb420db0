"""RG-LRU's gates under `torch.compile`, which fuses them, and our scan of decays (B, T, D) behind them."""

from __future__ import annotations

import torch

from cofm_triton.evidence.benchmark.contract import Contestant, Peer
from cofm_triton.evidence.problem import Problem

from .eager_gates import gates, ours, with_gates


def _prepare(problem: Problem) -> Contestant:
    torch.compiler.reset()  # otherwise shapes seen before count towards the limit of recompilations
    return with_gates(ours, problem, form=torch.compile(gates, dynamic=False))


PEER = Peer(
    name="compiled gates, our scan",
    prepare={"gated_rnn": _prepare},
    dtypes=(torch.float32,),
    slow_to_compile=True,
)

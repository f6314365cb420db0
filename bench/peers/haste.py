"""haste: IndRNN, `h = tanh(W x + u h + b)`, a nonlinear diagonal recurrence behind a product; CUDA alone."""

from __future__ import annotations

import torch

from cofm_triton.evidence.benchmark.contract import Contestant, Peer, Problem, Unsupported
from cofm_triton.evidence.benchmark.operators.stable_rnn import module_contestant


def _prepare(problem: Problem) -> Contestant:
    try:
        from haste_pytorch import IndRNN
    except (ImportError, OSError) as error:
        raise Unsupported(f"does not import: {error}") from error
    width = problem.case.shape[2]
    return module_contestant(problem, IndRNN(width, width, batch_first=True).to(problem.x))


PEER = Peer(
    name="haste IndRNN",
    prepare={"rnn_scan": _prepare, "stable_rnn": _prepare},
    modules=("haste_pytorch",),
    install="haste_pytorch (needs nvcc)",
    dtypes=(torch.float32,),
    same_work=False,
    devices=("cuda",),
)

"""SRU: a gated diagonal recurrence with three products before it; its CUDA kernel on a GPU, loops elsewhere."""

from __future__ import annotations

import warnings

import torch

from cofm_triton.evidence.benchmark.contract import Contestant, Peer, Problem, torch_contestant


def _prepare(problem: Problem) -> Contestant:
    from sru import SRU

    width = problem.case.shape[2]
    layer = SRU(width, width, num_layers=1).to(problem.x)
    warnings.filterwarnings("ignore", message="Running SRU on CPU")
    x, grad = (tensor.transpose(0, 1).contiguous() for tensor in (problem.x, problem.grad))
    used = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    return torch_contestant(lambda x: layer(x)[0], [x], grad, parameters=used, to_states=lambda h: h.transpose(0, 1))


PEER = Peer(
    name="SRU",
    prepare=dict.fromkeys(("rnn_scan", "stable_rnn"), _prepare),
    modules=("sru",),
    install="sru",
    dtypes=(torch.float32,),
    max_steps=None if torch.cuda.is_available() else 2**12,
    same_work=False,
)

"""accelerated-scan: its Triton kernels on a GPU, its PyTorch reference on the CPU.

Gates are stored for every step, (B, C, T) like the tokens; storing them for a time-invariant decay is not timed. The
state is in the tensors' dtype.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cofm_triton.evidence.benchmark.contract import Contestant, Peer, torch_contestant
from cofm_triton.evidence.problem import Problem

from .eager_gates import with_gates


def _scan(problem: Problem) -> Callable[[Tensor, Tensor], Tensor]:
    if not problem.on_gpu:
        from accelerated_scan.ref import scan
    elif problem.x.dtype.is_complex:
        from accelerated_scan.complex import scan
    else:
        from accelerated_scan.scalar import scan
    function: Callable[[Tensor, Tensor], Tensor] = scan
    return function


def _prepare(problem: Problem) -> Contestant:
    scan = _scan(problem)
    gates = problem["decay"].expand(problem.x.shape).to(problem.x.dtype)
    x, gates, grad = (tensor.mT.contiguous() for tensor in (problem.x, gates, problem.grad))
    return torch_contestant(lambda x, gates: scan(gates, x), [x, gates], grad, to_states=lambda h: h.mT)


def _prepare_gates(problem: Problem) -> Contestant:
    scan = _scan(problem)
    return with_gates(lambda values, decay: scan(decay.mT.contiguous(), values.mT.contiguous()).mT, problem)


PEER = Peer(
    name="accelerated-scan",
    prepare={"linear_scan": _prepare, "gated_scan": _prepare, "gated_rnn": _prepare_gates},
    modules=("accelerated_scan",),
    install="accelerated-scan",
    in_triton=True,
    dtypes=(torch.float32, torch.bfloat16, torch.complex64),
)

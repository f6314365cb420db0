"""flash-linear-attention's HGRN, step after step: its fused Triton kernel on a GPU, its definition elsewhere.

Gates are stored for every step, as logarithms, (B, T, D); taking the logarithm is not timed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cofm_triton.evidence.benchmark.contract import Contestant, Peer, Unsupported, torch_contestant
from cofm_triton.evidence.problem import Problem


def prepare(problem: Problem, name: str) -> Contestant:
    """A contestant from one of its functions `(x, log_gates) -> (h, last)`, by name."""
    try:
        import fla.ops.hgrn
        import fla.ops.hgrn.naive
    except ImportError as error:
        raise Unsupported(f"does not import: {error}") from error
    module = fla.ops.hgrn if hasattr(fla.ops.hgrn, name) else fla.ops.hgrn.naive
    scan: Callable[..., Any] = getattr(module, name)
    decay = problem["decay"]
    log_gates = decay.log().expand(problem.x.shape).to(problem.x.dtype).contiguous()

    def run(x: Tensor, log_gates: Tensor) -> Tensor:
        h: Tensor = scan(x, log_gates)[0]
        return h

    return torch_contestant(run, [problem.x, log_gates], problem.grad)


def _prepare(problem: Problem) -> Contestant:
    return prepare(problem, "fused_recurrent_hgrn" if problem.on_gpu else "naive_recurrent_hgrn")


PEER = Peer(
    name="fla HGRN",
    prepare={"linear_scan": _prepare, "gated_scan": _prepare},
    modules=("fla",),
    install="fla-core",
    in_triton=True,
    # Its definition writes every row into one tensor: a gradient of the whole sequence's size per step.
    max_steps=None if torch.cuda.is_available() else 2**12,
)

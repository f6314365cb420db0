"""flash-linear-attention's HGRN, step after step: its fused Triton kernel on a GPU, its definition elsewhere.

Decays that are given are stored for every step, as logarithms, (B, T, D); taking the logarithm is not timed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cofm_triton.evidence.benchmark.contract import Contestant, Peer, Unsupported, torch_contestant
from cofm_triton.evidence.problem import Problem

from .eager_gates import log_gates, with_gates


def _scan(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """One of its functions `(x, log_gates) -> (h, last)`, by name, without the last state."""
    try:
        import fla.ops.hgrn
        import fla.ops.hgrn.naive
    except ImportError as error:
        raise Unsupported(f"does not import: {error}") from error
    module = fla.ops.hgrn if hasattr(fla.ops.hgrn, name) else fla.ops.hgrn.naive
    function: Callable[..., Any] = getattr(module, name)

    def scan(x: Tensor, log_gates: Tensor) -> Tensor:
        h: Tensor = function(x, log_gates)[0]
        return h

    return scan


def prepare(problem: Problem, name: str) -> Contestant:
    """A contestant from one of its functions."""
    logs = problem["decay"].log().expand(problem.x.shape).to(problem.x.dtype).contiguous()
    return torch_contestant(_scan(name), [problem.x, logs], problem.grad)


def prepare_gates(problem: Problem, name: str) -> Contestant:
    """The same behind gates in PyTorch, which make the logarithms."""
    return with_gates(_scan(name), problem, form=log_gates)


def _name(problem: Problem) -> str:
    return "fused_recurrent_hgrn" if problem.on_gpu else "naive_recurrent_hgrn"


PEER = Peer(
    name="fla HGRN",
    prepare={
        "linear_scan": lambda problem: prepare(problem, _name(problem)),
        "gated_scan": lambda problem: prepare(problem, _name(problem)),
        "gated_rnn": lambda problem: prepare_gates(problem, _name(problem)),
    },
    modules=("fla",),
    install="fla-core",
    in_triton=True,
    # Its definition writes every row into one tensor: a gradient of the whole sequence's size per step.
    max_steps=None if torch.cuda.is_available() else 2**12,
)

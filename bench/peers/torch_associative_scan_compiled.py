"""torch's generic `associative_scan` under `torch.compile`, where that compiles; compilation is not timed.

Every length compiles anew, for the better part of a minute: scans of given gates are left to the eager peer. RG-LRU's
gates are compiled together with the scan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException

from cofm_triton.evidence.benchmark.contract import Contestant, Peer, Unsupported, torch_contestant
from cofm_triton.evidence.problem import Problem

from .eager_gates import gates
from .torch_associative_scan import scan


def _prepare(problem: Problem) -> Contestant:
    return _explained(torch_contestant(_compiled(scan), [problem.x, problem["decay"]], problem.grad))


def _prepare_gates(problem: Problem) -> Contestant:
    def whole(x: Tensor, rate: Tensor, p: Tensor, q: Tensor) -> Tensor:
        decay, values = gates(x, rate, p, q)
        return scan(values, decay)

    leaves = [problem[name] for name in ("x", "rate", "rate_logit", "input_logit")]
    return _explained(torch_contestant(_compiled(whole), leaves, problem.grad))


def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    torch.compiler.reset()  # otherwise shapes seen before count towards the limit of recompilations
    compiled: Callable[..., Tensor] = torch.compile(function, fullgraph=True, dynamic=False)
    return compiled


def _explained(contestant: Contestant) -> Contestant:
    both = contestant.forward_backward
    return replace(
        contestant, forward=_explain(contestant.forward), forward_backward=None if both is None else _explain(both)
    )


def _explain(run: Callable[[], Any]) -> Callable[[], Any]:
    """`run`, with the compiler's failure as the reason not to be timed."""

    def explained() -> Any:
        try:
            return run()
        except (BackendCompilerFailed, TorchDynamoException, NotImplementedError) as error:
            reason = next(line for line in str(error).splitlines() if line.strip())
            raise Unsupported(f"does not compile: {reason}") from error

    return explained


PEER = Peer(
    name="compiled",
    prepare={"linear_scan": _prepare, "gated_rnn": _prepare_gates},
    slow_to_compile=True,
)

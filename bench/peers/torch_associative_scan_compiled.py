"""torch's generic `associative_scan` under `torch.compile`, where that compiles; compilation is not timed.

Every length compiles anew, for the better part of a minute, so gated scans are left to the eager peer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException

from cofm_triton.evidence.benchmark.contract import Contestant, Peer, Problem, Unsupported, torch_contestant

from .torch_associative_scan import scan


def _prepare(problem: Problem) -> Contestant:
    torch.compiler.reset()  # otherwise shapes seen before count towards the limit of recompilations
    compiled = torch.compile(scan, fullgraph=True, dynamic=False)
    contestant = torch_contestant(compiled, [problem.x, problem.given["decay"]], problem.grad)
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
    prepare={"linear_scan": _prepare},
    slow_to_compile=True,
)

"""flash-linear-attention's HGRN in chunks of time side by side: Triton, for GPUs alone. Gates as in `fla_hgrn.py`."""

from __future__ import annotations

from cofm_triton.evidence.benchmark.contract import Contestant, Peer
from cofm_triton.evidence.problem import Problem

from .fla_hgrn import prepare, prepare_gates


def _prepare(problem: Problem) -> Contestant:
    return prepare(problem, "chunk_hgrn")


def _prepare_gates(problem: Problem) -> Contestant:
    return prepare_gates(problem, "chunk_hgrn")


PEER = Peer(
    name="fla HGRN, chunks",
    prepare={"linear_scan": _prepare, "gated_scan": _prepare, "gated_rnn": _prepare_gates},
    modules=("fla",),
    install="fla-core",
    in_triton=True,
    devices=("cuda",),
)

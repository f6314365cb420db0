"""Others who can do the work, one file per peer: found by listing this folder, left out with a reason when absent."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules

from ..contract import Case, Peer


def peers() -> list[Peer]:
    """The `PEER` of every file here, installed or not, in the order of the file names."""
    return [import_module(f"{__name__}.{name}").PEER for _, name, _ in iter_modules(__path__)]


def missing(peer: Peer) -> str | None:
    """Why a peer cannot run at all; None when it can."""
    absent = [module for module in peer.modules if find_spec(module) is None]
    return f"not installed: pip install {peer.install}" if absent else None


def declines(peer: Peer, case: Case) -> str | None:
    """Why a peer that implements the case's operator is not timed on it; None when it is."""
    if case.dtype not in peer.dtypes:
        return f"no {case.dtype_name}"
    if peer.max_steps is not None and case.shape[1] > peer.max_steps:
        return f"T > {peer.max_steps:,} takes minutes a run"
    return None

"""Others who can do the work: adapters in `bench/peers/` of a checkout, one file per peer, left out when absent.

They are not installed with the package, since they belong to whoever compares. The folder is loaded as a package of a
name of its own, so that nothing has to be on `sys.path`.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import iter_modules

import torch

from cofm_triton.evidence.benchmark.contract import Case, Peer

FOLDER = Path(__file__).parents[3] / "bench" / "peers"
_PACKAGE = "cofm_triton_bench_peers"


@cache
def peers() -> list[Peer]:
    """The `PEER` of every file in the folder, installed or not, in the order of the file names; none without it."""
    source = FOLDER / "__init__.py"
    spec = spec_from_file_location(_PACKAGE, source, submodule_search_locations=[str(FOLDER)])
    if not source.is_file() or spec is None or spec.loader is None:
        return []
    package = sys.modules[_PACKAGE] = module_from_spec(spec)
    spec.loader.exec_module(package)
    return [import_module(f"{_PACKAGE}.{name}").PEER for _, name, _ in iter_modules(package.__path__)]


def missing(peer: Peer) -> str | None:
    """Why a peer cannot run at all; None when it can."""
    absent = [module for module in peer.modules if find_spec(module) is None]
    return f"not installed: pip install {peer.install}" if absent else None


def declines(peer: Peer, case: Case, device: torch.device) -> str | None:
    """Why a peer that implements the case's operator is not timed on it; None when it is."""
    if device.type not in peer.devices:
        return f"needs {' or '.join(peer.devices)}"
    if case.dtype not in peer.dtypes:
        return f"no {case.dtype_name}"
    if peer.max_steps is not None and case.shape[1] > peer.max_steps:
        return f"T > {peer.max_steps:,} takes minutes a run"
    return None

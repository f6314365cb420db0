"""Host time, launches and PyTorch operations of every call, in the process whose GPU is a stub.

`python -m cofm_triton.evidence.host.measure` prints them as JSON; `report.py` runs that and makes the table.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cofm_triton.evidence.benchmark.contract import Unsupported
from cofm_triton.evidence.host import ROUNDS
from cofm_triton.evidence.host.calls import calls
from cofm_triton.evidence.host.stub_driver import StubGPU
from cofm_triton.ops import derivatives

WARM_UPS = 20
# What allocates or looks, and launches nothing.
_FREE = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "detach", "_unsafe_view")


class _Counter(TorchDispatchMode):
    """Operations that PyTorch would launch on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not (func.is_view or name in _FREE or func.namespace == "cofm_triton"):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def measure(chosen: str, rounds: int) -> list[dict[str, Any]]:
    """One row for every pass of every call.

    Args:
        chosen: part of the names of calls.
        rounds: timed calls of each.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        gpu = StubGPU(Path(folder))
        for call in calls():
            if chosen not in call.name:
                continue
            row: dict[str, Any] = dict(name=call.name, shape=call.shape)
            try:
                passes = call.prepare().passes()
                rows += [dict(row, **_timed(gpu, name, run, rounds)) for name, run in passes.items()]
            except Exception as reason:
                if not (call.is_peer or isinstance(reason, Unsupported)):
                    raise
                rows.append(dict(row, left_out=str(reason)))
    return rows


def _timed(gpu: StubGPU, name: str, run: Callable[[], Any], rounds: int) -> dict[str, Any]:
    for _ in range(WARM_UPS):
        run()
    before = gpu.launches()
    with _unseen(), _Counter() as counter:
        run()
    launches = gpu.launches() - before
    times = []
    gc.collect()
    gc.disable()
    for _ in range(rounds):
        start = perf_counter()
        result = run()
        times.append(perf_counter() - start)
        del result
    gc.enable()
    operations = counter.names
    return dict(pass_name=name, min=min(times), median=median(times), launches=launches, operations=len(operations))


class _unseen:
    """Operators are called as they are while nobody looks, past the dispatcher, although the counter does."""

    def __enter__(self) -> None:
        self._modes = derivatives._modes
        derivatives._modes = lambda: 0

    def __exit__(self, *_: object) -> None:
        derivatives._modes = self._modes


if __name__ == "__main__":
    torch.manual_seed(0)
    wanted, count = sys.argv[1:] or ("", str(ROUNDS))
    print(json.dumps(measure(wanted, int(count))))

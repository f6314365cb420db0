"""Processes that run test cases together: started once, as copies of one that has imported all they need.

A case is a function of a module beside this one. It is called in every process, with a mesh of one dimension whose
ranks take part, and asserts what it has to; the processes that do not take part skip it.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from multiprocessing.connection import Connection, wait
from typing import Any
from unittest.mock import patch

RANKS = 4
CASES = ["rank_cases", "sharded_cases"]
PATIENCE = 120  # seconds, after which a case counts as hanging


class RankPool:
    """`RANKS` processes of one gloo group, started with the first case, and again after a failure or an end."""

    def __init__(self) -> None:
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def run(self, case: Callable[..., None], ranks: int, **arguments: Any) -> None:
        """Call `case(mesh, **arguments)` on the first ranks; raises what any of them raises."""
        if not all(process.is_alive() for process in self._processes):
            self.close()  # whatever ended one between two cases, the next case is not to blame
        if not self._processes:
            self._start()
        for pipe in self._pipes:
            pipe.send((case.__module__, case.__name__, ranks, arguments))
        waiting = set(self._pipes)
        while waiting:
            ready = wait(list(waiting), PATIENCE)
            failures = [failure for pipe in ready if (failure := self._answer(pipe)) is not None]
            if failures or not ready:
                self.close()  # the others may wait for a message that does not come
                raise AssertionError("\n".join(failures) or f"no answer in {PATIENCE} s")
            waiting -= set(ready)

    def _answer(self, pipe: Any) -> str | None:
        try:
            answer: str | None = pipe.recv()
        except EOFError:
            return "a process has ended"
        return answer

    def _start(self) -> None:
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload(CASES)
        self._folder = tempfile.TemporaryDirectory()
        store = f"{self._folder.name}/store"
        for rank in range(RANKS):
            ours, theirs = server.Pipe()
            process = server.Process(target=serve, args=(rank, store, theirs), daemon=True)
            with patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):  # where the first one finds the cases
                process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)

    def close(self) -> None:
        """End all processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.kill()
            process.join()
        if self._folder is not None:
            self._folder.cleanup()
        self._processes, self._pipes, self._folder = [], [], None


def serve(rank: int, store: str, pipe: Any) -> None:
    """Run cases until the pipe ends."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import DeviceMesh

    torch.set_num_threads(1)
    patience = timedelta(seconds=PATIENCE)
    dist.init_process_group("gloo", f"file://{store}", patience, RANKS, rank)
    meshes: dict[int, Any] = {}
    while True:
        try:
            module, name, ranks, arguments = pipe.recv()
        except EOFError:
            return
        try:
            if ranks not in meshes:
                meshes[ranks] = DeviceMesh("cpu", list(range(ranks)), mesh_dim_names=("time",))
            torch.manual_seed(0)
            if rank < ranks:
                getattr(import_module(module), name)(meshes[ranks], **arguments)
            pipe.send(None)
        except BaseException:
            pipe.send(f"rank {rank}:\n{traceback.format_exc()}")

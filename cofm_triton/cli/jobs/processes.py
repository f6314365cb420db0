"""The processes of one job, as `torchrun` starts them; one process without it.

    torchrun --nproc-per-node 4 -m cofm_triton sweep ...

Processes talk through `torch.distributed` (nccl between GPUs, gloo otherwise). They exchange little: which blocks are
finished, and blocks that another machine has computed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

_Result = TypeVar("_Result")

_PATIENCE = timedelta(days=7)  # processes wait for the slowest one, and a block may take hours


@dataclass(frozen=True)
class Processes:
    """This process among those of the job.

    Attributes:
        rank: number of this process.
        count: how many there are.
        local_rank: number of this process on its machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Processes:
        """What `torchrun` has put into the environment.

        Example:
            >>> Processes.of({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}).rank
            3
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        if not all(name in environment for name in names):
            return cls()
        return cls(*(int(environment[name]) for name in names))

    @property
    def is_first(self) -> bool:
        """Whether this process reports."""
        return self.rank == 0

    def device(self, kind: str) -> str:
        """The device of this process: processes of a machine share its GPUs evenly.

        Args:
            kind: "cpu" or "cuda".
        """
        if kind != "cuda":
            return kind
        import torch

        return f"cuda:{self.local_rank % torch.cuda.device_count()}"

    @contextmanager
    def joined(self, device: str) -> Iterator[None]:
        """Connect this process to the others for the length of a `with` block.

        Args:
            device: of this process.
        """
        if self.count == 1:
            yield
            return
        import torch
        import torch.distributed as dist

        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=_PATIENCE)
        try:
            yield
        finally:
            dist.destroy_process_group()

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank, in every process. Waits for all of them."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def in_turn(self, action: Callable[[], _Result]) -> _Result:
        """Let the processes do something one after the other. When it returns, all have done it."""
        results = []
        for rank in range(self.count):
            if rank == self.rank:
                results.append(action())
            self.gather(None)
        return results[0]

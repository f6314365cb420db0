"""Blocks of work: each is computed once, by any process, and kept in a file of its own.

A block's result depends on the job's settings alone. So a job gives the same bits in one process or many, in one run or
several. A job that was killed reads the blocks that it had finished.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cofm_triton.cli.jobs.processes import Processes
from cofm_triton.cli.options import UsageError
from cofm_triton.support.files import check_regular, write_bytes

if TYPE_CHECKING:
    from torch import Tensor

Result = dict[str, "Tensor"]


@dataclass(frozen=True)
class Block:
    """One block.

    Attributes:
        name: of its file; begins with a number and a hyphen, by which `ResultFolder` knows it.
        compute: gives its result, tensors on the CPU by name.
    """

    name: str
    compute: Callable[[], Mapping[str, Tensor]]


class BlockFiles:
    """The files of finished blocks of one job.

    Each carries the job, its block's name and a digest of its tensors. So a file that belongs to another job, has
    another's name or was changed is found out.

    Args:
        folder: where they lie; each machine may have its own.
        job: what identifies settings and models.
    """

    def __init__(self, folder: Path, job: str) -> None:
        self._folder, self._job = folder, job

    def path(self, name: str) -> Path:
        """Of a block."""
        return self._folder / f"{name}.safetensors"

    def finished(self, blocks: Sequence[Block]) -> set[str]:
        """Names of the blocks that are there."""
        present = {path.name for path in self._folder.iterdir()} if self._folder.is_dir() else set()
        return {block.name for block in blocks if self.path(block.name).name in present}

    def write(self, name: str, result: Mapping[str, Tensor]) -> None:
        """Keep a block's result."""
        from safetensors.torch import save

        tensors = {key: value.contiguous() for key, value in result.items()}
        mark = json.dumps([self._job, name, digest(tensors)])  # one entry: several have no fixed order in a file
        write_bytes(self.path(name), save(tensors, metadata={_MARK: mark}))

    def read(self, name: str) -> Result:
        """A block's result.

        Raises:
            UsageError: the file is damaged, or of another job or block.
        """
        from safetensors import SafetensorError, safe_open

        path = self.path(name)
        try:
            check_regular(path)
            with safe_open(path, framework="pt") as file:
                mark = (file.metadata() or {}).get(_MARK, "")
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dict)
        except (SafetensorError, OSError) as error:
            raise UsageError(f"{path} is damaged ({error}): {_REMEDY}") from None
        if mark != json.dumps([self._job, name, digest(tensors)]):
            raise UsageError(f"{path} is not what this job has written there: {_REMEDY}")
        return tensors


_MARK = "cofm_block"
_REMEDY = "remove it, and the next run computes it again"


def digest(tensors: Mapping[str, Tensor]) -> str:
    """A hash of names, dtypes, shapes and numbers, of any dtype: a strange file may hold what numpy does not know."""
    import torch

    found = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        found.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def run_blocks(
    blocks: Sequence[Block],
    files: BlockFiles,
    processes: Processes,
    on_block: Callable[[int, int], None],
) -> list[Result]:
    """Results of all blocks, in their order, in every process.

    Args:
        blocks: the same in every process, names distinct.
        files: of the job.
        processes: those that share the work.
        on_block: called as `on_block(finished blocks, blocks)`.

    Raises:
        UsageError: the file of a finished block is damaged, or of another job or block.
        ValueError: two blocks have one name.
    """
    if len({block.name for block in blocks}) < len(blocks):
        raise ValueError("two blocks have one name")  # and so one result
    mine = files.finished(blocks)
    results = {name: files.read(name) for name in mine}  # now: what is wrong should not be found after hours
    finished = mine.union(*processes.gather(mine))
    missing = [block for block in blocks if block.name not in finished]
    done = len(finished)
    on_block(done, len(blocks))
    for block in missing[processes.rank :: processes.count]:
        files.write(block.name, block.compute())
        done = max(done, len(files.finished(blocks)))
        on_block(done, len(blocks))
    _exchange(blocks, files, processes)
    on_block(len(blocks), len(blocks))
    return [results.get(block.name) or files.read(block.name) for block in blocks]


def _exchange(blocks: Sequence[Block], files: BlockFiles, processes: Processes) -> None:
    """Give every folder the blocks that were computed on other machines."""
    holds = processes.gather(files.finished(blocks))
    lacking = {block.name for block in blocks if any(block.name not in names for names in holds)}
    mine = {name for name in lacking if _owner(name, holds) == processes.rank}
    for results in processes.gather({name: files.path(name).read_bytes() for name in mine}):
        for name, data in results.items():
            if not files.path(name).exists():
                write_bytes(files.path(name), data)


def _owner(name: str, holds: Sequence[set[str]]) -> int:
    return next(rank for rank, names in enumerate(holds) if name in names)

"""Blocks of work: computed once, by whichever process, and kept in a file each.

A block's result is a function of the job's settings alone, so a job gives the same bits in one
process or many, at once or in several runs: what a killed job has finished is read, not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cofm_triton.cli.jobs.processes import Processes
from cofm_triton.cli.options import UsageError
from cofm_triton.support.files import write_bytes

if TYPE_CHECKING:
    from torch import Tensor

Result = dict[str, "Tensor"]


@dataclass(frozen=True)
class Block:
    """One block.

    Attributes:
        name: of its file.
        compute: gives its result, tensors on the CPU by name.
    """

    name: str
    compute: Callable[[], Mapping[str, Tensor]]


def run_blocks(
    blocks: Sequence[Block],
    folder: Path,
    processes: Processes,
    on_block: Callable[[int, int], None],
) -> list[Result]:
    """Results of all blocks, in their order, in every process.

    Args:
        blocks: the same in every process, names distinct.
        folder: where finished blocks are kept; each machine may have its own.
        processes: those that share the work.
        on_block: called as `on_block(finished blocks, blocks)`.

    Raises:
        UsageError: the file of a finished block is damaged.
    """
    finished = set[str]().union(*processes.gather(_finished(blocks, folder)))
    missing = [block for block in blocks if block.name not in finished]
    done = len(finished)
    on_block(done, len(blocks))
    for block in missing[processes.rank :: processes.count]:
        _write(folder, block.name, block.compute())
        done = max(done, len(_finished(blocks, folder)))
        on_block(done, len(blocks))
    _exchange(blocks, folder, processes)
    on_block(len(blocks), len(blocks))
    return [_read(folder, block.name) for block in blocks]


def _exchange(blocks: Sequence[Block], folder: Path, processes: Processes) -> None:
    """Give every folder the blocks that were computed on other machines."""
    holds = processes.gather(_finished(blocks, folder))
    lacking = {block.name for block in blocks if any(block.name not in names for names in holds)}
    mine = {name for name in lacking if _owner(name, holds) == processes.rank}
    for results in processes.gather({name: _path(folder, name).read_bytes() for name in mine}):
        for name, data in results.items():
            if not _path(folder, name).exists():
                write_bytes(_path(folder, name), data)


def _owner(name: str, holds: Sequence[set[str]]) -> int:
    return next(rank for rank, names in enumerate(holds) if name in names)


def _finished(blocks: Sequence[Block], folder: Path) -> set[str]:
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return {block.name for block in blocks if _path(folder, block.name).name in present}


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"


def _write(folder: Path, name: str, result: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save

    write_bytes(_path(folder, name), save({key: value.contiguous() for key, value in result.items()}))


def _read(folder: Path, name: str) -> Result:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = _path(folder, name)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UsageError(f"{path} is damaged ({error}): remove it, and the next run computes it again") from None

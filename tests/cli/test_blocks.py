"""Blocks of a job in several processes whose folders differ, as on machines without a common disk."""

import os
from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Thread
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from cofm_triton.cli.jobs.blocks import Block, BlockFiles, Result, run_blocks
from cofm_triton.cli.jobs.processes import Processes
from cofm_triton.cli.options import UsageError
from cofm_triton.support.files import PART


class Threads:
    """Threads in the role of processes."""

    def __init__(self, count: int) -> None:
        self.count, self._values, self._barrier = count, [None] * count, Barrier(count)

    def gather(self, rank: int, value: Any) -> list[Any]:
        self._values[rank] = value
        self._barrier.wait()
        values = list(self._values)
        self._barrier.wait()
        return values

    def run(self, action: Callable[[Processes], None]) -> None:
        shared = self

        class Member(Processes):
            def gather(self, value: Any) -> list[Any]:
                return shared.gather(self.rank, value)

        threads = [Thread(target=action, args=(Member(rank, self.count, 0),)) for rank in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def test_every_block_is_computed_once_and_known_everywhere(tmp_path: Path) -> None:
    computed: list[int] = []
    results: dict[int, list[Result]] = {}

    def block(index: int) -> Block:
        def compute() -> dict[str, torch.Tensor]:
            computed.append(index)
            return {"value": torch.tensor([index])}

        return Block(f"block-{index}", compute)

    blocks = [block(i) for i in range(7)]
    run_blocks(
        blocks[2:3], BlockFiles(tmp_path / "1", "job"), Processes(), lambda done, total: None
    )  # an earlier run on machine 1

    def act(processes: Processes) -> None:
        files = BlockFiles(tmp_path / str(processes.rank), "job")
        results[processes.rank] = run_blocks(blocks, files, processes, lambda done, total: None)

    Threads(3).run(act)
    assert sorted(computed) == list(range(7))
    for rank in range(3):
        assert [int(result["value"]) for result in results[rank]] == list(range(7))


def test_progress_ends_at_all_of_them(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    blocks = [Block(str(i), lambda: {"value": torch.zeros(1)}) for i in range(3)]
    run_blocks(blocks, BlockFiles(tmp_path, "job"), Processes(), lambda done, total: steps.append((done, total)))
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3), (3, 3)]


def test_a_damaged_block_is_named(tmp_path: Path) -> None:
    block = Block("block-0", lambda: {"value": torch.zeros(1)})
    run_blocks([block], BlockFiles(tmp_path, "job"), Processes(), lambda done, total: None)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UsageError, match=r"block-0\.safetensors is damaged .* remove it"):
        run_blocks([block], BlockFiles(tmp_path, "job"), Processes(), lambda done, total: None)


def test_a_pipe_in_the_place_of_a_block_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "0.safetensors")
    with pytest.raises(UsageError, match=r"0\.safetensors is damaged .*is no regular file"):
        run_blocks([Block("0", dict)], BlockFiles(tmp_path, "job"), Processes(), lambda done, total: None)


def test_two_blocks_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two blocks have one name"):
        run_blocks([Block("0", dict)] * 2, BlockFiles(tmp_path, "job"), Processes(), lambda done, total: None)


def swap(path: Path, files: BlockFiles) -> None:
    path.write_bytes(files.path("other").read_bytes())


def change(path: Path, files: BlockFiles) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")


def strip(path: Path, files: BlockFiles) -> None:
    save_file(load_file(path), path)


def copy(path: Path, files: BlockFiles) -> None:
    """From a job with other settings."""
    BlockFiles(path.parent, "another job").write("block", {"value": torch.zeros(1)})


def replace(path: Path, files: BlockFiles) -> None:
    """By numbers that numpy does not know."""
    save_file({"value": torch.zeros(1, dtype=torch.bfloat16)}, path)


@pytest.mark.parametrize("fault", [swap, change, strip, copy, replace])
def test_what_the_job_has_not_written_is_found_out(tmp_path: Path, fault: Callable[[Path, BlockFiles], None]) -> None:
    files = BlockFiles(tmp_path, "job")
    blocks = [Block("block", lambda: {"value": torch.zeros(1)}), Block("other", lambda: {"value": torch.ones(1)})]
    run_blocks(blocks, files, Processes(), lambda done, total: None)
    fault(files.path("block"), files)
    with pytest.raises(UsageError, match=r"block\.safetensors is not what this job has written there: remove it"):
        run_blocks(blocks, files, Processes(), lambda done, total: None)


class Interrupted:
    """In the role of `Path.write_bytes`: writes half of the data, then stops the process."""

    def __get__(self, path: Path, kind: type[Path]) -> Callable[[bytes], None]:
        def write(data: bytes) -> None:
            with path.open("wb") as file:
                file.write(data[: len(data) // 2])
            raise KeyboardInterrupt

        return write


class OfTwo(Processes):
    """One of two processes; the other one has computed the block "0", in a folder of its own."""

    elsewhere: ClassVar[Path]

    def gather(self, value: Any) -> list[Any]:
        return [value, {"0"} if isinstance(value, set) else {"0": self.elsewhere.read_bytes()}]


@pytest.mark.parametrize("processes", [Processes(), OfTwo(0, 2)], ids=["computed", "from elsewhere"])
@pytest.mark.parametrize("killed", [False, True])
def test_half_of_a_block_is_none(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, processes: Processes,
    killed: bool,
) -> None:  # fmt: skip
    blocks = [Block("0", lambda: {"value": torch.tensor([7])})]
    elsewhere = BlockFiles(tmp_path_factory.mktemp("elsewhere"), "job")
    elsewhere.write("0", blocks[0].compute())
    monkeypatch.setattr(OfTwo, "elsewhere", elsewhere.path("0"), raising=False)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", Interrupted())
        if killed:  # nothing is cleaned up
            patch.setattr(Path, "unlink", lambda path, missing_ok=False: None)
        with pytest.raises(KeyboardInterrupt):
            run_blocks(blocks, BlockFiles(tmp_path, "job"), processes, lambda done, total: None)
    left = list(tmp_path.iterdir())
    assert len(left) == killed and all(path.name.startswith(PART) for path in left)
    steps: list[int] = []
    results = run_blocks(blocks, BlockFiles(tmp_path, "job"), processes, lambda done, total: steps.append(done))
    assert int(results[0]["value"]) == 7
    assert steps == ([0, 1, 1] if processes.count == 1 else [1, 1])

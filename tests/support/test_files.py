import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cofm_triton.support.files import PART, atomic_path, check_regular, remove_leftovers, write_bytes, write_text

DIES_WRITING = """
import os, signal, sys
from cofm_triton.support.files import atomic_path
with atomic_path(sys.argv[1]) as part:
    part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_writes_whole_files_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "file.txt"
    write_text(path, "a\nβ\n")
    assert path.read_bytes() == "a\nβ\n".encode()
    write_bytes(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("exists", [False, True])
def test_interrupted_write_leaves_what_was_there(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "file.csv"
    if exists:
        path.write_text("old")

    def interrupted_write() -> None:
        with atomic_path(path) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_write()
    assert [p.read_text() for p in tmp_path.iterdir()] == (["old"] if exists else [])


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o027])
def test_part_keeps_suffix_and_is_as_readable_as_a_plain_file(
    tmp_path: Path, mask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(mask)
    try:
        with monkeypatch.context() as other_threads:  # theirs too, so it is never set
            other_threads.delattr(os, "umask")
            with atomic_path(tmp_path / "figure.svg") as part:
                assert part.suffix == ".svg"
                part.write_text("x")
        (tmp_path / "plain").write_text("x")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~mask}


def test_any_name_that_the_folder_takes(tmp_path: Path) -> None:
    name = "n" * 251 + ".txt"
    write_text(tmp_path / name, "x")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_a_killed_writer_left_goes_with_the_next_writing_of_the_same_file(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        command = [sys.executable, "-c", DIES_WRITING, str(tmp_path / name)]
        assert subprocess.run(command).returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(f"{PART}*"))) == 2
    write_text(tmp_path / "a.png", "whole")
    (left,) = tmp_path.glob(f"{PART}*")  # that of b.png
    remove_leftovers(tmp_path)
    assert not left.exists() and (tmp_path / "a.png").read_text() == "whole"


def test_two_writers_of_one_file_leave_each_other_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_path(path) as first:
        first.write_text("first")
        with atomic_path(path) as second:
            remove_leftovers(tmp_path)
            assert first.exists() and second.exists() and first != second
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_part_taken_for_a_leftover_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    lock = fcntl.flock
    removed: list[Any] = []

    def flock(handle: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX and not removed:
            removed.extend(tmp_path.iterdir())
            remove_leftovers(tmp_path)
        lock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    write_text(tmp_path / "a.txt", "whole")
    assert removed and [path.read_text() for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.parametrize("has_locks", [False, True])
def test_without_locks_leftovers_stay_and_files_are_written(
    tmp_path: Path, has_locks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, and on a file system that refuses them."""

    def refuse(handle: int, operation: int) -> None:
        raise OSError

    if has_locks:
        monkeypatch.setattr("fcntl.flock", refuse)
    else:
        monkeypatch.setattr("cofm_triton.support.files._LOCKS", False)
    left = tmp_path / f"{PART}left.txt"
    left.write_text("half")
    write_text(tmp_path / "a.txt", "whole")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [left.name, "a.txt"]


def test_contents_are_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_power(handle: int) -> None:
        assert not (tmp_path / "file").exists()
        raise OSError

    monkeypatch.setattr("os.fsync", without_power)
    with pytest.raises(OSError):
        write_bytes(tmp_path / "file", b"contents")
    assert not list(tmp_path.iterdir())


def test_what_is_no_file_is_found_before_it_is_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    check_regular(tmp_path / "file")
    check_regular(tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/null"):
        with pytest.raises(OSError, match="is no regular file"):
            check_regular(path)
    with pytest.raises(FileNotFoundError):
        check_regular(tmp_path / "absent")

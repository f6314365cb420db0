"""Files that are either whole or absent, whatever interrupts the writing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PART = ".part-"
"""How the names of unfinished files begin."""


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Path to write instead of `path`: it replaces `path` when the block succeeds, else vanishes.

    The file lies in the same folder, because only a rename within a file system is atomic, and
    keeps the suffix, because writers such as matplotlib take the format from it.

    Args:
        path: the file to make or replace; its folder is made when missing.

    Raises:
        OSError: the folder cannot be made or written.

    Example:
        >>> with atomic_path("/dev/shm/example.txt") as part:
        ...     _ = part.write_text("whole")
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=PART, suffix=final.suffix, dir=final.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(0o666 & ~_umask())  # mkstemp makes private files
        _to_disk(part)  # a file system may keep the new name and lose the contents when power fails in between
        os.replace(part, final)
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a whole file atomically, see `atomic_path`."""
    with atomic_path(path) as part:
        part.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a whole UTF-8 file with Unix line ends atomically, see `atomic_path`."""
    write_bytes(path, text.encode())


def _to_disk(path: Path) -> None:
    """Return when what was written to a file is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask

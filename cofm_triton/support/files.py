"""Files that are whole or absent, whatever interrupts the writing.

A file is written under another name, `.part-...`, and then renamed. A killed process leaves its unfinished file behind;
the next writer of the same file removes it. A lock on the file tells whether its writer still lives: the lock ends with
the process.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl

    _LOCKS = True
except ImportError:  # Windows: nothing is locked, and leftovers stay
    _LOCKS = False

PART = ".part-"
"""How the names of unfinished files begin."""


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Path to write instead of `path`: it replaces `path` when the block succeeds, else vanishes.

    The temporary file lies in the same folder, because only a rename within a file system is atomic. It keeps the
    suffix, because writers such as matplotlib take the format from it. Unfinished files of killed processes are removed
    first.

    Args:
        path: the file to make or replace; its folder is made when missing.

    Raises:
        OSError: the folder cannot be made or written.

    Example:
        >>> with atomic_path("example.txt") as part:
        ...     _ = part.write_text("whole")
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    beginning = PART + hashlib.sha256(final.name.encode()).hexdigest()[:12]  # short, however long the name is
    remove_leftovers(final.parent, beginning)
    part, lock = _create(final.parent / beginning, final.suffix)
    try:
        yield part
        _to_disk(part)  # a file system may keep the new name and lose the contents when power fails in between
        os.replace(part, final)
    finally:
        part.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a whole file atomically, see `atomic_path`."""
    with atomic_path(path) as part:
        part.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a whole UTF-8 file with Unix line ends atomically, see `atomic_path`."""
    write_bytes(path, text.encode())


def write_table(path: str | os.PathLike[str], header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file atomically, see `atomic_path`. Reading its floating-point numbers gives the same ones."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    write_text(path, text.getvalue())


def check_regular(path: str | os.PathLike[str]) -> None:
    """See that a path leads to a file before it is opened: a pipe has readers wait, and a device may have no end.

    Raises:
        OSError: there is nothing, or something else.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f"{os.fspath(path)} is no regular file")


def remove_leftovers(folder: Path, beginning: str = PART) -> None:
    """Remove unfinished files of killed processes, and none that is being written.

    Args:
        folder: where to look, and not below.
        beginning: how their names begin.
    """
    if not _LOCKS:
        return
    for path in folder.glob(f"{beginning}*"):
        with suppress(OSError):  # it is gone, it is another user's, or another process holds its lock
            handle = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(handle)


def _create(beginning: Path, suffix: str) -> tuple[Path, int | None]:
    """A new empty file with the permissions of any other, and a handle that holds its lock."""
    while True:
        part = beginning.with_name(f"{beginning.name}-{secrets.token_hex(4)}{suffix}")
        try:
            handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)  # the system applies the umask
        except FileExistsError:
            continue
        if not _LOCKS:
            os.close(handle)
            return part, None
        with suppress(OSError):  # a file system without locks, where leftovers stay
            fcntl.flock(handle, fcntl.LOCK_EX)
        if part.exists():
            return part, handle
        os.close(handle)  # taken for a leftover before it was locked


def _to_disk(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())

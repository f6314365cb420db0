"""A folder that one writer has at a time.

The writer holds a lock on a small file in the folder. The system takes the lock away when the process ends, however it
ends, so that no lock outlives its writer.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl

    _LOCKS = True
except ImportError:  # Windows: nothing is locked
    _LOCKS = False

LOCK = ".writer"
"""Name of the file: who writes, in words."""


class FolderInUse(RuntimeError):
    """Another process writes to the folder; the message names it."""


@contextmanager
def one_writer(folder: str | os.PathLike[str], job: str = "") -> Iterator[None]:
    """Be the only writer of a folder for the length of a `with` block.

    Processes of one job may write together: the first of them holds the lock. Where there are no locks (Windows, some
    network file systems), nothing is refused.

    Args:
        folder: exists.
        job: what the processes of a job have in common and no other job has; "" for one process.

    Raises:
        FolderInUse: another job's process writes to it.
        OSError: the folder cannot be written.

    Example:
        >>> with one_writer("."):
        ...     pass
    """
    path = Path(folder, LOCK)
    handle = _locked(path, job) if _LOCKS else None
    try:
        yield
    finally:
        if handle is not None:
            path.unlink(missing_ok=True)
            os.close(handle)


def _locked(path: Path, job: str) -> int | None:
    """A handle that holds the lock; None if a process of this job holds it already, or nothing can be locked."""
    while True:
        # A link in its place would have its target written to, and a pipe would be waited for.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(handle, path):
                os.truncate(handle, 0)
                os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n{job}".encode(), 0)
                return handle
        except BlockingIOError:
            owner, _, theirs = os.pread(handle, 4096, 0).decode(errors="replace").partition("\n")
            if not (job and theirs == job):
                os.close(handle)
                raise FolderInUse(f"{owner or 'another process'} writes to {path.parent}") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP):  # of file systems without locks
                os.close(handle)
                raise
        else:
            os.close(handle)  # its last writer removed the file between the two calls
            continue
        os.close(handle)
        return None


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), path.stat())
    return False

"""How much of a long call is done.

Every long call takes `progress`, a function that it calls as `progress(done, total)`: integers, in units of work of
about the same size, ascending, the last time as `progress(total, total)`. What it raises ends the call.
"""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called as `progress(done, total)`."""

Finished = Callable[[int], None]
"""Called with how many more units of work are finished."""


def counting(progress: Progress | None, total: int) -> Finished:
    """What counts finished units and hands their number on.

    Args:
        progress: of the call; None: nobody is told.
        total: units of the whole call.

    Raises:
        TypeError: `progress` cannot be called.

    Example:
        >>> finished = counting(print, 3)
        >>> finished(1)
        1 3
        >>> finished(2)
        3 3
    """
    check_progress(progress)
    if progress is None:
        return ignore
    done = 0

    def finished(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    return finished


def part(progress: Progress | None, first: int, count: int, total: int) -> Progress | None:
    """The progress of one part of a call, in units of its own.

    Args:
        progress: of the call.
        first: units of the call before the part.
        count: units of the part.
        total: units of the call.

    Example:
        >>> half = part(print, 10, 10, 20)
        >>> half(1, 5)
        12 20
    """
    if progress is None:
        return None
    told = first

    def progress_of_part(done: int, of: int) -> None:
        nonlocal told
        now = first + count * done // of
        if now > told:
            told = now
            progress(now, total)

    return progress_of_part


def check_progress(progress: object) -> None:
    """Raises TypeError unless it can be called or is None."""
    if progress is not None and not callable(progress):
        raise TypeError(f"progress must be a function of (done, total) or None, got {type(progress).__name__}")


def ignore(count: int) -> None:
    """Tell nobody."""

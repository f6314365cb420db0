"""Figure files: whole or absent, and equal bytes for equal data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cofm_triton.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 150
_REPEATABLE: dict[Any, Any] = {"svg.hashsalt": "cofm_triton"}


def save_figure(figure: Figure, paths: Sequence[str | os.PathLike[str]]) -> None:
    """Write a figure to files.

    Args:
        figure: a matplotlib figure.
        paths: their suffixes choose the formats (".png", ".svg", ".pdf").

    Example:
        >>> from matplotlib.figure import Figure
        >>> save_figure(Figure(), ["/dev/shm/example.png"])
    """
    import matplotlib

    for path in paths:
        with matplotlib.rc_context(_REPEATABLE), atomic_path(path) as part:
            figure.savefig(part, dpi=_DPI, metadata=_undated(os.fspath(path)))


def _undated(path: str) -> dict[str, None] | None:
    """Metadata that leaves out time and version."""
    unwanted = {".png": "Software", ".svg": "Date", ".pdf": "CreationDate"}
    name = unwanted.get(os.path.splitext(path)[1])
    return None if name is None else {name: None}

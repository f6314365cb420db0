"""Figure files. They are written whole or not at all, and equal data give equal bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cofm_triton.support.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
"""Of the figures that commands write: for looking, for pages, for papers."""
COLOURS = ("#000000", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Of Okabe and Ito: safe for colour-blind eyes. Their yellow is too light for lines."""
STYLE: dict[Any, Any] = {
    "figure.dpi": 200,
    "savefig.dpi": 200,
    "font.size": 9,
    "axes.titlesize": "medium",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": "small",
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "axes.prop_cycle": f"cycler('color', {list(COLOURS)})",
}
"""Of all figures: settings of matplotlib."""
_LABELS = 0.42  # inches that the labels below an axis take
_REPEATABLE: dict[Any, Any] = {"svg.hashsalt": "cofm_triton"}


def save_figure(figure: Figure, paths: Sequence[str | os.PathLike[str]]) -> None:
    """Write a figure to files.

    Args:
        figure: a matplotlib figure.
        paths: their suffixes choose the formats (".png", ".svg", ".pdf").

    Example:
        >>> from matplotlib.figure import Figure
        >>> save_figure(Figure(), ["example.png"])
    """
    import matplotlib

    for path in paths:
        with matplotlib.rc_context(_REPEATABLE), atomic_path(path) as part:
            figure.savefig(part, dpi=STYLE["savefig.dpi"], metadata=_undated(os.fspath(path)))


def legend_below(axes: Axes, columns: int = 1) -> None:
    """A legend under the label of the axis below, where it hides no data.

    Args:
        axes: that hold labelled lines.
        columns: side by side.

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = Figure().subplots()
        >>> line = axes.plot([1, 2], label="data")
        >>> legend_below(axes)
    """
    from matplotlib.transforms import ScaledTranslation

    figure = axes.get_figure(root=True)
    assert figure is not None
    below = axes.transAxes + ScaledTranslation(0, -_LABELS, figure.dpi_scale_trans)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, ncols=columns)


def log_ticks(axes: Axes) -> None:
    """On logarithmic axes, label powers of ten, and plain numbers between them where there is less than two powers.

    Args:
        axes: that hold their data, or have their limits.

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = Figure().subplots()
        >>> line = axes.loglog([1, 2], [2, 3])
        >>> log_ticks(axes)
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    # Side by side, more numbers would run together.
    for axis, between in ((axes.xaxis, (1, 2, 3, 5, 7)), (axes.yaxis, range(1, 10))):
        if axis.get_scale() != "log":
            continue
        low, high = axis.get_view_interval()
        axis.set_minor_locator(NullLocator())
        if high < 100 * low:
            axis.set_major_locator(LogLocator(subs=between if high < 10 * low else (1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def draw(path_or_axes: str | os.PathLike[str] | Axes, plot: Callable[[Axes], object]) -> Axes:
    """Draw on given axes, or on new ones that are written to a file.

    Args:
        path_or_axes: a file (its suffix chooses the format), or matplotlib axes.
        plot: draws on axes.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: neither a path nor axes.
        ValueError: the path has no suffix of a format.
    """
    try:
        import matplotlib
        from matplotlib.axes import Axes
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'cofm-triton[plot]' brings it") from error

    if isinstance(path_or_axes, Axes):
        plot(path_or_axes)
        return path_or_axes
    if not isinstance(path_or_axes, (str, os.PathLike)):
        raise TypeError(f"path_or_axes must be a path or matplotlib axes, got {type(path_or_axes).__name__}")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.0, 4.2), layout="constrained")
        path = os.fspath(path_or_axes)
        if os.path.splitext(path)[1][1:].lower() not in figure.canvas.get_supported_filetypes():
            raise ValueError(f"path_or_axes must end with a format, such as .png, .svg or .pdf, got {path!r}")
        axes: Axes = figure.subplots()
        plot(axes)
        save_figure(figure, [path_or_axes])
    return axes


def _undated(path: str) -> dict[str, None] | None:
    """Metadata without time and version, which would change from run to run."""
    unwanted = {".png": "Software", ".svg": "Date", ".pdf": "CreationDate"}
    name = unwanted.get(os.path.splitext(path)[1])
    return None if name is None else {name: None}

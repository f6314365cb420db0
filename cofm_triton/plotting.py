"""Figures of perturbation errors and of stability radii."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cofm_triton.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "svg.hashsalt": "cofm_triton",  # equal data, equal bytes
}
_COLOURS = "viridis"  # ordered, and safe for colour-blind eyes
_MARKERS = "osD^vP*X"
_LOWEST, _HIGH = 1e-9, 1e5  # relative errors shown; beyond lies rounding, or growth without bound


@dataclass(frozen=True)
class ErrorCurve:
    """E_m(beta) of one model, relative to the error of the zero model.

    Attributes:
        row: of the panel it belongs to, by label; "" for no label.
        column: of the panel.
        width: m.
        radii: beta.
        maximum: of the random directions.
        low, high: quantiles of the random directions.
        slow: along the slow direction.
    """

    row: str
    column: str
    width: int
    radii: Sequence[float]
    maximum: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    slow: Sequence[float]


@dataclass(frozen=True)
class RadiusCurve:
    """Slow-direction radii r(T) of the models of one kind.

    Attributes:
        row: of the panel it belongs to, by label; "" for no label.
        column: of the panel.
        label: in the legend.
        horizons: T.
        radii: r(T).
    """

    row: str
    column: str
    label: str
    horizons: Sequence[int]
    radii: Sequence[float]


def plot_errors(curves: Sequence[ErrorCurve], title: str, paths: Sequence[os.PathLike[str]]) -> None:
    """E_m(beta) side by side: a panel per row and column label, a colour per width.

    Args:
        curves: of any number of models.
        title: of the figure.
        paths: files to write, the suffix gives the format (".png", ".svg").

    Raises:
        ValueError: no curves.
    """
    widths = sorted({curve.width for curve in curves})
    figure, panels = _panels(curves, title)
    floor = min(min(curve.slow) for curve in curves) / 3
    limits = (min(max(floor, _LOWEST), 1e-3), _HIGH)
    for curve in curves:
        axes = panels[curve.row, curve.column]
        _draw_errors(axes, curve, limits, widths.index(curve.width), len(widths))
    for axes in panels.values():
        axes.axhline(1.0, color="0.35", linewidth=0.9, linestyle=(0, (4, 2)))
        axes.set(xscale="log", yscale="log", ylim=limits, xlabel="perturbation radius β")
        axes.minorticks_off()
        axes.label_outer()
    handles = [
        *next(iter(panels.values())).get_legend_handles_labels()[0],
        _line("0.25", "-", "maximum of random directions (band: 10 to 90 %, largest m)"),
        _line("0.25", ":", "slow direction"),
        _line("0.35", (0, (4, 2)), "error of the zero model"),
    ]
    _finish(figure, handles, "relative error E(β) / P", paths)


def plot_radii(curves: Sequence[RadiusCurve], title: str, paths: Sequence[os.PathLike[str]]) -> None:
    """r(T) on logarithmic axes: a panel per row and column label, a colour per curve label.

    Arguments and errors as `plot_errors`.
    """
    labels = list(dict.fromkeys(curve.label for curve in curves))
    figure, panels = _panels(curves, title)
    for curve in curves:
        rank = labels.index(curve.label)
        panels[curve.row, curve.column].plot(
            curve.horizons,
            [radius if radius > 0 else math.nan for radius in curve.radii],
            color=_colour(rank, len(labels)),
            marker=_MARKERS[rank % len(_MARKERS)],
            markersize=4,
            linewidth=1.2,
            label=curve.label,
        )
    for axes in panels.values():
        axes.set(xscale="log", yscale="log", xlabel="horizon T")
        if not any(radius > 0 for curve in curves for radius in curve.radii):
            axes.set_ylim(1e-3, 1)  # a logarithmic axis cannot choose limits for no data
        ticks = sorted({horizon for curve in curves for horizon in curve.horizons})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.label_outer()
    handles = list(next(iter(panels.values())).get_legend_handles_labels()[0])
    _finish(figure, handles, "slow-direction radius r(T)", paths)


def _panels(
    curves: Sequence[ErrorCurve] | Sequence[RadiusCurve], title: str
) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """A grid of axes with shared scales, by row and column label."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not curves:
        raise ValueError("curves must hold at least one curve, got none")
    rows = list(dict.fromkeys(curve.row for curve in curves))
    columns = list(dict.fromkeys(curve.column for curve in curves))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(1.0 + 2.9 * max(len(columns), 2), 1.5 + 2.4 * len(rows)), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(rows), len(columns), sharex=True, sharey=True, squeeze=False)
    panels = {}
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            grid[i, j].set_title(f"{column}, {row}" if row else column, fontsize=9)
            panels[row, column] = grid[i, j]
    figure.suptitle(title, fontsize=11)
    return figure, panels


def _draw_errors(axes: Axes, curve: ErrorCurve, limits: tuple[float, float], rank: int, count: int) -> None:
    colour = _colour(rank, count)
    keep = [i for i, radius in enumerate(curve.radii) if radius > 0]
    radii = [curve.radii[i] for i in keep]

    def shown(values: Sequence[float]) -> list[float]:
        return [min(max(values[i], limits[0] / 10), limits[1] * 10) for i in keep]  # infinity leaves at the top

    if rank == count - 1:  # one band; several hide each other
        axes.fill_between(radii, shown(curve.low), shown(curve.high), color="0.5", alpha=0.2, lw=0)
    axes.plot(
        radii,
        shown(curve.maximum),
        color=colour,
        marker=_MARKERS[rank % len(_MARKERS)],
        markersize=2.5,
        linewidth=1.1,
        label=f"m = {curve.width}",
    )
    axes.plot(radii, shown(curve.slow), color=colour, linewidth=1.1, linestyle=":")


def _colour(rank: int, count: int) -> Any:
    import matplotlib

    return matplotlib.colormaps[_COLOURS](0.85 * rank / max(count - 1, 1))


def _line(colour: str, style: Any, label: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, linestyle=style, linewidth=1.1, label=label)


def _finish(figure: Figure, handles: Sequence[Any], ylabel: str, paths: Sequence[os.PathLike[str]]) -> None:
    """Add what the panels share, and write the files."""
    import matplotlib

    figure.supylabel(ylabel, fontsize=9)
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.canvas.draw()
    figure.set_layout_engine("none")  # the layout is found; finding it again costs a second a file
    for path in paths:
        svg = os.fspath(path).endswith(".svg")
        metadata = {"Date": None} if svg else {"Software": None}
        with matplotlib.rc_context(_STYLE), atomic_path(path) as part:
            figure.savefig(part, dpi=150, metadata=metadata)

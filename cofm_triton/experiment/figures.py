"""Figures of perturbation errors and of stability radii."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any

from cofm_triton.support.figure_file import COLOURS, STYLE, log_ticks, save_figure

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ORDERED = "viridis"  # of widths; safe for colour-blind eyes
_MARKERS = "osD^vP*X"
_RANDOM, _SLOW, _WORST = "#0072B2", "#009E73", "#D55E00"  # Okabe and Ito: safe for colour-blind eyes
_COLUMNS = 3  # panels side by side
_TITLE = 40  # characters over a panel
_LETTERS = 12  # of a title, per inch
_LEGEND_COLUMNS = 4  # at most
_OVERFLOWED = 10.0  # where losses beyond it are drawn
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


@dataclass(frozen=True)
class SweepCurve:
    """E(beta) of one model in a panel of its own, relative to the error of the zero model.

    Attributes:
        name: of the model.
        radii: beta.
        maximum: of the random directions.
        low, high: quantiles of the random directions.
        slow: along the slow direction; empty for a model without one.
        worst: found by ascent; empty where none was made.
    """

    name: str
    radii: Sequence[float]
    maximum: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    slow: Sequence[float] = ()
    worst: Sequence[float] = ()


@dataclass(frozen=True)
class RatioCloud:
    """Gradients over weights of one training, a point for each step and unit.

    Attributes:
        panel: the one it belongs to, by title.
        label: of what differs within a panel.
        rates: f(w).
        ratios: |dL/dw| / |w|, as many.
        bounds: of the ratios, as many.
    """

    panel: str
    label: str
    rates: Sequence[float]
    ratios: Sequence[float]
    bounds: Sequence[float]


@dataclass(frozen=True)
class LossCurve:
    """Final losses of trainings over their learning rates.

    Attributes:
        column: of the panel it belongs to, by label.
        label: in the legend.
        learning_rates: ascending.
        losses: over that of the zero model; infinite for trainings that overflowed.
    """

    column: str
    label: str
    learning_rates: Sequence[float]
    losses: Sequence[float]
    row: str = ""


def plot_ratios(clouds: Sequence[RatioCloud], title: str, paths: Sequence[os.PathLike[str]]) -> None:
    """Draw |dL/dw| / |w| over the rate, a panel for each title: points, and their bounds as lines.

    Arguments and errors as `plot_errors`.
    """
    labels = list(dict.fromkeys(cloud.label for cloud in clouds))
    titles = list(dict.fromkeys(cloud.panel for cloud in clouds))
    figure, grid = _grid(-(-len(titles) // _COLUMNS), min(len(titles), _COLUMNS), title)
    panels = dict(zip(titles, grid.flat, strict=False))
    for cloud in clouds:
        axes, colour = panels[cloud.panel], _named_colour(labels.index(cloud.label))
        axes.plot(cloud.rates, cloud.ratios, ".", markersize=1.5, color=colour, alpha=0.4, rasterized=True)
        points = sorted(zip(cloud.rates, cloud.bounds, strict=True))
        axes.plot([rate for rate, _ in points], [bound for _, bound in points], linewidth=1, color=colour)
    for axes in grid.flat[len(titles) :]:
        axes.set_visible(False)
    for name, axes in panels.items():
        axes.set(xscale="log", yscale="log", xlabel="rate f(w)")
        axes.set_title(name, fontsize=9)
        log_ticks(axes)
        axes.label_outer()
    handles = [
        _line(_named_colour(i), "-", f"{label}: measured (points), bound (line)") for i, label in enumerate(labels)
    ]
    _finish(figure, handles, "gradient over weight |dL/dw| / |w|", paths)


def plot_learning_rates(curves: Sequence[LossCurve], title: str, paths: Sequence[os.PathLike[str]]) -> None:
    """Draw final losses over learning rates, a panel for each column label, a colour for each curve label.

    Arguments and errors as `plot_errors`.
    """
    figure, panels = _panels(curves, title)
    overflowed = any(loss >= _OVERFLOWED for curve in curves for loss in curve.losses)
    for curve, look in zip(curves, _looks([curve.label for curve in curves]), strict=True):
        values = [min(loss, _OVERFLOWED) for loss in curve.losses]
        panels[curve.row, curve.column].plot(curve.learning_rates, values, **look)
    for axes in panels.values():
        axes.set(xscale="log", yscale="log", xlabel="learning rate")
        if overflowed:
            axes.set_ylim(None, _OVERFLOWED)
        axes.axhline(1.0, color="0.35", linewidth=0.9, linestyle=(0, (4, 2)))
        log_ticks(axes)
        axes.label_outer()
    handles = [
        *next(iter(panels.values())).get_legend_handles_labels()[0],
        _line("0.35", (0, (4, 2)), "error of the zero model"),
    ]
    top = f" (top: {_OVERFLOWED:g} or more)" if overflowed else ""
    _finish(figure, handles, f"final loss over the zero model's{top}", paths)


def plot_errors(curves: Sequence[ErrorCurve], title: str, paths: Sequence[os.PathLike[str]]) -> None:
    """Draw E_m(beta): a panel for each row and column label, a colour for each width.

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
        log_ticks(axes)
        axes.label_outer()
    handles = [
        *next(iter(panels.values())).get_legend_handles_labels()[0],
        _line("0.25", "-", "maximum of random directions (band: 10 to 90 %, largest m)"),
        _line("0.25", ":", "slow direction"),
        _line("0.35", (0, (4, 2)), "error of the zero model"),
    ]
    _finish(figure, handles, "relative error E(β) / P", paths)


def plot_radii(curves: Sequence[RadiusCurve], title: str, paths: Sequence[os.PathLike[str]]) -> None:
    """Draw r(T) on logarithmic axes: a panel for each row and column label, a colour for each curve label.

    Arguments and errors as `plot_errors`.
    """
    figure, panels = _panels(curves, title)
    for curve, look in zip(curves, _looks([curve.label for curve in curves]), strict=True):
        values = [radius if radius > 0 else math.nan for radius in curve.radii]
        panels[curve.row, curve.column].plot(curve.horizons, values, **look)
    for axes in panels.values():
        axes.set(xscale="log", yscale="log", xlabel="horizon T")
        if not any(radius > 0 for curve in curves for radius in curve.radii):
            axes.set_ylim(1e-3, 1)  # a logarithmic axis cannot choose limits for no data
        log_ticks(axes)
        ticks = sorted({horizon for curve in curves for horizon in curve.horizons})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.label_outer()
    handles = list(next(iter(panels.values())).get_legend_handles_labels()[0])
    _finish(figure, handles, "slow-direction radius r(T)", paths)


def plot_sweeps(curves: Sequence[SweepCurve], title: str, paths: Sequence[os.PathLike[str]]) -> None:
    """Draw E(beta), a panel for each model: band and maximum of random directions, slow direction, worst case.

    Arguments and errors as `plot_errors`.
    """
    rows = -(-len(curves) // _COLUMNS)
    figure, grid = _grid(rows, min(len(curves), _COLUMNS), title)
    shown = [value for curve in curves for value in (*curve.low, *curve.slow) if 0 < value < math.inf]
    largest = [value for curve in curves for value in (*curve.maximum, *curve.slow, *curve.worst) if value < math.inf]
    limits = (min(max(min(shown, default=1) / 3, _LOWEST), 0.1), min(max([*largest, 1.0]) * 3, _HIGH))
    for axes, curve in zip(grid.flat, curves, strict=False):
        _draw_sweep(axes, curve, limits)
    for i, axes in enumerate(grid.flat):
        axes.set_visible(i < len(curves))
        if not any(radius > 0 for curve in curves for radius in curve.radii):
            axes.set_xlim(1e-3, 1)  # a logarithmic axis cannot choose limits for no data
        log_ticks(axes)
        if i + grid.shape[1] >= len(curves):  # nothing below it
            axes.set_xlabel("perturbation radius β")
            axes.tick_params(labelbottom=True)
    handles = [
        _line(_RANDOM, "-", "maximum of random directions (band: 10 to 90 %)"),
        _line("0.35", (0, (4, 2)), "error of the zero model"),
    ]
    if any(curve.slow for curve in curves):
        handles.append(_line(_SLOW, ":", "slow direction"))
    if any(curve.worst for curve in curves):
        handles.append(_line(_WORST, "--", "worst case found by ascent"))
    _finish(figure, handles, "relative error E(β) / P", paths)


def _draw_sweep(axes: Axes, curve: SweepCurve, limits: tuple[float, float]) -> None:
    radii, shown = _on_logarithmic_axes(curve.radii, limits)
    axes.fill_between(radii, shown(curve.low), shown(curve.high), color=_RANDOM, alpha=0.2, lw=0)
    axes.plot(radii, shown(curve.maximum), color=_RANDOM, linewidth=1.2)
    if curve.slow:
        axes.plot(radii, shown(curve.slow), color=_SLOW, linewidth=1.4, linestyle=":")
    if curve.worst:
        axes.plot(radii, shown(curve.worst), color=_WORST, linewidth=1.2, linestyle="--")
    axes.axhline(1.0, color="0.35", linewidth=0.9, linestyle=(0, (4, 2)))
    axes.set(xscale="log", yscale="log", ylim=limits)
    axes.set_title(_shortened(curve.name), fontsize=9)


def _shortened(name: str) -> str:
    """A name, short enough for the title of a panel."""
    return name if len(name) <= _TITLE else f"{name[: _TITLE // 2 - 1]}…{name[-_TITLE // 2 :]}"


def _on_logarithmic_axes(
    radii: Sequence[float], limits: tuple[float, float]
) -> tuple[list[float], Callable[[Sequence[float]], list[float]]]:
    """Positive radii and the values there; infinite values run off the top of the axes."""
    keep = [i for i, radius in enumerate(radii) if radius > 0]

    def shown(values: Sequence[float]) -> list[float]:
        return [min(max(values[i], limits[0] / 10), limits[1] * 10) for i in keep]

    return [radii[i] for i in keep], shown


def _looks(labels: Sequence[str]) -> list[dict[str, Any]]:
    """Of lines, by their labels: a colour and a marker for each label."""
    ranks = {label: rank for rank, label in enumerate(dict.fromkeys(labels))}
    return [
        dict(
            color=_named_colour(ranks[label]),
            marker=_MARKERS[ranks[label] % len(_MARKERS)],
            markersize=4,
            linewidth=1.2,
            label=label,
        )
        for label in labels
    ]


def _panels(
    curves: Sequence[ErrorCurve | RadiusCurve | LossCurve], title: str
) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """A grid of axes with shared scales, by row and column label."""
    rows = list(dict.fromkeys(curve.row for curve in curves))
    columns = list(dict.fromkeys(curve.column for curve in curves))
    figure, grid = _grid(len(rows), len(columns), title)
    panels = {}
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            grid[i, j].set_title(f"{column}, {row}" if row else column, fontsize=9)
            panels[row, column] = grid[i, j]
    return figure, panels


def _grid(rows: int, columns: int, title: str) -> tuple[Figure, np.ndarray[Any, Any]]:
    """Axes (rows, columns) with shared scales."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if rows == 0 or columns == 0:
        raise ValueError("curves must hold at least one curve, got none")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.0 + 2.9 * max(columns, 2), 1.5 + 2.4 * rows), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    figure.suptitle(fill(title, int(_LETTERS * figure.get_figwidth())), fontsize=11)
    return figure, grid


def _draw_errors(axes: Axes, curve: ErrorCurve, limits: tuple[float, float], rank: int, count: int) -> None:
    colour = _colour(rank, count)
    radii, shown = _on_logarithmic_axes(curve.radii, limits)
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

    return matplotlib.colormaps[_ORDERED](0.85 * rank / max(count - 1, 1))


def _named_colour(rank: int) -> str:
    """Of what has a name and no order."""
    return COLOURS[rank % len(COLOURS)]


def _line(colour: str, style: Any, label: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, linestyle=style, linewidth=1.1, label=label)


def _finish(figure: Figure, handles: Sequence[Any], ylabel: str, paths: Sequence[os.PathLike[str]]) -> None:
    """Add title and axis labels, and write the files."""
    import matplotlib

    figure.supylabel(ylabel, fontsize=9)
    _add_legend(figure, handles)
    figure.set_layout_engine("none")  # the layout is found; finding it again costs a second a file
    with matplotlib.rc_context(STYLE):
        save_figure(figure, paths)


def _add_legend(figure: Figure, handles: Sequence[Any]) -> None:
    """Put the legend below the panels, in as many columns as fit."""
    for columns in range(_LEGEND_COLUMNS, 0, -1):
        legend = figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
        figure.canvas.draw()
        if legend.get_window_extent().width <= figure.bbox.width or columns == 1:
            return
        legend.remove()

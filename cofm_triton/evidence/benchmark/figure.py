"""One figure: time over that of a copy of the input, as sequences grow, ours and the nearest peers'."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from cofm_triton.evidence.benchmark.contract import FORWARD, FORWARD_BACKWARD
from cofm_triton.evidence.benchmark.results import OURS, Record
from cofm_triton.evidence.benchmark.shapes import FIXED_BATCH_STUDY
from cofm_triton.support.figure_file import COLOURS, STYLE, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LINES = 5  # of a panel, both of ours among them
COLUMNS = 3  # panels side by side
MARKERS = "s^DvPX<>p"
LETTERS_PER_INCH = 14  # of the caption


def draw(path: Path, records: Sequence[Record], caption: str) -> None:
    """A panel per operator: forward + backward at a fixed batch, our forward pass dashed, the nearest peers.

    Args:
        path: of the file; its suffix chooses the format.
        records: of scaling studies.
        caption: machine, versions and date.
    """
    import matplotlib
    from matplotlib.figure import Figure

    shown = [record for record in records if record.study == FIXED_BATCH_STUDY]
    operators = list(dict.fromkeys(record.operator for record in shown))
    peers = {operator: nearest_peers([r for r in shown if r.operator == operator]) for operator in operators}
    looks = _looks(sorted({name for names in peers.values() for name in names}))
    rows, columns = -(-len(operators) // COLUMNS), max(1, min(COLUMNS, len(operators)))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(5.0, 3.1 * columns + 0.4), 2.5 * rows + 1.4), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for i, axes in enumerate(panels.flat):
            axes.set_visible(i < len(operators))
            if i < len(operators):
                _panel(axes, [r for r in shown if r.operator == operators[i]], peers[operators[i]], looks)
                axes.set_title(operators[i])
            if i + columns >= len(operators):  # nothing below it
                axes.set_xlabel("sequence length T")
                axes.tick_params(labelbottom=True)
        figure.supylabel("time / time of a copy", fontsize="medium")
        handles: dict[str, Any] = {}
        for axes in panels.flat:
            lines, labels = axes.get_legend_handles_labels()
            handles |= dict(zip(labels, lines, strict=True))
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
        title = f"Training step (forward + backward) in copies of its input, {FIXED_BATCH_STUDY}: lower is faster"
        figure.suptitle(title, fontsize="medium")
        figure.text(0.5, -0.005, fill(caption, int(LETTERS_PER_INCH * figure.get_figwidth())), ha="center", va="top",
                    fontsize="x-small", color="0.4")  # fmt: skip
        save_figure(figure, [path])


def nearest_peers(records: Sequence[Record]) -> list[str]:
    """Names of those that come nearest to our time, or below it, in the mean over the lengths that they did."""
    ours = dict(zip(*_curve(records, OURS, FORWARD_BACKWARD), strict=True))

    def distance(name: str) -> float:
        theirs = dict(zip(*_curve(records, name, FORWARD_BACKWARD), strict=True))
        logs = [math.log(theirs[length] / ours[length]) for length in theirs if length in ours]
        return sum(logs) / len(logs) if logs else math.inf

    names = [name for name in dict.fromkeys(r.contestant for r in records) if name != OURS]
    return sorted((name for name in names if distance(name) < math.inf), key=distance)[: MOST_LINES - 2]


def _looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A colour and a marker for each name, in all panels the same."""
    colours = COLOURS[1:]  # ours is black
    return {
        name: dict(color=colours[i % len(colours)], marker=MARKERS[i % len(MARKERS)]) for i, name in enumerate(names)
    }


def _panel(axes: Axes, records: Sequence[Record], peers: Sequence[str], looks: dict[str, dict[str, Any]]) -> None:
    for name in peers:
        axes.plot(*_curve(records, name, FORWARD_BACKWARD), label=name, linewidth=1, **looks[name])
    ours: dict[str, Any] = dict(color=COLOURS[0], marker="o")
    axes.plot(*_curve(records, OURS, FORWARD_BACKWARD), label=OURS, linewidth=2.5, **ours)
    axes.plot(*_curve(records, OURS, FORWARD), label=f"{OURS}, forward alone", linestyle="--", linewidth=1.2, **ours)
    axes.axhline(1, color="0.5", linewidth=0.8)
    axes.text(0.99, 1.05, "a copy", transform=axes.get_yaxis_transform(), ha="right", fontsize="small", color="0.4")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")


def _curve(records: Sequence[Record], name: str, pass_name: str) -> tuple[list[int], list[float]]:
    points = sorted(
        (int(record.size.split("x")[1]), record.ratio.median)
        for record in records
        if (record.contestant, record.pass_name) == (name, pass_name)
    )
    return [length for length, _ in points], [ratio for _, ratio in points]

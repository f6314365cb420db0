"""One figure: time as sequences grow, ours and the nearest peers', beside a copy of the input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from cofm_triton.evidence.benchmark.contract import FORWARD_BACKWARD
from cofm_triton.evidence.benchmark.results import OURS, Record
from cofm_triton.evidence.benchmark.shapes import FIXED_BATCH_STUDY
from cofm_triton.support.figure_file import COLOURS, STYLE, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LINES = 5  # of a panel, ours and the copy among them
COPY = "copy of the input"
COLUMNS = 3  # panels side by side
MARKERS = "s^DvPX<>p"
LETTERS_PER_INCH = 14  # of the caption


def draw(paths: Sequence[Path], records: Sequence[Record], caption: str) -> None:
    """A panel per operator: forward + backward at a fixed batch, ours, the nearest peers, a copy.

    Args:
        paths: of the files; their suffixes choose the formats.
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
        figure.supylabel("time, ms", fontsize="medium")
        handles: dict[str, Any] = {}
        for axes in panels.flat:
            lines, labels = axes.get_legend_handles_labels()
            handles |= dict(zip(labels, lines, strict=True))
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
        title = f"Training step (forward + backward), {FIXED_BATCH_STUDY}: lower is faster"
        figure.suptitle(f"{title}\n{fill(caption, int(LETTERS_PER_INCH * figure.get_figwidth()))}", fontsize="small")
        save_figure(figure, paths)


def nearest_peers(records: Sequence[Record]) -> list[str]:
    """Names of those that come nearest to our time, or below it, in the mean over the lengths that they did."""
    ours = dict(zip(*_curve(records, OURS), strict=True))

    def distance(name: str) -> float:
        theirs = dict(zip(*_curve(records, name), strict=True))
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
        axes.plot(*_curve(records, name), label=name, linewidth=1, **looks[name])
    axes.plot(*_curve(records, OURS), label=OURS, linewidth=2.5, color=COLOURS[0], marker="o")
    copies = {_length(r): 1e3 * r.copy_seconds.median for r in records if _is(r, OURS)}
    axes.plot(sorted(copies), [copies[length] for length in sorted(copies)], label=COPY, color="0.5", linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")


def _curve(records: Sequence[Record], name: str) -> tuple[list[int], list[float]]:
    """Lengths, and milliseconds of forward + backward."""
    points = sorted((_length(record), 1e3 * record.seconds.median) for record in records if _is(record, name))
    return [length for length, _ in points], [time for _, time in points]


def _is(record: Record, name: str) -> bool:
    return (record.contestant, record.pass_name) == (name, FORWARD_BACKWARD)


def _length(record: Record) -> int:
    return int(record.size.split("x")[1])

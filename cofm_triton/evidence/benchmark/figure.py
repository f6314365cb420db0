"""One figure: time over that of a copy of the input, as sequences grow, ours and the peers'."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from cofm_triton.evidence.benchmark.contract import FORWARD, FORWARD_BACKWARD
from cofm_triton.evidence.benchmark.results import OURS, Record
from cofm_triton.support.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito: safe for colour-blind eyes. One marker more than colours: no pair comes twice.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#B8A200")
MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">", "p")
LETTERS_PER_INCH = 12  # of a title


def draw(path: Path, records: Sequence[Record], caption: str) -> None:
    """A panel per study (rows) and operator (columns); forward + backward, and our forward pass dashed.

    Args:
        path: of the file; its suffix chooses the format.
        records: of scaling studies.
        caption: machine, versions and date.
    """
    from matplotlib.figure import Figure

    operators = list(dict.fromkeys(record.operator for record in records))
    studies = list(dict.fromkeys(record.study for record in records))
    peers = [name for name in dict.fromkeys(record.contestant for record in records) if name != OURS]
    figure = Figure(figsize=(max(7.0, 3.6 * len(operators) + 0.6), 3.0 * len(studies) + 1.2), layout="constrained")
    panels = figure.subplots(len(studies), len(operators), sharex=True, sharey=True, squeeze=False)
    for row, study in zip(panels, studies, strict=True):
        for axes, operator in zip(row, operators, strict=True):
            chosen = [record for record in records if (record.study, record.operator) == (study, operator)]
            _panel(axes, chosen, peers)
            axes.set_title(f"{operator}, {study}", fontsize="medium")
        row[0].set_ylabel("time / time of a copy")
    for axes in panels[-1]:
        axes.set_xlabel("sequence length T")
    handles: dict[str, Any] = {}
    for axes in panels.flat:
        lines, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, lines, strict=True))
    legend: dict[str, Any] = dict(loc="outside lower center", ncols=4, fontsize="small", frameon=False)
    figure.legend(handles.values(), handles.keys(), **legend)
    title = "Training step (forward + backward) in copies of its input: lower is faster"
    figure.suptitle(f"{title}\n{fill(caption, int(LETTERS_PER_INCH * figure.get_figwidth()))}", fontsize="medium")
    with atomic_path(path) as part:
        figure.savefig(part, dpi=130)


def _panel(axes: Axes, records: Sequence[Record], peers: Sequence[str]) -> None:
    for index, name in enumerate(peers):
        style: dict[str, Any] = dict(color=COLOURS[index % len(COLOURS)], marker=MARKERS[index % len(MARKERS)])
        axes.plot(*_curve(records, name, FORWARD_BACKWARD), label=name, markersize=4, linewidth=1, **style)
    ours: dict[str, Any] = dict(color="black", marker="o", markersize=4)
    axes.plot(*_curve(records, OURS, FORWARD_BACKWARD), label=OURS, linewidth=2.5, **ours)
    axes.plot(*_curve(records, OURS, FORWARD), label=f"{OURS}, forward alone", linestyle="--", linewidth=1.2, **ours)
    axes.axhline(1, color="0.5", linewidth=0.8)
    axes.text(0.99, 1.05, "a copy", transform=axes.get_yaxis_transform(), ha="right", fontsize="small", color="0.4")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.grid(alpha=0.3, linewidth=0.5)


def _curve(records: Sequence[Record], name: str, pass_name: str) -> tuple[list[int], list[float]]:
    points = sorted(
        (int(record.size.split("x")[1]), record.ratio.median)
        for record in records
        if (record.contestant, record.pass_name) == (name, pass_name)
    )
    return [length for length, _ in points], [ratio for _, ratio in points]

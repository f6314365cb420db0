"""The figure of README.md: a training step of one linear scan against the length of its sequence.

    python bench/front_figure.py     # reads bench/results/scaling.json, writes front.png and scaling.png beside it

One sequence of 32 channels in float32, forward + backward, medians in milliseconds. Of the peers in `scaling.json` it
shows those that a user of PyTorch would reach for, and JAX, the fastest of the others. Lines end where one run took
more than 0.3 s.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cofm_triton.evidence.benchmark import figure as scaling_figure
from cofm_triton.evidence.benchmark.results import read
from cofm_triton.evidence.machine import caption
from cofm_triton.support.figure_file import STYLE, save_figure

FOLDER = Path(__file__).parent / "results"
SOURCE, FIGURE, SCALING = FOLDER / "scaling.json", FOLDER / "front.png", FOLDER / "scaling.png"
OPERATOR, STUDY, PASS = "linear_scan", "fixed batch", "forward + backward"
# Name in the file, name in the figure, colour (Okabe and Ito: safe for colour-blind eyes), marker.
LINES = (
    ("nn.RNN", "nn.RNN (dense, tanh)", "#009E73", "D"),
    ("row loop", "Python loop over time", "#E69F00", "^"),
    ("associative_scan", "PyTorch's associative_scan", "#56B4E9", "P"),
    ("JAX", "JAX's associative_scan, compiled", "#D55E00", "X"),
    ("cofm", "cofm.linear_scan", "black", "o"),
)


def curve(records: list[dict[str, Any]], contestant: str) -> tuple[list[int], list[float]]:
    """Lengths T and median times in milliseconds.

    Args:
        records: of `scaling.json`.
        contestant: as the file names it.
    """
    wanted = (OPERATOR, STUDY, PASS, contestant)
    points = sorted(
        (int(record["size"].split("x")[1]), 1000 * record["seconds"]["median"])
        for record in records
        if (record["operator"], record["study"], record["pass_name"], record["contestant"]) == wanted
    )
    return [length for length, _ in points], [time for _, time in points]


def draw(source: Path, figure_file: Path) -> None:
    """Draw one panel with one line per contestant.

    Args:
        source: the JSON file that `cofm bench` wrote.
        figure_file: to write; its suffix chooses the format.
    """
    import matplotlib
    from matplotlib.figure import Figure

    content = json.loads(source.read_text(encoding="utf-8"))
    machine = content["machine"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.0, 3.6), layout="constrained")
        axes = figure.subplots()
        for contestant, label, colour, marker in LINES:
            width = 2.5 if contestant == "cofm" else 1.2
            style: dict[str, Any] = dict(color=colour, marker=marker, linewidth=width, markersize=5)
            axes.plot(*curve(content["records"], contestant), label=label, **style)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("sequence length T")
        axes.set_ylabel("time of a training step, ms")
        figure.legend(loc="outside right center")
        where = f"{machine['device']}, {machine['threads']} threads, {machine['date'][:10]}, no GPU"
        axes.set_title(f"Linear scan, forward + backward, B = 1, D = 32, float32\n{where}")
        save_figure(figure, [figure_file])


if __name__ == "__main__":
    draw(SOURCE, FIGURE)
    results, machine = read(SOURCE)
    scaling_figure.draw([SCALING], results.records, caption(machine))
    print(f"Figures: {FIGURE}, {SCALING}")

"""Draws the figures of the pages on theory and kernels, beside this file.

    python docs/figures/draw.py            # all of them; some seconds
    python docs/figures/draw.py horizons   # one

Nothing is measured: curves are closed forms, bars are the models of traffic that the benchmarks use, maps are what
`kernels/launch.py` decides. So the figures show what the code does today.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrow, Patch, Rectangle

import cofm_triton as cofm
from cofm_triton.kernels import launch
from cofm_triton.perturbation.verdict import limit_radius
from cofm_triton.support.figure_file import COLOURS, STYLE, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FOLDER = Path(__file__).parent
BLACK, BLUE, ORANGE, GREEN, PINK, SKY, RED = COLOURS
H100 = 132  # multiprocessors
LEGEND: dict[str, Any] = dict(loc="outside lower center", ncols=3)


def memory() -> Figure:
    """Two targets that forget: exponentially, and as a power."""
    figure = Figure(figsize=(6.4, 3.0), layout="constrained")
    times = torch.arange(1, 201, dtype=torch.float64)
    for axes, name, scale in zip(figure.subplots(1, 2, sharey=True), ("linear", "log"), ("t", "t, log"), strict=True):
        for target, colour in (("exp", BLUE), ("pol", RED)):
            rho = cofm.targets.target(target).memory(times)
            axes.plot(times, rho / rho[0], color=colour, label=f"target {target}")
        axes.set(xscale=name, yscale="log", ylim=(1e-8, 2), xlabel=scale)
        axes.set_title("an exponential is straight here" if name == "linear" else "a power is straight here")
    figure.axes[0].set_ylabel("memory M(t) / M(1)")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), **LEGEND)
    return figure


def perturbation() -> Figure:
    """E(beta) of the infinitely wide model of a target, all rates slowed by beta, at three lengths."""
    figure = Figure(figsize=(6.4, 3.0), layout="constrained")
    radii = torch.logspace(-4, 0, 200, dtype=torch.float64)[:, None]
    rho = cofm.targets.target("pol").memory
    for axes, kind in zip(figure.subplots(1, 2, sharey=True), ("direct", "exp"), strict=True):
        for length, colour in ((50, SKY), (200, BLUE), (800, BLACK)):
            time = torch.arange(length, dtype=torch.float64)
            kernel, weights = rho(time), cofm.temporal_weights(length).double()
            tail = weights.flip(0).cumsum(0).flip(0)
            slowed = kernel * torch.exp(radii * time) if kind == "direct" else rho(time * torch.exp(-radii))
            errors = (tail * (slowed - kernel) ** 2).sum(1) / (tail * kernel**2).sum()
            axes.plot(radii[:, 0], errors, color=colour, label=f"T = {length}")
        axes.axhline(0.1, color="0.5", linestyle=":")
        axes.set(xscale="log", yscale="log", ylim=(1e-6, 10), xlabel="beta", title=f"target pol, {kind} weights")
    figure.axes[0].set_ylabel("error / error of the zero model")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), **LEGEND)
    return figure


def horizons() -> Figure:
    """Where those errors reach a tenth, over the length."""
    figure = Figure(figsize=(6.4, 3.0), layout="constrained")
    axes, lengths = figure.subplots(), [2**k for k in range(4, 14)]
    cases = (("exp", "direct", BLUE), ("exp", "exp", SKY), ("pol", "direct", RED), ("pol", "exp", ORANGE))
    for target, kind, colour in cases:
        found = [limit_radius(target, length, parameterization=kind) for length in lengths]
        axes.plot(lengths, found, color=colour, marker="o", label=f"target {target}, {kind} weights")
    axes.set(xscale="log", yscale="log", xlabel="length T", ylabel="radius r(T)")
    figure.legend(**{**LEGEND, "ncols": 2})
    return figure


def chunks() -> Figure:
    """A linear scan over segments of time: summaries, their combination, rows."""
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    axes = _blank(figure)
    passes = ("1. each segment alone, from zero", "2. states at the borders, from the summaries", "3. all rows")
    for y, text in zip((2, 1, 0), passes, strict=True):
        axes.text(-0.1, y + 0.3, text, ha="right", va="center")
        for k in range(4):
            if y != 1:
                _box(axes, k, y, SKY if y else BLUE)
                axes.add_patch(FancyArrow(k + 0.1, y + 0.3, 0.6, 0, width=0.02, head_width=0.12, color=BLACK))
            else:
                axes.plot([k], [y + 0.3], "o", color=ORANGE, markersize=8)
                if k:
                    axes.add_patch(FancyArrow(k - 0.9, y + 0.3, 0.7, 0, width=0.02, head_width=0.12, color=ORANGE))
    axes.text(2, -0.35, "time; four segments of one sequence", ha="center")
    axes.set(xlim=(-3.4, 4.1), ylim=(-0.5, 2.9))
    return figure


def chains() -> Figure:
    """A nonlinear recurrence in chunks that warm up: right guesses stand, a wrong one is run again."""
    figure = Figure(figsize=(6.4, 3.0), layout="constrained")
    axes = _blank(figure)
    for k in range(4):
        y = 3 - k
        if k:
            axes.add_patch(Rectangle((k - 0.8, y), 0.8, 0.5, facecolor="0.85", edgecolor="0.5", hatch="///"))
        _box(axes, k, y, RED if k == 2 else BLUE, width=1.0)
    _box(axes, 2, -1, GREEN, width=1.0)
    axes.add_patch(FancyArrow(2.5, 0.95, 0, -1.3, width=0.02, head_width=0.12, color=BLACK, zorder=3))
    notes = [
        Patch(facecolor="0.85", edgecolor="0.5", hatch="///", label="warm-up, from zero, not stored"),
        Patch(color=BLUE, label="chunk, its guess was right to the bit"),
        Patch(color=RED, label="its guess was wrong"),
        Patch(color=GREEN, label="run again from its predecessor's end"),
    ]
    axes.set(xlim=(-0.1, 4.1), ylim=(-1.7, 3.7))
    axes.text(2, -1.5, "time", ha="center")
    figure.legend(handles=notes, **{**LEGEND, "ncols": 2})
    return figure


def traffic() -> Figure:
    """Elements that are read and written per element of x, forward and backward."""
    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    axes = figure.subplots()
    rows = launch.RNN_BACKWARD_ROWS[4]
    bars = (
        ("linear_scan", 2, 3), ("linear_scan, gates given", 3, 5), ("rnn_scan", 2, 3 + 1 / rows),
        ("gated_rnn, one logit", 3, 5 + 1 / launch.GATED_BACKWARD_ROWS[4]),
        ("gated_rnn, two logits", 4, 7 + 1 / launch.GATED_BACKWARD_ROWS[4]),
    )  # fmt: skip
    places = np.arange(len(bars))
    axes.barh(places - 0.2, [bar[1] for bar in bars], 0.38, color=SKY, label="forward")
    axes.barh(places + 0.2, [bar[2] for bar in bars], 0.38, color=BLUE, label="backward")
    axes.set_yticks(places, [bar[0] for bar in bars])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("elements moved per element of x; a copy moves 2")
    axes.axvline(2, color="0.3", linestyle=":")
    figure.legend(**LEGEND)
    return figure


def routes() -> Figure:
    """Which route `launch.py` takes on an H100, 64 float32 channels."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    batches, lengths = 2 ** np.arange(0, 13), 2 ** np.arange(8, 21)
    names = ("one warp walks a sequence", "one launch, time over lanes and warps", "two launches, chunks of time",
             "chains: chunks from guessed states", "one program per sequence")  # fmt: skip
    colours = (SKY, BLUE, ORANGE, GREEN, "0.8")

    def linear(batch: int, length: int) -> int:
        tiles = launch.layout(length, batch, 64, 4, H100)
        return 2 if tiles.num_chunks > 1 else int(tiles.segments > 1)

    def nonlinear(batch: int, length: int) -> int:
        block = launch.chains(64, batch, 4, H100)
        return 3 if launch.forward_chains(length, batch, block, 4, "tanh", H100) else 4

    panels = zip(
        figure.subplots(1, 2, sharey=True), (("linear_scan", linear), ("rnn_scan, tanh", nonlinear)), strict=True
    )
    for axes, (title, rule) in panels:
        shown = [[rule(int(batch), int(length)) for batch in batches] for length in lengths]
        palette = matplotlib.colors.ListedColormap(colours)
        axes.pcolormesh(batches, lengths, shown, cmap=palette, vmin=-0.5, vmax=4.5, shading="nearest", rasterized=True)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set(title=title, xlabel="sequences B")
        axes.grid(visible=False)
    figure.axes[0].set_ylabel("length T")
    handles = [Patch(color=colour, label=name) for colour, name in zip(colours, names, strict=True)]
    figure.legend(handles=handles, **{**LEGEND, "ncols": 2})
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    draw.__name__: draw for draw in (memory, perturbation, horizons, chunks, chains, traffic, routes)
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)} (default: all)")
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args(arguments)
    for name in options.names or FIGURES:
        with matplotlib.rc_context(STYLE):
            save_figure(FIGURES[name](), [options.out / f"{name}.svg"])


def _blank(figure: Figure) -> Axes:
    axes = figure.subplots()
    axes.set_axis_off()
    return axes


def _box(axes: Axes, x: float, y: float, colour: str, *, width: float = 0.9) -> None:
    axes.add_patch(Rectangle((x, y), width, 0.5, facecolor=colour, edgecolor="white"))


if __name__ == "__main__":
    main()

"""Figure of a verdict."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cofm_triton.support.figure_file import legend_below, log_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cofm_triton.perturbation.verdict import StabilityVerdict

_MARKER = "o"
_SPAN = 4  # the slope is drawn from the longest horizon over this to the longest one


def plot_verdict(axes: Axes, verdict: StabilityVerdict, bound: float, errors: float, label: str | None) -> None:
    """r(T), and at the longest horizon the slope with so many standard errors, beside that of the bound."""
    known = [(t, r) for t, r in zip(verdict.horizons, verdict.radii, strict=True) if r > 0]
    times, radii = [t for t, _ in known], [r for _, r in known]
    (line,) = axes.plot(times, radii, marker=_MARKER, linestyle="", label=f"{label or 'r(T)'}: {verdict.verdict}")
    colour = line.get_color()
    if known and math.isfinite(verdict.slope):
        longest = times[-1]
        ends = [r for t, r in known if t == longest]
        height = math.exp(sum(map(math.log, ends)) / len(ends))
        span = [longest / _SPAN, longest]
        low, middle, high = (
            [height * (t / longest) ** (verdict.slope + k * verdict.error) for t in span] for k in (-errors, 0, errors)
        )
        axes.plot(span, middle, color=colour, label=f"T^({verdict.slope:+.2f} ± {errors * verdict.error:.2f})")
        axes.fill_between(span, low, high, color=colour, alpha=0.2, linewidth=0)
        limit = [height * (t / longest) ** bound for t in span]
        axes.plot(span, limit, color="0.35", linestyle=":", label=f"T^({bound:+.1f}): unstable if steeper")
    if not known:  # a logarithmic axis cannot choose limits for no data
        axes.set(xlim=(verdict.horizons[0], verdict.horizons[-1]), ylim=(1e-3, 1))
    axes.set(xscale="log", yscale="log", xlabel="horizon T", ylabel="radius r(T)")
    log_ticks(axes)
    marked = [np.asarray(held.get_xdata(), dtype=float) for held in axes.lines if held.get_marker() == _MARKER]
    ticks = np.unique(np.concatenate(marked)).tolist()
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.set_xticks([], minor=True)
    axes.set_title("What counts is the slope at the longest horizon, not the height", fontsize="medium")
    legend_below(axes, columns=3)

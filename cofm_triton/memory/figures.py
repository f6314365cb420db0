"""Figures of memory functions."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cofm_triton.memory.decay_fit import DecayFit
from cofm_triton.support.figure_file import COLOURS, legend_below, log_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DECADES = 16  # shown below the largest value of the first step
_GROWTH = 6  # decades shown above it: a memory that grows for ever leaves room for those that decay
_HIGHEST = 1e100  # growth without bound beyond it is not drawn
_MOST_BANDS = 5
_DASHES = ("-", "--", "-.", ":", "-")  # curves of small radii lie on one another: all of them show


def draw_memory(axes: "Axes", times: Tensor, values: Tensor, fit: DecayFit | None, beta0: float, title: str) -> None:
    """M(t), its fit where there is one, and the theorem's bound M(0) e^(-beta0 t); times and values (S,)."""
    axes.plot(times.numpy(), _shown(values), color=COLOURS[0], label="memory M(t)")
    if fit is not None:
        late = times >= fit.window[0]
        axes.plot(
            times[late].numpy(), _shown(fit.curve(times[late])), "--", color=COLOURS[1], label=f"fit: {_law(fit)}"
        )
    if beta0 > 0:
        bound = values[0] * torch.exp(-beta0 * times)
        axes.plot(times.numpy(), _shown(bound), ":", color=COLOURS[2], label=f"theorem: exp(-{beta0:.3g} t)")
    _finish(axes, values, times, logarithmic=fit is not None and fit.decay == "polynomial")
    axes.set_title(title)


def draw_named_memory(axes: "Axes", times: Tensor, values: Tensor, fit: DecayFit | None, name: str) -> None:
    """M(t) of one of several models, its fit dashed in the same colour; the axes grow with what they hold."""
    (line,) = axes.plot(times.numpy(), _shown(values), label=f"{name}: {_law(fit)}")
    if fit is not None and fit.is_clear:
        late = times >= fit.window[0]
        axes.plot(times[late].numpy(), _shown(fit.curve(times[late])), "--", color=line.get_color(), linewidth=1)
    drawn = [torch.as_tensor(np.asarray(held.get_ydata(), dtype=float)) for held in axes.lines]
    longest = max((torch.as_tensor(np.asarray(held.get_xdata(), dtype=float)) for held in axes.lines), key=torch.max)
    _finish(axes, torch.nn.utils.rnn.pad_sequence(drawn, batch_first=True), longest, logarithmic=True)
    axes.set_title("Memory M(t), and the law that fits its later part (dashed) [rate on its halves]", fontsize="medium")


def _law(fit: DecayFit | None) -> str:
    if fit is None:
        return "too short"
    if not fit.is_clear:
        return "undecided"
    if math.isinf(fit.rate):
        return f"ends at t = {fit.window[1]:.3g}"
    law = {"exponential": f"exp(-{fit.rate:.3g} t)", "polynomial": f"t^-{fit.rate:.3g}"}.get(fit.decay, "no decay")
    return law if fit.interval[0] != fit.interval[0] else f"{law} [{fit.interval[0]:.3g}, {fit.interval[1]:.3g}]"


def plot_sweep(axes: "Axes", times: Tensor, radii: Tensor, lower: Tensor, upper: Tensor) -> None:
    """The band between envelopes over directions, (radii, S), of at most five radii."""
    count = len(radii)
    picked = torch.linspace(0, count - 1, min(count, _MOST_BANDS), device="cpu").round().long().tolist()
    for colour, dashes, r in zip(COLOURS, _DASHES, picked, strict=False):
        axes.plot(times.numpy(), _shown(upper[r]), dashes, color=colour, label=f"radius {radii[r]:.3g}")
        axes.fill_between(times.numpy(), _shown(lower[r]), _shown(upper[r]), color=colour, alpha=0.15, linewidth=0)
    _finish(axes, upper[picked], times, logarithmic=True)
    axes.set_title("Memory of perturbed models: largest (line), all (band)")


def _shown(values: Tensor) -> np.ndarray[Any, Any]:
    """What a logarithmic axis can show."""
    return torch.where((values <= _HIGHEST) & (values > 0), values, torch.nan).numpy()


def _finish(axes: "Axes", values: Tensor, times: Tensor, logarithmic: bool) -> None:
    axes.set(xlabel="time t", ylabel="M(t)", yscale="log")
    if len(times) > 1:
        if logarithmic:
            axes.set_xscale("symlog", linthresh=times[1].item(), linscale=0.3)
        axes.set_xlim(0, times[-1].item())
    finite = values[values.isfinite() & (values > 0)]
    if len(finite):
        first = values[..., 0]
        first = first[first.isfinite() & (first > 0)]
        start = first.max().item() if len(first) else finite.max().item()
        top = min(finite.max().item(), start * 10.0**_GROWTH)
        axes.set_ylim(max(min(finite.min().item(), top) / 2, start * 10.0**-_DECADES), top * 2)
    log_ticks(axes)
    legend_below(axes)

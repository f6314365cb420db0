"""Gradients over weights of the recurrent rates during training, beside their bound (StableSSM, arXiv 2311.14495).

For rate = f(w) the loss of a model of bounded gradient in its output obeys

    |dL/dw| <= C |f'(w)| / f(w)^2

with one C for all units: a unit of rate r sums what happened over the last 1 / r, and so does its derivative by r, to
the power of two. A step of training changes w by the learning rate times dL/dw, relative to its size by a multiple of

    |dL/dw| / |w|   <=   C |f'(w)| / (f(w)^2 |w|)

Where the right-hand side has no bound, slow units get steps of any size. "inverse", f = 1 / (a w^2 + b), keeps it at
2 a for every w, which StableSSM calls best; for "exp" it grows like 1 / (rate |log rate|), for "direct" like
1 / rate^3.
"""

from __future__ import annotations

import math
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from cofm_triton.perturbation.directions import raw_rates
from cofm_triton.step.parameterization import parameterization
from cofm_triton.support.figure_file import draw, legend_below, log_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class GradientRecorder:
    """What the gradients of a model's raw recurrent rates are, step by step; for any training loop.

    Args:
        model: a module with cofm layers.

    Raises:
        ValueError: a model without recurrent rates.

    Example:
        >>> import cofm_triton as cofm
        >>> model = cofm.RNNFunctional(1, 4, parameterization="exp")
        >>> recorder = GradientRecorder(model)
        >>> x, y = cofm.targets.generate("exp", 8, 20, dtype=torch.float32)
        >>> cofm.temporally_weighted_mse(model(x), y).backward()
        >>> recorder.record()  # after backward(), before the optimizer's step
        >>> recorder.ratios["rnn.rate_l0"].shape, recorder.bounds["rnn.rate_l0"].shape
        (torch.Size([1, 4]), torch.Size([1, 4]))
    """

    def __init__(self, model: nn.Module) -> None:
        self._rates = {name: (weight, parameterization(kind)) for name, weight, kind in raw_rates(model)}
        self._rows: dict[str, list[Tensor]] = {name: [] for name in self._rates}

    def record(self) -> None:
        """Keep weights, gradients, bounds and rates of this step, (4, units) numbers a layer.

        Raises:
            ValueError: a rate has no gradient.
        """
        for name, (weight, f) in self._rates.items():
            if weight.grad is None:
                raise ValueError(f"model must have gradients: call record() after backward(), got none for {name}")
            w = weight.detach().double()
            row = [w.abs(), weight.grad.double().abs(), f.gradient_scale(w), f.rate(w)]
            self._rows[name].append(torch.stack(row).cpu())

    @property
    def ratios(self) -> dict[str, Tensor]:
        """By names of parameters, |dL/dw| / |w| of every unit, (steps, units) float64; infinite at w = 0."""
        return {name: gradient / weight for name, (weight, gradient, _, _) in self._columns()}

    @property
    def bounds(self) -> dict[str, Tensor]:
        """|f'(w)| / (f(w)^2 |w|), the bound of the ratios but for the factor `constant`; shaped like them."""
        return {name: scale / weight for name, (weight, _, scale, _) in self._columns()}

    @property
    def rates(self) -> dict[str, Tensor]:
        """f(w), 1 / time; shaped like the ratios."""
        return {name: rate for name, (_, _, _, rate) in self._columns()}

    @property
    def constant(self) -> float:
        """The smallest C with which the bound holds at all steps and units; NaN before the first step."""
        shares = [
            (gradient / scale)[gradient > 0].max().item()
            for _, (_, gradient, scale, _) in self._columns()
            if bool((gradient > 0).any())
        ]
        return max(shares, default=math.nan)

    def plot(self, path_or_axes: str | PathLike[str] | Axes, *, label: str | None = None) -> Axes:
        """Draw the largest ratio of all units at each step, and the bound at that unit (dashed).

        Args:
            path_or_axes: a file to write (its suffix chooses the format), or matplotlib axes, to which recorders may be
                added one by one.
            label: in the legend.

        Raises:
            ValueError: nothing is recorded.
        """
        if not self._columns():
            raise ValueError("recorder must have recorded a step, got none")
        ratios, bounds = (torch.cat(list(found.values()), 1) for found in (self.ratios, self.bounds))
        largest, unit = torch.where(ratios.isfinite(), ratios, 0).max(1)
        bound = self.constant * bounds.gather(1, unit[:, None])[:, 0]

        def plot(axes: Axes) -> None:
            steps = np.arange(len(largest))
            (line,) = axes.plot(steps, largest.numpy(), label=label or "largest |dL/dw| / |w|")
            axes.plot(steps, bound.numpy(), "--", color=line.get_color(), linewidth=1)
            axes.set(xlabel="step", ylabel="|dL/dw| / |w|", yscale="log")
            log_ticks(axes)
            axes.set_title("Gradient over weight, the largest of all units; dashed: its bound", fontsize="medium")
            legend_below(axes, columns=2)

        return draw(path_or_axes, plot)

    def _columns(self) -> list[tuple[str, tuple[Tensor, Tensor, Tensor, Tensor]]]:
        """|w|, |dL/dw|, |f'| / f^2 and f by name, (steps, units) each."""
        found = []
        for name, rows in self._rows.items():
            if rows:
                weight, gradient, scale, rate = torch.stack(rows, 1)
                found.append((name, (weight, gradient, scale, rate)))
        return found

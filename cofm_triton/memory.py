"""The memory function of a model (arXiv 2305.19190, Definition 3.1).

    M(k dt) = sup |v_x[k]|_inf / |x|_inf,   v_x[k] = (y[k] - y[k-1]) / dt  under  x[k] = x for k >= 0

from the state 0, y[-1] being the output of that state. The sup is over r <= |x|_inf <= R: without an
upper radius every saturating model has a memory of order 1 / t. A model with a bias answers x = 0
too, so its ratio grows without bound as |x| -> 0: for such a model and this norm the lower radius is
R itself unless it is given, so that the input stands against the bias at its full size. Otherwise
it is R / 2^20, which is as good as 0. norm="inf+1", of the paper's proofs (eq 43), divides by
|x|_inf + 1 and needs no such care.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cofm_triton.decay_fit import DecayFit, fit_decay
from cofm_triton.files import write_text
from cofm_triton.layers import RNNFunctional, StableRNN
from cofm_triton.memory_evaluator import MemoryEvaluator
from cofm_triton.memory_search import NORMS, Domain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALLEST_SHARE = 2.0**-20
"""Lower radius of models without bias, in upper radii."""


@dataclass(frozen=True)
class Settings:
    """What a memory function was computed with.

    Attributes:
        steps: (S,) int64, k.
        dt: step, time.
        radius, min_radius: R and r; for given inputs the largest and smallest |x|_inf among them.
        norm: "inf" or "inf+1".
    """

    steps: Tensor
    dt: float
    radius: float
    min_radius: float
    norm: str

    @property
    def times(self) -> Tensor:
        """k dt, (S,) float64."""
        return self.steps.double() * self.dt


@dataclass(frozen=True)
class MemoryFunction:
    """A memory function at the steps asked for, float64 on the CPU.

    Attributes:
        values: (S,), M; +inf where a state overflowed. S is `length` unless `samples` was given.
        argmax: (S, d), the Heaviside input that gives each value.
        settings: steps, dt, radii and norm.
        beta0: slowest decay rate of the model's modes, 1 / time: Theorem 3.9 lets a stably
            approximated memory decay no slower. NaN where it is unknown.
        floor: size of rounding errors, 0 where no outputs were subtracted.
    """

    values: Tensor
    argmax: Tensor
    settings: Settings = field(repr=False)
    beta0: float = math.nan
    floor: float = 0.0

    @property
    def steps(self) -> Tensor:
        """k, (S,) int64."""
        return self.settings.steps

    @property
    def times(self) -> Tensor:
        """k dt, (S,) float64."""
        return self.settings.times

    def fit(self) -> DecayFit:
        """Exponential or polynomial, with rate and margin, see `decay_fit`; beta0 beside it.

        Raises:
            ValueError: the record is too short.
        """
        return fit_decay(self.times, self.values, floor=self.floor, beta0=self.beta0)

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write step, time, memory and the input that gives it, one line per step, whole or not at all."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(("step", "time", "memory", *(f"x{i}" for i in range(self.argmax.shape[1]))))
        rows = zip(self.steps.tolist(), self.times.tolist(), self.values.tolist(), self.argmax.tolist(), strict=True)
        table.writerows((step, time, value, *point) for step, time, value, point in rows)
        write_text(path, text.getvalue())

    def plot(self, path_or_axes: "str | PathLike[str] | Axes") -> "Axes":
        """Draw M(t), its fit and the theorem's bound M(0) e^(-beta0 t).

        Time is logarithmic where the fit is polynomial: a fit is a straight line at late times.

        Args:
            path_or_axes: a file to write (its suffix chooses the format), or matplotlib axes.
        """
        from cofm_triton.memory_plot import draw, plot_memory

        return draw(path_or_axes, lambda axes: plot_memory(axes, self))


def memory_function(
    model: nn.Module,
    length: int,
    *,
    radius: float = 1.0,
    inputs: Tensor | None = None,
    norm: str = "inf",
    min_radius: float | None = None,
    samples: int | None = None,
    input_size: int | None = None,
    dt: float | None = None,
    initial_output: Tensor | float | None = None,
) -> MemoryFunction:
    """Memory function of a model, see the module's equation.

    One-layer `RNNFunctional` models are computed without cancellation (linear ones exactly, all
    others with a search over inputs that gives a lower bound of the sup), any other module by
    differences of its outputs in float64, with the same search: sign vectors (all of them up to 10
    dimensions) at up to 64 radii from `radius` down to `min_radius` in a geometric progression, then
    refinement of size and coordinates.

    Args:
        model: a cofm model, or any module that maps (N, T, d) to (N, T, p), or to a tuple that starts
            with it; it is not changed.
        length: T >= 1, steps 0..T-1.
        radius: R > 0.
        inputs: (n, d), the sup is over these alone; none of them zero. `radius` is not used then.
        norm: "inf" (Definition 3.1) or "inf+1" (the paper's proofs).
        min_radius: r, 0 < r <= R; None: see the module.
        samples: at most this many steps, spread evenly over log(k), for a large T; None: all.
        input_size: d of a module that has no `input_size` of its own.
        dt: step of a module that has none of its own, time; 1 if None.
        initial_output: y[-1] of a module that is no `RNNFunctional`, a number or (p,); None: its
            output under zero input if that is constant, else 0.

    Returns:
        A `MemoryFunction`.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an unknown name, a shape that does not fit, or a number out of range.

    Example:
        >>> import cofm_triton as cofm
        >>> model = cofm.RNNFunctional(1, 1, nonlinearity="linear", discretization="euler")
        >>> memory = memory_function(model, 100)
        >>> memory.fit().decay
        'exponential'
    """
    evaluator, settings = prepare(
        model,
        length,
        radius=radius,
        inputs=inputs,
        norm=norm,
        min_radius=min_radius,
        samples=samples,
        input_size=input_size,
        dt=dt,
        initial_output=initial_output,
    )
    memory = evaluator({name: p.detach().double()[None] for name, p in model.named_parameters()})
    return MemoryFunction(
        memory.values[0], memory.argmax[0], settings, memory.slowest[0].item(), memory.floor[0].item()
    )

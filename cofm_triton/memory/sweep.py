"""Memory functions of all perturbed copies of a model (arXiv 2305.19190, Definitions 3.1 and 3.4).

    M(k dt; theta + beta * direction)   for every radius beta and every direction

The theorem behind the curse of memory (3.9) asks that the memories of all models within the stability
radius decay together: the envelope over directions shows whether they do, and from which radius on
they no longer do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cofm_triton.memory.decay_fit import DecayFit, fit_decay
from cofm_triton.memory.evaluator import MemoryEvaluator
from cofm_triton.memory.figures import plot_sweep
from cofm_triton.memory.function import Settings, evaluator_of
from cofm_triton.memory.search import Domain
from cofm_triton.modules.calls import check_module
from cofm_triton.perturbation.copies import Copies
from cofm_triton.perturbation.directions import Directions, check_moves
from cofm_triton.support.figure_file import draw
from cofm_triton.support.files import write_table
from cofm_triton.support.progress import Progress, check_progress, part

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HELD_NUMBERS = 1 << 23  # perturbed parameters held at once: 64 MB


@dataclass(frozen=True)
class MemorySweep:
    """Memory functions of perturbed models, float64 on the CPU.

    Attributes:
        radii: (R,), of the perturbations.
        values: (R, J, S), M at each radius and direction; +inf where a state overflowed.
        beta0: (R, J), slowest decay rate of each model's modes, 1 / time; NaN where it is unknown.
        settings: steps, dt, input radii and norm, the same for all copies.
        floor: size of rounding errors, 0 where no outputs were subtracted.
    """

    radii: Tensor
    values: Tensor
    beta0: Tensor
    settings: Settings = field(repr=False)
    floor: float = 0.0

    @property
    def steps(self) -> Tensor:
        """k, (S,) int64."""
        return self.settings.steps

    @property
    def times(self) -> Tensor:
        """k dt, (S,) float64."""
        return self.settings.times

    @property
    def upper(self) -> Tensor:
        """The largest memory over directions, an envelope, (R, S)."""
        return self.values.amax(1)

    @property
    def lower(self) -> Tensor:
        """The smallest memory over directions, an envelope, (R, S)."""
        return self.values.amin(1)

    @property
    def diverged(self) -> Tensor:
        """Whether a state overflowed, (R, J) bool."""
        return ~self.values.isfinite().all(-1)

    def fit(self) -> list[DecayFit]:
        """Decay of the upper envelope at each radius, see `decay_fit`; the smallest beta0 beside it.

        Raises:
            ValueError: the record is too short.
        """
        return [
            fit_decay(self.times, curve, floor=self.floor, beta0=beta0)
            for curve, beta0 in zip(self.upper, self.beta0.amin(1).tolist(), strict=True)
        ]

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write radius, direction, step, time and memory, one line per value, whole or not at all."""
        rows = (
            (radius, direction, step, time, memory)
            for radius, curves in zip(self.radii.tolist(), self.values.tolist(), strict=True)
            for direction, curve in enumerate(curves)
            for step, time, memory in zip(self.steps.tolist(), self.times.tolist(), curve, strict=True)
        )
        write_table(path, ("radius", "direction", "step", "time", "memory"), rows)

    def plot(self, path_or_axes: "str | PathLike[str] | Axes") -> "Axes":
        """Draw the band between the envelopes of some radii, log-log.

        Args:
            path_or_axes: a file to write (its suffix chooses the format), or matplotlib axes.
        """
        return draw(path_or_axes, lambda axes: plot_sweep(axes, self.times, self.radii, self.lower, self.upper))


def memory_sweep(
    model: nn.Module,
    length: int,
    *,
    radii: Tensor | Sequence[float],
    directions: int | Directions = 30,
    seed: int = 0,
    radius: float = 1.0,
    inputs: Tensor | None = None,
    norm: str = "inf",
    ball: str = "inf",
    min_radius: float | None = None,
    samples: int | None = None,
    input_size: int | None = None,
    dt: float | None = None,
    initial_output: Tensor | float | None = None,
    warm_up: int = 0,
    progress: Progress | None = None,
) -> MemorySweep:
    """Memory functions of `theta + radii[i] * directions[j]`, all copies together.

    The domain of the inputs is the same for all copies: if any of them has a bias, it is that of a model
    with a bias (see `function.py`).

    Args:
        model: as for `memory_function`.
        length: T.
        radii: (R,), not negative, of the perturbations.
        directions: how many random directions, or a list of `{parameter name: tensor}`, as for
            `perturbation_error`.
        seed: of the random directions.
        radius: of the inputs.
        inputs: as for `memory_function`.
        norm: as for `memory_function`.
        ball: norm of the random directions, "inf" or "l2".
        min_radius: as for `memory_function`.
        samples: as for `memory_function`.
        input_size: as for `memory_function`.
        dt: as for `memory_function`.
        initial_output: as for `memory_function`.
        warm_up: as for `memory_function`.
        progress: called as `progress(done, total)`, in perturbed copies.

    Returns:
        A `MemorySweep`.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an unknown name, a shape that does not fit, or a number out of range.

    Example:
        >>> import cofm_triton as cofm
        >>> sweep = memory_sweep(cofm.RNNFunctional(1, 4), 50, radii=[0.0, 0.1], directions=3)
        >>> sweep.values.shape
        torch.Size([2, 3, 50])
    """
    check_progress(progress)
    grid, copies, evaluator = _prepared(
        model,
        length,
        radii,
        directions,
        seed,
        ball,
        radius=radius,
        inputs=inputs,
        norm=norm,
        min_radius=min_radius,
        samples=samples,
        input_size=input_size,
        dt=dt,
        initial_output=initial_output,
        warm_up=warm_up,
    )
    values = torch.empty(len(grid), copies.count, len(evaluator.steps), dtype=torch.float64, device="cpu")
    slowest = torch.empty(values.shape[:2], dtype=torch.float64, device="cpu")
    floor = 0.0
    jobs = list(copies.jobs(grid, _HELD_NUMBERS))
    done, total = 0, sum(len(r) for r, _ in jobs)
    for r, j in jobs:
        memory = evaluator(copies.at(grid[r], j), part(progress, done, len(r), total))
        done += len(r)
        values[r, j], slowest[r, j] = memory.values, memory.slowest
        floor = max(floor, memory.floor.max().item())
    still = grid == 0
    values[still], slowest[still] = values[still, :1], slowest[still, :1]
    return MemorySweep(grid, values, slowest, Settings.of(evaluator), floor)


def sweep_domain(
    model: nn.Module,
    length: int,
    *,
    radii: Tensor | Sequence[float],
    directions: int | Directions = 30,
    seed: int = 0,
    ball: str = "inf",
    **options: Any,
) -> Domain:
    """The inputs that `memory_sweep` of the same arguments would look at: for parts of it made one by one.

    Args:
        model: as for `memory_sweep`, like all others.
        length: T.
        radii: of the perturbations.
        directions: of the perturbations.
        seed: of the random directions.
        ball: norm of the random directions.
        options: radius, norm, min_radius, samples, input_size, dt and warm_up.

    Raises:
        TypeError, ValueError: as `memory_sweep`.

    Example:
        >>> import cofm_triton as cofm
        >>> options = dict(radius=1.0, norm="inf", min_radius=None, samples=None, input_size=None, dt=None)
        >>> options["warm_up"] = 0
        >>> sweep_domain(cofm.RNNFunctional(1, 4), 50, radii=[0.1], **options).smallest
        1.0
    """
    unused: dict[str, Any] = dict(inputs=None, initial_output=None)
    return _prepared(model, length, radii, directions, seed, ball, **unused, **options)[2].domain


def _prepared(
    model: nn.Module,
    length: int,
    radii: Tensor | Sequence[float],
    directions: int | Directions,
    seed: int,
    ball: str,
    **options: Any,
) -> tuple[Tensor, Copies, MemoryEvaluator]:
    """Radii, copies and evaluator of a sweep, checked; options as of `evaluator_of`."""
    if radii is None:
        raise TypeError("radii must be a list of numbers, got None")
    check_module("model", model)
    grid, (chosen,) = check_moves([model], radii, directions, seed=seed, search="random", ball=ball)
    copies = Copies(model, chosen)
    probe = copies.at(grid.max().expand(len(chosen)), torch.arange(len(chosen), device="cpu"))
    return grid, copies, evaluator_of(model, length, probe, **options)

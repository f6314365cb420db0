"""The perturbation error E_m(beta) of trained models (arXiv 2305.19190, Definition 3.4).

    E_m(beta) = sup { |H - Hhat(.; theta)| : |theta - theta_m| <= beta },  per parameter tensor

estimated over random directions, along the slow direction, or by ascent. A maximum over random
directions is a lower bound of the supremum, often a loose one; `search="gradient"` gives a better
one (never a smaller one), and the curve keeps both.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from cofm_triton.perturbation.directions import (
    Direction,
    check_ball,
    norm,
    paper_radii,
    parameter_shapes,
    random_directions,
    slow_direction,
)
from cofm_triton.perturbation.evaluator import ErrorEvaluator
from cofm_triton.perturbation.worst_case import ascend, evaluations
from cofm_triton.support.files import write_text
from cofm_triton.support.progress import Finished, Progress, counting, ignore
from cofm_triton.support.scalars import as_int, as_number, check_choice, check_int, check_real, described

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Directions = Sequence[Mapping[str, Tensor]]

SEARCHES = ("random", "slow", "gradient")

_NUMBER_BYTES = 8
_LENGTH_SLACK = 1e-5  # directions that were normalised in float32
_CHUNK_NUMBERS = 1 << 23  # perturbed parameters held at once: 64 MB, at most half the memory limit


@dataclass(frozen=True)
class PerturbationCurve:
    """Errors of perturbed models: one row per model, one column per radius, float64 on the CPU.

    Attributes:
        radii: (radii,).
        per_direction: (models, radii, directions), +inf where a state overflowed.
        error: (models, radii), the largest over directions and, for `search="gradient"`, over
            what the ascent found: the best known lower bound of the supremum.
        diverged: (models, radii) bool, whether a perturbed model overflowed.
        found: for `search="gradient"` one list per model of one `{parameter name: tensor}` per
            radius: the perturbation (radius included) that gives `error`; otherwise None.
    """

    radii: Tensor
    per_direction: Tensor
    error: Tensor
    diverged: Tensor
    found: list[list[Direction]] | None = None

    @property
    def mean(self) -> Tensor:
        """Mean over directions, (models, radii)."""
        return self.per_direction.mean(-1)

    @property
    def running_max(self) -> Tensor:
        """The largest `error` over this radius and all smaller ones, (models, radii)."""
        order = self.radii.argsort(stable=True)
        running = self.error[:, order].cummax(1).values
        return running[:, order.argsort()]

    def quantile(self, q: float) -> Tensor:
        """The q-quantile over directions, (models, radii), linear between neighbours.

        Raises:
            TypeError: q is no number.
            ValueError: q outside [0, 1].
        """
        q = check_real("q", q)
        if not 0 <= q <= 1:
            raise ValueError(f"q must be in [0, 1], got {q!r}")
        ordered = self.per_direction.sort(-1).values
        position = q * (ordered.shape[-1] - 1)
        below, share = int(position), position - int(position)
        low, high = ordered[..., below], ordered[..., min(below + 1, ordered.shape[-1] - 1)]
        # inf - inf is NaN: no interpolation next to an infinite error, nor by a zero share
        mixed = torch.where(high.isfinite(), low + share * (high - low), high)
        return mixed if share else low

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write one line per (model, radius, direction), whole or not at all.

        Columns: model (index), radius, direction (index), error (`inf` where it diverged),
        diverged (0 or 1). Numbers are written so that reading them gives the same float64. The
        result of an ascent is a line of its own, direction "found".
        """
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(("model", "radius", "direction", "error", "diverged"))
        for m, rows in enumerate(self.per_direction.tolist()):
            for r, (radius, errors) in enumerate(zip(self.radii.tolist(), rows, strict=True)):
                lines: list[tuple[int | str, float]] = list(enumerate(errors))
                if self.found is not None:
                    lines.append(("found", self.error[m, r].item()))
                table.writerows((m, radius, j, e, int(e == torch.inf)) for j, e in lines)
        write_text(path, text.getvalue())

    def plot(self, path_or_axes: "str | PathLike[str] | Axes") -> "Axes":
        """Draw error against radius, log-log: the mean, a band of quantiles and the maximum.

        Args:
            path_or_axes: a file to write (its suffix chooses the format), or matplotlib axes.

        Returns:
            The axes drawn on. Radius 0 has no place on a logarithmic axis and is left out.
        """
        from cofm_triton.support.figure_file import draw

        return draw(path_or_axes, self._draw)

    def _draw(self, axes: "Axes") -> None:
        shown = self.radii > 0
        radii = self.radii[shown].numpy()
        low, high = self.quantile(0.1), self.quantile(0.9)
        for m in range(len(self.error)):
            values = self.error[m, shown]
            line = axes.plot(radii, torch.where(values.isfinite(), values, torch.nan).numpy())[0]
            line.set_label(f"model {m}")
            band = (low[m, shown].numpy(), high[m, shown].numpy())
            axes.fill_between(radii, *band, color=line.get_color(), alpha=0.2, linewidth=0)
        axes.set(xscale="log", yscale="log", xlabel="radius of the perturbation", ylabel="error")
        axes.set_title("Largest error (line), 10 to 90 % of directions (band)")
        axes.legend()


def perturbation_error(
    models: nn.Module | Sequence[nn.Module],
    inputs: Tensor,
    targets: Tensor,
    *,
    radii: Tensor | Sequence[float] | None = None,
    directions: int | Directions = 30,
    seed: int = 0,
    search: str = "random",
    ball: str = "inf",
    metric: str = "twe",
    dtype: torch.dtype | None = None,
    memory_limit: int | None = None,
    progress: Progress | None = None,
) -> PerturbationCurve:
    """Errors of models whose parameters are moved by every radius along every direction.

    Each model is evaluated as `theta + radius * direction` on all sequences. One-layer
    `RNNFunctional` models that are no more than their class says (`plain.py`) take a fused path
    (linear ones a closed form), any other module is called, in evaluation mode and under
    `torch.func.vmap`. Pairs of units go the way of other modules where a nonlinearity reads them out
    ("ssm"), or where it is inside and they are more than 256 units. Tensors that are shared move
    once, under the one name that `named_parameters()` gives them. The models themselves are not
    changed, also where a call fails or is interrupted.

    Args:
        models: a module or several, of any widths; each maps (N, T, d) to (N, T, p) or to a tuple
            that starts with it, and has the dtype and device of the data.
        inputs: (N, T, d), float32 or float64.
        targets: (N, T, p).
        radii: (radii,), non-negative; None: the paper's grid, see `directions.paper_radii`.
        directions: how many random directions, or a list of `{parameter name: tensor}` that are
            added times the radius, as given; parameters left out do not move.
        seed: of the random directions, which are the same at every radius.
        search: "random"; "slow" (the one direction towards slower decay); or "gradient" (ascent
            from the worst random directions and the slow one).
        ball: "inf" (largest entry, the paper's code) or "l2" (its definition), per tensor.
        metric: "twe" (temporally weighted mean squared error), "mse" or "sup".
        dtype: of the states of nonlinear one-layer models, float32 (twice as fast) or float64;
            None: the dtype of `inputs`. Errors are summed in float64 always.
        memory_limit: bytes that perturbed copies of a module that is no one-layer cofm model may
            take at a time, with everything that is computed from them; None: 1 GiB. Copies, and if
            need be sequences, are taken in groups that fit, by a measurement on one copy.
        progress: called as `progress(done, total)`, in perturbed models; every step of an ascent counts as one more
            at each radius.

    Returns:
        A `PerturbationCurve`.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: an unknown name, a shape that does not fit, or a number out of range.

    Example:
        >>> import cofm_triton as cofm
        >>> x, y = cofm.targets.generate("exp", 16, 20)
        >>> model = cofm.RNNFunctional(1, 4, dtype=torch.float64)
        >>> curve = perturbation_error(model, x, y, radii=[0.0, 0.1], directions=3)
        >>> curve.per_direction.shape
        torch.Size([1, 2, 3])
    """
    family = as_family(models)
    evaluator = ErrorEvaluator(inputs, targets, metric, dtype, memory_limit)
    grid = check_radii(radii)
    check_ball(ball)
    check_choice("search", search, SEARCHES)
    for model in family:
        evaluator.check(model)
    # Everything is checked before the first model is computed.
    all_directions = [make_directions(model, directions, seed, search, ball) for model in family]
    total = sum(len(_jobs(grid, chosen)) for chosen in all_directions)
    if search == "gradient":
        total += len(family) * len(grid) * evaluations()
    finished = counting(progress, total)
    errors = errors_of_family(evaluator, list(zip(family, all_directions, strict=True)), grid, finished)
    curves = [
        _curve(evaluator, model, grid, chosen, found, search, ball, finished)
        for model, chosen, found in zip(family, all_directions, errors, strict=True)
    ]
    return _joined(curves)


def _curve(
    evaluator: ErrorEvaluator,
    model: nn.Module,
    radii: Tensor,
    directions: Directions,
    errors: Tensor,
    search: str,
    ball: str,
    finished: Finished,
) -> PerturbationCurve:
    """The curve of one model, from its errors along directions, (radii, directions)."""
    error = errors.amax(-1)[None]
    found = None
    if search == "gradient":
        worst = ascend(evaluator, model, radii, directions, errors, ball, finished=finished)
        error, found = worst.error[None], [worst.perturbations]
    return PerturbationCurve(radii, errors[None], error, error.isinf(), found)


def _joined(curves: Sequence[PerturbationCurve]) -> PerturbationCurve:
    """One curve per model, one below the other."""
    found = [curve.found[0] for curve in curves if curve.found is not None]
    return PerturbationCurve(
        curves[0].radii,
        torch.cat([curve.per_direction for curve in curves]),
        torch.cat([curve.error for curve in curves]),
        torch.cat([curve.diverged for curve in curves]),
        found or None,
    )


def as_family(models: nn.Module | Iterable[nn.Module]) -> list[nn.Module]:
    """One model or several as a list.

    Raises:
        TypeError: neither.
        ValueError: none.
    """
    if isinstance(models, nn.Module) and not isinstance(models, nn.ModuleList):
        return [models]
    if isinstance(models, type) or not isinstance(models, Iterable):
        raise TypeError(f"models must be a torch.nn.Module or a list of them, got {models!r}")
    family = list(models)
    if not family:
        raise ValueError("models must hold at least one model, got none")
    return family


def errors_along(evaluator: ErrorEvaluator, model: nn.Module, radii: Tensor, directions: Directions) -> Tensor:
    """Errors of `theta + radius * direction` of one model, (radii, directions) float64."""
    return errors_of_family(evaluator, [(model, directions)], radii)[0]


def errors_of_family(
    evaluator: ErrorEvaluator,
    family: Sequence[tuple[nn.Module, Directions]],
    radii: Tensor,
    finished: Finished = ignore,
) -> list[Tensor]:
    """Errors of `theta + radius * direction`, (radii, directions) float64 for each model.

    Radius zero is computed once. Copies are formed, and handed on together, as many at a time as memory takes;
    `finished` is told how many are.
    """
    held = min(_CHUNK_NUMBERS, evaluator.memory_limit // _NUMBER_BYTES // 2)
    errors = [torch.empty(len(radii), len(directions), dtype=torch.float64, device="cpu") for _, directions in family]
    pending: list[_Copies] = []

    def compute() -> None:
        results = evaluator.of_family([(copies.model, copies.parameters) for copies in pending], finished)
        for copies, result in zip(pending, results, strict=True):
            copies.errors[copies.r, copies.j] = result
        pending.clear()

    room = held
    for (model, directions), into in zip(family, errors, strict=True):
        for copies in _copies(model, radii, directions, held, into):
            size = sum(value.numel() for value in copies.parameters.values())
            if pending and size > room:
                compute()
                room = held
            pending.append(copies)
            room -= size
    compute()
    for found in errors:
        found[radii == 0] = found[radii == 0, :1]
    return errors


class _Copies(NamedTuple):
    """Perturbed copies of a model, and where their errors belong."""

    model: nn.Module
    parameters: dict[str, Tensor]
    errors: Tensor
    r: Tensor
    j: Tensor


def _jobs(radii: Tensor, directions: Directions) -> list[tuple[int, int]]:
    """Indices of the radius and direction of every copy, radius 0 once."""
    return [(r, j) for r in range(len(radii)) for j in range(len(directions) if radii[r] != 0 else 1)]


def _copies(model: nn.Module, radii: Tensor, directions: Directions, held: int, errors: Tensor) -> Iterator[_Copies]:
    """The copies at all radii and directions, at most `held` numbers at a time."""
    base = {name: p.detach().double() for name, p in model.named_parameters()}
    stacked = {name: torch.stack([_entry(d, name, value) for d in directions]) for name, value in base.items()}
    jobs = _jobs(radii, directions)
    size = max(1, held // max(1, sum(p.numel() for p in base.values())))
    for first in range(0, len(jobs), size):
        r, j = torch.tensor(jobs[first : first + size], device="cpu").T
        parameters = {
            name: value + _like(radii[r], value) * stacked[name][j.to(value.device)] for name, value in base.items()
        }
        yield _Copies(model, parameters, errors, r, j)


def _entry(direction: Mapping[str, Tensor], name: str, value: Tensor) -> Tensor:
    given = direction.get(name)
    return torch.zeros_like(value) if given is None else given.detach().to(value)


def _like(radii: Tensor, value: Tensor) -> Tensor:
    return radii.to(value.device).reshape(-1, *([1] * value.dim()))


def check_radii(radii: Tensor | Sequence[float] | None) -> Tensor:
    """The radii as a float64 tensor, the paper's when None."""
    if radii is None:
        return paper_radii()
    plain: Any = radii
    if isinstance(radii, Sequence):
        plain = [radius if as_number(radius) is None else as_number(radius) for radius in radii]
    try:
        given = torch.as_tensor(plain, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"radii must be a list of numbers, got {radii!r}") from None
    if given.is_complex() or given.dtype == torch.bool:
        raise TypeError(f"radii must be real numbers, got {radii!r}")
    if given.dim() != 1 or len(given) == 0:
        raise ValueError(f"radii must be a non-empty list of numbers, got {radii!r}")
    if not isinstance(radii, Tensor) and any(as_number(radius) is None for radius in plain):
        raise TypeError(f"radii must be a list of numbers, got {radii!r}")
    # A list is read once more: PyTorch's default dtype would round its numbers.
    grid = given.double() if isinstance(radii, Tensor) else torch.as_tensor(plain, dtype=torch.float64, device="cpu")
    if not bool(((grid >= 0) & grid.isfinite()).all()):
        raise ValueError(f"radii must be finite and not negative, got {radii!r}")
    return grid


def make_directions(
    model: nn.Module,
    directions: int | Directions,
    seed: int,
    search: str,
    ball: str,
) -> Directions:
    """The directions of one model, checked."""
    if search == "slow":
        return [slow_direction(model, ball=ball)]
    shapes = parameter_shapes(model)
    if not isinstance(directions, Sequence):
        if as_int(directions) is None:
            raise TypeError(f"directions must be a count or a list of dicts, got {described(directions)}")
        count = check_int("directions", directions, 1)
        return random_directions(shapes, range(count), seed=seed, ball=ball)
    if not directions:
        raise ValueError("directions must hold at least one direction, got an empty list")
    for direction in directions:
        _check_direction(direction, shapes)
        if search == "gradient":
            _check_length(direction, ball)
    return directions


def _check_direction(direction: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> None:
    if not isinstance(direction, Mapping):
        raise TypeError(f"directions must hold dicts of tensors, got {type(direction).__name__}")
    for name, value in direction.items():
        if name not in shapes:
            raise ValueError(f"directions name parameters: {tuple(shapes)}, got {name!r}")
        if not isinstance(value, Tensor) or value.is_complex():
            given = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"directions must hold real tensors, got {given} for {name!r}")
        if value.shape != shapes[name]:
            raise ValueError(
                f"directions must have the parameters' shapes: {name!r} is "
                f"{tuple(shapes[name])}, got {tuple(value.shape)}"
            )
        if not bool(value.isfinite().all()):
            raise ValueError(f"directions must be finite, got NaN or infinity in {name!r}")


def _check_length(direction: Mapping[str, Tensor], ball: str) -> None:
    """Raises ValueError where an ascent, which stays in the ball, would start outside of it."""
    for name, value in direction.items():
        length = float(norm(value.double(), ball)) if value.numel() else 0.0
        if length > 1 + _LENGTH_SLACK:
            ball_of = f"the unit ball {ball!r} for search='gradient'"
            raise ValueError(f"directions must lie in {ball_of}, got {name!r} of length {length:g}")


def traffic(sequences: int, length: int, inputs: int, outputs: int, itemsize: int) -> int:
    """Bytes that a sweep must move for all models that are computed together: inputs and targets, read once."""
    return (inputs + outputs) * sequences * length * itemsize

"""The perturbation error E_m(beta) of trained models (arXiv 2305.19190, Definition 3.4).

    E_m(beta) = sup { |H - Hhat(.; theta)| : |theta - theta_m| <= beta },  per parameter tensor

estimated over random directions, along the slow direction, or by ascent. A maximum over random
directions is a lower bound of the supremum, often a loose one; `search="gradient"` gives a better
one (never a smaller one), and the curve keeps both.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cofm_triton.perturbation.copies import errors_of_family
from cofm_triton.perturbation.directions import Direction, Directions, check_moves
from cofm_triton.perturbation.evaluator import ErrorEvaluator
from cofm_triton.perturbation.quadratic_form import Metric
from cofm_triton.perturbation.worst_case import ascend, evaluations
from cofm_triton.support.figure_file import draw, legend_below, log_ticks
from cofm_triton.support.files import write_table
from cofm_triton.support.progress import Progress, counting
from cofm_triton.support.scalars import check_real
from cofm_triton.support.tensors import check_tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        models, radii, directions = self.per_direction.shape
        smallest, largest = int(self.radii.argmin()), int(self.radii.argmax())
        ends = (f"{self.error[:, r].amax():.3g} at {self.radii[r]:.4g}" for r in (smallest, largest))
        return (
            f"PerturbationCurve: {models} model{'s' * (models != 1)}, {radii} radii, {directions} directions\n"
            f"largest error: {', '.join(ends)}\n"
            f"diverged: {int(self.diverged.sum())} of {self.diverged.numel()}"
        )

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
        rows = [
            (m, radius, j, error, int(error == torch.inf))
            for m, errors in enumerate(self.per_direction.tolist())
            for r, radius in enumerate(self.radii.tolist())
            for j, error in (*enumerate(errors[r]), *([("found", self.error[m, r].item())] if self.found else []))
        ]
        write_table(path, ("model", "radius", "direction", "error", "diverged"), rows)

    def plot(self, path_or_axes: "str | PathLike[str] | Axes") -> "Axes":
        """Draw error against radius, log-log: the mean, a band of quantiles and the maximum.

        Args:
            path_or_axes: a file to write (its suffix chooses the format), or matplotlib axes.

        Returns:
            The axes drawn on. Radius 0 has no place on a logarithmic axis and is left out.
        """
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
        log_ticks(axes)
        axes.set_title("Largest error (line), 10 to 90 % of directions (band)")
        legend_below(axes, columns=4)


def perturbation_error(
    models: nn.Module | Sequence[nn.Module],
    inputs: Tensor | Iterable[Sequence[Tensor]],
    targets: Tensor | None = None,
    *,
    radii: Tensor | Sequence[float] | None = None,
    directions: int | Directions = 30,
    seed: int = 0,
    search: str = "random",
    ball: str = "inf",
    metric: Metric = "twe",
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
        inputs: (N, T, d), float32 or float64; or a `DataLoader` of pairs (inputs, targets), which is read once and kept
            in memory.
        targets: (N, T, p), of the inputs' dtype; with a loss of yours (N, ...) of any dtype, such as class labels. None
            where `inputs` brings them.
        radii: (radii,), non-negative; None: the paper's grid, see `directions.paper_radii`.
        directions: how many random directions, or a list of `{parameter name: tensor}` that are
            added times the radius, as given; parameters left out do not move.
        seed: of the random directions, which are the same at every radius.
        search: "random"; "slow" (the one direction towards slower decay); or "gradient" (ascent
            from the worst random directions and the slow one).
        ball: "inf" (largest entry, the paper's code) or "l2" (its definition), per tensor.
        metric: "twe" (temporally weighted mean squared error), "mse", "sup", or weights (T,) w of the steps,
            sum_k w_k mean((yhat_k - y_k)^2): `loss.rescaled_weights` has a family, `loss.memory_bias` what it favours.
            Or a loss of yours, `metric(outputs, targets)`: a scalar that is a mean over sequences (batches are averaged
            by their sizes), differentiable for `search="gradient"`. Models then are called, and may put out any
            (N, ...).
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

        Class labels, one per sequence, read at the last step:

        >>> labels = torch.randint(2, (16,))
        >>> def loss(outputs, targets):
        ...     return torch.nn.functional.cross_entropy(outputs[:, -1], targets)
        >>> classifier = cofm.RNNFunctional(1, 4, 2, dtype=torch.float64)
        >>> perturbation_error(classifier, x, labels, radii=[0.1], metric=loss).error.shape
        torch.Size([1, 1])
    """
    family = as_family(models)
    inputs, targets = _all_pairs(inputs, targets)
    evaluator = ErrorEvaluator(inputs, targets, metric, dtype, memory_limit)
    for model in family:
        evaluator.check(model)
    # Everything is checked before the first model is computed.
    grid, all_directions = check_moves(family, radii, directions, seed=seed, search=search, ball=ball)
    total = sum(len(chosen) if radius else 1 for chosen in all_directions for radius in grid.tolist())
    if search == "gradient":
        total += len(family) * len(grid) * evaluations()
    finished = counting(progress, total)
    errors = errors_of_family(evaluator, list(zip(family, all_directions, strict=True)), grid, finished)
    per_direction, found = torch.stack(errors), None
    error = per_direction.amax(-1)
    if search == "gradient":
        worst = [
            ascend(evaluator, model, grid, chosen, known, ball, finished=finished)
            for model, chosen, known in zip(family, all_directions, errors, strict=True)
        ]
        error, found = torch.stack([case.error for case in worst]), [case.perturbations for case in worst]
    return PerturbationCurve(grid, per_direction, error, error.isinf(), found)


def _all_pairs(inputs: Tensor | Iterable[Sequence[Tensor]], targets: Tensor | None) -> tuple[Tensor, Tensor]:
    """Inputs and targets of all sequences, from a loader too."""
    if targets is not None:
        if not isinstance(inputs, Tensor):
            raise TypeError(f"inputs must be a torch.Tensor, or a loader without targets, got {type(inputs).__name__}")
        return inputs, targets
    if isinstance(inputs, Tensor) or not isinstance(inputs, Iterable):
        raise TypeError("targets must be a torch.Tensor, got None; only a loader of pairs as inputs brings them")
    pairs = list(inputs)
    if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs) or not pairs:
        raise TypeError("inputs must be a loader of pairs (inputs, targets), got none or other batches")
    xs, ys = zip(*pairs, strict=True)
    for name, batches in (("inputs", xs), ("targets", ys)):
        for batch in batches:
            check_tensor(name, batch)
    return torch.cat(xs), torch.cat(ys)


def as_family(models: nn.Module | Iterable[nn.Module]) -> list[nn.Module]:
    """One model or several as a list.

    Raises:
        TypeError: neither.
        ValueError: none.
    """
    if isinstance(models, nn.Module) and not isinstance(models, nn.ModuleList):
        return [models]
    if isinstance(models, (type, Tensor)) or not isinstance(models, Iterable):
        raise TypeError(f"models must be a torch.nn.Module or a list of them, got {models!r}")
    family = list(models)
    if not family:
        raise ValueError("models must hold at least one model, got none")
    return family

"""Stable or unstable: how far all memories can be slowed, and how that distance scales with time.

The slow-direction radius is  r = max {beta : E(beta') <= 0.1 P for all beta' <= beta},  where E is
the error after every raw recurrent weight has moved by beta towards slower decay, and P the error
of the zero model. At one horizon it says little; over horizons T, 2T, 4T, 8T it tells the two
cases of arXiv 2305.19190 (Theorem 3.9) apart: a stable approximation keeps a radius that does not
depend on T, an unstable one has r -> 0.

    s = d log r / d log T at the longest horizon, from a parabola (`local_slope.py`), with standard error e

    s + 2 e < -0.3: unstable,    s - 2 e > -0.3: stable,    else: undecided

At the bound a radius halves while T grows tenfold. The two cases lie far on either side: a stable approximation has
s -> 0. For a memory t^-p and direct rates, the slowed kernel must keep  T^(1 - 2p) e^(2 r T)  bounded, hence
r ~ (p - 1/2) log T / T and s -> -1 (limit formula of "pol": -0.66 at T = 800).

The slope is a statement about large T, so with more than five different horizons the five longest decide. A radius
at `max_radius` is a lower bound: only horizons beyond the last such one enter the fit. A radius below what rounding
lets a weight move by (`resolution`) says nothing, and decides nothing.

The radii come from trained models, one per horizon, or from a target alone: as the width grows a
model's kernel tends to the target's, and the slowed kernel has a closed form,

    direct   E(beta) = sum_s V_s rho(s)^2 (e^(beta s) - 1)^2        rate -> rate - beta
    exp      E(beta) = sum_s V_s (rho(s e^-beta) - rho(s))^2        rate -> rate e^-beta
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cofm_triton.layers.stable_rnn import StableRNN
from cofm_triton.perturbation.copies import errors_along
from cofm_triton.perturbation.curve import as_family
from cofm_triton.perturbation.directions import Directions, check_moves, slow_direction
from cofm_triton.perturbation.evaluator import ErrorEvaluator
from cofm_triton.perturbation.figures import plot_verdict
from cofm_triton.perturbation.local_slope import FEWEST, SCATTER, LocalSlope, local_slope
from cofm_triton.perturbation.quadratic_form import QUADRATIC_METRICS, Metric, step_weights
from cofm_triton.support.figure_file import draw
from cofm_triton.support.progress import Progress, counting
from cofm_triton.support.scalars import check_choice, check_int, check_not_negative, check_number, check_real
from cofm_triton.targets import Target
from cofm_triton.targets import target as look_up_target

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BOUND = -0.3
"""Slope between unstable and stable: the radius halves while T grows tenfold."""

LIMITS = ("direct", "exp")

MAX_RADIUS = 2.048
"""Where the search for a radius ends: twice the largest radius of the paper's sweep."""

_UNKNOWN = LocalSlope(math.nan, math.nan, math.nan)
_ERRORS = 2  # standard errors by which a slope must be clear of the bound
_DECIDING = 5  # different horizons T, 2T, 4T, 8T, 16T
_SMALLEST = 1e-6  # radius below which there is no search
_GRID_PER_OCTAVE = 2  # first look: the step of the paper's radii
_FAN = 8  # radii tried at once when the crossing is narrowed down
_RELATIVE_WIDTH = 1e-5

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class StabilityVerdict:
    """A verdict and what it rests on.

    Attributes:
        verdict: "stable", "unstable" or "undecided".
        horizons: lengths T of the sequences, ascending; one per model.
        radii: slow-direction radius at each horizon; 0 where the model misses the threshold
            unperturbed.
        resolutions: smallest radius at each horizon that moves every raw recurrent weight by more
            than its rounding.
        censored: whether the radius is only known to be at least `max_radius`.
        slope: d log r / d log T at the longest horizon; NaN where a deciding radius is 0, not resolved or censored,
            or horizons are too few.
        error: standard error of the slope.
        trend: how much the slope grows while T doubles: > 0 for radii that level off.
        margin: smallest rate of all models, 1 / time; NaN for a limit formula.
        reason: one sentence.
    """

    verdict: str
    horizons: tuple[int, ...]
    radii: tuple[float, ...]
    resolutions: tuple[float, ...]
    censored: tuple[bool, ...]
    slope: float
    error: float
    trend: float
    margin: float
    reason: str

    def __str__(self) -> str:
        """What a reader wants first; `repr` has all the numbers."""
        return f"{self.verdict}: {self.reason}"

    def plot(self, path_or_axes: "str | PathLike[str] | Axes", *, label: str | None = None) -> "Axes":
        """Draw r(T), and the slope at the longest horizon beside the one that decides.

        The scaling with T counts. How high one curve lies beside another's says nothing: models measure their weights
        in different units.

        Args:
            path_or_axes: a file to write (its suffix chooses the format), or matplotlib axes, to which verdicts may be
                added one by one.
            label: in the legend.
        """
        return draw(path_or_axes, lambda axes: plot_verdict(axes, self, BOUND, _ERRORS, label))


def slow_direction_radius(
    models: nn.Module | Sequence[nn.Module],
    inputs: Tensor,
    targets: Tensor,
    *,
    threshold: float = 0.1,
    max_radius: float = MAX_RADIUS,
    metric: Metric = "twe",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> list[float]:
    """Slow-direction radius of each model on the same data; see the module's definition.

    Args:
        models: cofm models, see `directions.slow_direction`.
        inputs: (N, T, d), float32 or float64.
        targets: (N, T, p).
        threshold: largest error, as a share of the zero model's.
        max_radius: where the search ends; returned when the error never exceeds the threshold.
        metric: "twe", "mse", or weights (T,) of the steps' squared errors (`loss.rescaled_weights`).
        dtype: of the states, as for `perturbation_error`.
        progress: called as `progress(finished models, models)`.

    Returns:
        One radius per model; 0 where even the unperturbed error exceeds the threshold.

    Raises:
        TypeError, ValueError: as `perturbation_error`, and for numbers out of range.
    """
    threshold, max_radius = _check_search(threshold, max_radius)
    family = as_family(models)
    evaluator = _checked_evaluator(family, inputs, targets, metric, dtype)
    searches = [(evaluator, model, [slow_direction(model)]) for model in family]
    return _radii(searches, threshold, max_radius, progress)


def _checked_evaluator(
    family: Sequence[nn.Module], inputs: Tensor, targets: Tensor, metric: Metric, dtype: torch.dtype | None
) -> ErrorEvaluator:
    """What computes the errors of models on their data, all checked."""
    if not isinstance(metric, Tensor):
        check_choice("metric", metric, QUADRATIC_METRICS)
    evaluator = ErrorEvaluator(inputs, targets, metric, dtype)
    for model in family:
        evaluator.check(model)
    return evaluator


def _radii(
    searches: Sequence[tuple[ErrorEvaluator, nn.Module, Directions]],
    threshold: float,
    max_radius: float,
    progress: Progress | None,
) -> list[float]:
    """The radius of every model on its data, along its directions."""
    finished, radii = counting(progress, len(searches)), []
    for evaluator, model, directions in searches:
        radii.append(_radius(evaluator, model, directions, threshold, max_radius))
        finished(1)
    return radii


def _radius(
    evaluator: ErrorEvaluator, model: nn.Module, directions: Directions, threshold: float, max_radius: float
) -> float:
    errors = partial(_largest_error, evaluator, model, directions)
    return _first_crossing(errors, threshold * evaluator.zero_error, max_radius)


def _largest_error(evaluator: ErrorEvaluator, model: nn.Module, directions: Directions, radii: Tensor) -> Tensor:
    return errors_along(evaluator, model, radii, directions).amax(1)


def limit_radius(
    target: str | Target | Function,
    length: int,
    *,
    parameterization: str = "direct",
    dt: float = 1.0,
    threshold: float = 0.1,
    max_radius: float = MAX_RADIUS,
    metric: Metric = "twe",
) -> float:
    """Slow-direction radius of the infinitely wide model at one horizon.

    Args:
        target: a name of `cofm.targets`, a target, or its impulse response rho(s).
        length: T >= 1.
        parameterization: "direct" or "exp".
        dt: step, time.
        threshold: as for `slow_direction_radius`.
        max_radius: as for `slow_direction_radius`.
        metric: as for `slow_direction_radius`.

    Raises:
        TypeError, ValueError: an argument of the wrong type, or out of range.

    Example:
        >>> round(limit_radius("exp", 100), 4)
        0.4488
    """
    threshold, max_radius = _check_search(threshold, max_radius)
    check_choice("parameterization", parameterization, LIMITS)
    length = check_int("length", length, 1)
    dt = check_number("dt", dt)
    rho = _impulse_response(target)
    tail = step_weights(length, metric).flip(0).cumsum(0).flip(0)  # V_s
    time = torch.arange(length, dtype=torch.float64, device="cpu") * dt
    kernel = rho(time)
    if not isinstance(kernel, Tensor) or kernel.shape != time.shape:
        given = tuple(kernel.shape) if isinstance(kernel, Tensor) else type(kernel).__name__
        raise ValueError(f"target must map times (T,) to a tensor (T,), got {given}")

    def errors(radii: Tensor) -> Tensor:
        beta = radii[:, None]
        if parameterization == "direct":
            # The gap is zero where the kernel is, however fast the factor grows.
            gap = torch.where(kernel == 0, 0.0, kernel * torch.expm1(beta * time))
        else:
            gap = rho(time * torch.exp(-beta)) - kernel
        return (tail * gap**2).sum(1)

    return _first_crossing(errors, threshold * (tail * kernel**2).sum().item(), max_radius)


def stability_verdict(
    models: Sequence[nn.Module] | None = None,
    inputs: Sequence[Tensor] | None = None,
    targets: Sequence[Tensor] | None = None,
    *,
    target: str | Target | Function | None = None,
    parameterization: str = "direct",
    horizons: Sequence[int] = (50, 100, 200, 400, 800),
    dt: float = 1.0,
    search: str = "slow",
    directions: int = 30,
    seed: int = 0,
    threshold: float = 0.1,
    max_radius: float = MAX_RADIUS,
    metric: Metric = "twe",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> StabilityVerdict:
    """The horizon test, from trained models or from a target's limit formula.

    Give either `models`, `inputs` and `targets`, one of each per horizon (a model is judged on
    the length it was trained for), or `target`. It takes three different horizons to see curvature; each further one,
    and each further model of the same length trained from another seed, makes the error of the slope smaller.

    Source: arXiv 2305.19190, Definition 3.4 (stable approximation) and Theorem 3.9; the horizon test is derived in
    the module's description.

    Args:
        models: trained cofm models; any modules for `search="random"`.
        inputs: one (N, T, d) per model.
        targets: one (N, T, p) per model.
        target: of the limit formula, see `limit_radius`.
        parameterization: of the limit formula.
        horizons: of the limit formula, steps.
        dt: of the limit formula.
        search: what moves: "slow", the raw recurrent weights towards slower decay, which tells the two cases apart; or
            "random", all weights of any module, where there are no rates to slow. The radius then is where the first
            of some random directions passes the threshold: an upper bound of the radius over all directions, often a
            loose one, so that "unstable" says more than "stable".
        directions: random ones, the same at every radius.
        seed: of the random directions.
        threshold: as for `slow_direction_radius`.
        max_radius: as for `slow_direction_radius`.
        metric: as for `slow_direction_radius`.
        dtype: as for `slow_direction_radius`.
        progress: called as `progress(finished horizons, horizons)`.

    Returns:
        A `StabilityVerdict`.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of range, or data given with `target`.

    Example:
        >>> result = stability_verdict(target="pol", parameterization="direct")
        >>> result.verdict, round(result.slope, 2), round(result.error, 2)
        ('unstable', -0.66, 0.01)
    """
    if (models is None) == (target is None):
        raise ValueError("models or target must be given, and not both")
    if target is not None:
        if inputs is not None or targets is not None:
            raise ValueError("inputs and targets must not be given with target")
        if not isinstance(horizons, Iterable) or getattr(horizons, "ndim", 1) != 1:
            raise TypeError(f"horizons must be a list of lengths, got {horizons!r}")
        threshold, max_radius = _check_search(threshold, max_radius)
        lengths = sorted(check_int("horizons", length, 1) for length in horizons)
        _check_horizons(lengths)
        finished, radii = counting(progress, len(lengths)), []
        for length in lengths:
            radius = limit_radius(
                target,
                length,
                parameterization=parameterization,
                dt=dt,
                threshold=threshold,
                max_radius=max_radius,
                metric=metric,
            )
            radii.append(radius)
            finished(1)
        floors = [limit_resolution(parameterization)] * len(lengths)
        return judge(lengths, radii, floors, max_radius=max_radius, scatter=0.0)
    threshold, max_radius = _check_search(threshold, max_radius)
    family, data = _matched(models, inputs, targets)
    check_choice("search", search, ("slow", "random"))
    evaluators = [_checked_evaluator([model], *pair, metric, dtype) for model, pair in zip(family, data, strict=True)]
    _, moves = check_moves(family, [0.0], directions, seed=seed, search=search, ball="inf")
    _check_horizons([x.shape[1] for x, _ in data])
    # Everything is checked before the first radius is searched for.
    radii = _radii(list(zip(evaluators, family, moves, strict=True)), threshold, max_radius, progress)
    margin = min(_margin(model) for model in family)
    resolutions = [
        _resolution(model, chosen[0], dtype or x.dtype)
        for model, chosen, (x, _) in zip(family, moves, data, strict=True)
    ]
    return judge([x.shape[1] for x, _ in data], radii, resolutions, max_radius=max_radius, margin=margin)


def resolution(model: nn.Module, dtype: torch.dtype | None = None) -> float:
    """Smallest radius that moves every raw recurrent weight by more than its rounding.

        eps |w|, eps the distance from 1 to the next number, w the largest weight

    Args:
        model: a cofm model.
        dtype: in which the perturbed model is computed; None: that of its weights.

    Example:
        >>> import cofm_triton as cofm
        >>> resolution(cofm.RNNFunctional(1, 2, dtype=torch.float64)) < 1e-14
        True

    Raises:
        ValueError: a model without recurrent rates.
    """
    return _resolution(model, slow_direction(model), dtype)


def _resolution(model: nn.Module, moved: Iterable[str], dtype: torch.dtype | None) -> float:
    """Of the moved parameters, by name."""
    weights = [model.get_parameter(name).detach() for name in moved]
    return max(float(w.abs().max()) * torch.finfo(dtype or w.dtype).eps for w in weights)


def limit_resolution(parameterization: str) -> float:
    """Smallest radius that a limit formula resolves.

    "exp" evaluates the target at times s e^-beta, which a beta below the rounding of e^-beta leaves as they are or
    moves by a rounding; "direct" takes e^(beta s) - 1 as one function, which resolves every beta.
    """
    return torch.finfo(torch.float64).eps if parameterization == "exp" else 0.0


def judge(
    horizons: Sequence[int],
    radii: Sequence[float],
    resolutions: Sequence[float],
    *,
    max_radius: float = math.inf,
    margin: float = math.nan,
    scatter: float = SCATTER,
) -> StabilityVerdict:
    """Apply the rule to radii that are known already.

    Args:
        horizons: at least two different lengths; one that comes again is that of another model.
        radii: one per horizon.
        resolutions: one per horizon, see `resolution`; a smaller radius decides nothing.
        max_radius: a radius of at least this is censored.
        margin: smallest rate, passed on.
        scatter: standard deviation of log r between trainings; 0 for a formula.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: fewer than two different horizons, lengths that do not match, or a negative scatter.

    Example:
        >>> result = judge((50, 100, 200, 400), (0.6, 0.5, 0.46, 0.45), (0.0,) * 4)
        >>> result.verdict, result.reason
        ('stable', 'the radius keeps its size: at T = 400 it changes like T^(+0.04 +- 0.20)')
    """
    horizons = [check_int("horizons", length, 1) for length in horizons]
    radii = [check_real("radii", radius) for radius in radii]
    resolutions = [check_real("resolutions", radius) for radius in resolutions]
    max_radius, margin = check_real("max_radius", max_radius), check_real("margin", margin)
    scatter = check_not_negative("scatter", scatter)
    _check_horizons(horizons)
    for name, values in (("radii", radii), ("resolutions", resolutions)):
        if len(values) != len(horizons):
            raise ValueError(f"{name} must be one per horizon ({len(horizons)}), got {len(values)}")
    lengths, ordered, floors = zip(*sorted(zip(horizons, radii, resolutions, strict=True)), strict=True)
    censored = tuple(r >= max_radius for r in ordered)
    last = slice(lengths.index(sorted(set(lengths))[-_DECIDING:][0]), None)
    fit = _UNKNOWN
    verdict, reason = "undecided", _doubt(lengths[last], ordered[last], floors[last])
    if not reason:
        after = max((t for t, beyond in zip(lengths, censored, strict=True) if beyond), default=0)
        known = [(t, r) for t, r in zip(lengths[last], ordered[last], strict=True) if t > after]
        if len({t for t, _ in known}) >= FEWEST:
            fit = local_slope([t for t, _ in known], [r for _, r in known], scatter)
            verdict, reason = _rule(fit, lengths[-1])
        else:
            verdict, reason = _without_fit(lengths, censored)
    return StabilityVerdict(verdict, lengths, ordered, floors, censored, *fit, margin, reason)


def _without_fit(horizons: Sequence[int], censored: Sequence[bool]) -> tuple[str, str]:
    """Verdict and reason where too few radii are known for a slope."""
    if all(beyond for t, beyond in zip(horizons, censored, strict=True) if t == horizons[-1]):
        return "stable", f"the radius is beyond the end of the search still at T = {horizons[-1]}"
    if any(censored):
        return "undecided", "the radius falls from beyond the end of the search"
    return "undecided", f"it takes {FEWEST} different horizons to tell a power of T from a limit"


def _doubt(horizons: Sequence[int], radii: Sequence[float], resolutions: Sequence[float]) -> str:
    """Why the radii say nothing about a slope; empty if they do."""
    missed = [t for t, r in zip(horizons, radii, strict=True) if not r > 0]
    if missed:
        return f"the unperturbed error exceeds the threshold at T = {missed}: train longer, or raise threshold"
    lost = [t for t, r, least in zip(horizons, radii, resolutions, strict=True) if r < least]
    if lost:
        return (
            f"the radius, {min(radii):.1e}, is below {max(resolutions):.1e}, the rounding of the weights it moves, "
            f"at T = {lost}"
        )
    return ""


def _rule(fit: LocalSlope, longest: int) -> tuple[str, str]:
    width = _ERRORS * fit.error
    law = f"at T = {longest} it changes like T^({fit.slope:+.2f} +- {width:.2f})"
    if fit.slope + width < BOUND:
        return "unstable", f"the radius shrinks: {law}"
    if fit.slope - width > BOUND:
        return "stable", f"the radius keeps its size: {law}"
    return "undecided", f"the radius may shrink or keep its size: {law}"


def _first_crossing(errors: Function, bound: float, max_radius: float) -> float:
    """Largest radius up to which the error stays within the bound, to a relative 1e-5.

    A grid of half octaves finds the first crossing, fans of radii narrow it down: every
    round is one batch of models. Excursions above the bound narrower than the grid are not seen.
    """
    octaves = math.log2(max_radius / _SMALLEST)
    steps = max(1, math.ceil(octaves * _GRID_PER_OCTAVE))
    ratio = (max_radius / _SMALLEST) ** (1 / steps)
    grid = [0.0, *(_SMALLEST * ratio**i for i in range(steps)), max_radius]
    within = errors(torch.tensor(grid, dtype=torch.float64, device="cpu")) <= bound
    if bool(within.all()):
        return max_radius
    first_out = int((~within).nonzero()[0])
    if first_out == 0:
        return 0.0
    low, high = grid[first_out - 1], grid[first_out]
    while high - low > max(_RELATIVE_WIDTH * high, torch.finfo(torch.float64).tiny):
        fan = torch.linspace(low, high, _FAN + 2, dtype=torch.float64, device="cpu")
        out = (~(errors(fan[1:-1]) <= bound)).nonzero()
        first = int(out[0]) if len(out) else _FAN
        low, high = fan[first].item(), fan[first + 1].item()
    return (low + high) / 2


def _matched(
    models: Sequence[nn.Module] | None,
    inputs: Sequence[Tensor] | None,
    targets: Sequence[Tensor] | None,
) -> tuple[list[nn.Module], list[tuple[Tensor, Tensor]]]:
    """Models and their data, one of each per horizon."""
    lists = {"models": models, "inputs": inputs, "targets": targets}
    for name, value in lists.items():
        if value is None or isinstance(value, (Tensor, nn.Module)):
            given = "None" if value is None else type(value).__name__
            raise TypeError(f"{name} must be a list with one entry per horizon, got {given}")
    family = list(models or ())
    data = list(zip(inputs or (), targets or (), strict=False))
    if not len(family) == len(inputs or ()) == len(targets or ()):
        raise ValueError(
            "models, inputs and targets must have one entry per horizon each, "
            f"got {len(family)}, {len(inputs or ())} and {len(targets or ())}"
        )
    return family, data


def _margin(model: nn.Module) -> float:
    """Smallest rate of all cofm layers of a model."""
    layers = (module for module in model.modules() if isinstance(module, StableRNN))
    return min((layer.stability_margin() for layer in layers), default=math.nan)


def _impulse_response(target: str | Target | Function) -> Function:
    if isinstance(target, str):
        return look_up_target(target).rho
    if isinstance(target, Target):
        return target.rho
    if isinstance(target, Tensor) or not callable(target):
        raise TypeError(f"target must be a name or a function, got {type(target).__name__}")
    return target


def _check_search(threshold: float, max_radius: float) -> tuple[float, float]:
    """Both as floats."""
    return check_number("threshold", threshold), check_number("max_radius", max_radius, above=_SMALLEST)


def _check_horizons(horizons: Sequence[int]) -> None:
    if len(set(horizons)) < 2:
        raise ValueError(f"horizons must be at least two different lengths, got {list(horizons)}")

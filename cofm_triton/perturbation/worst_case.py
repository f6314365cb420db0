"""Worst perturbations by ascent: max E(theta + delta) over |delta| <= radius, per tensor.

Projected ascent on log E from several starts: sign steps for the ball "inf",
normalised steps for "l2", of a length that shrinks from half a radius to a hundredth. The starts
are the worst random directions, the slow direction (where the model has one) and a small
perturbation; starts and radii are climbed together. The error that steers is that of at most
`model_errors.STEERING_SEQUENCES` sequences for nonlinear models; the result is evaluated on all of
them, and is the largest of the random directions, the slow one and everything found.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cofm_triton.perturbation.directions import Direction, norm, slow_direction
from cofm_triton.perturbation.evaluator import ErrorEvaluator
from cofm_triton.support.progress import Finished, ignore

_STEPS = 100
_RANDOM_STARTS = 8
_FIRST_STEP, _LAST_STEP = 0.5, 0.01  # in radii

Stacked = dict[str, Tensor]


@dataclass(frozen=True)
class WorstCase:
    """Largest errors found, (radii,) float64, and the perturbations that give them."""

    error: Tensor
    perturbations: list[Direction]


def ascend(
    evaluator: ErrorEvaluator,
    model: nn.Module,
    radii: Tensor,
    directions: Sequence[Mapping[str, Tensor]],
    errors: Tensor,
    ball: str,
    *,
    steps: int = _STEPS,
    finished: Finished = ignore,
) -> WorstCase:
    """Worst perturbation of a model at every radius.

    Args:
        evaluator: of the data.
        model: the unperturbed model.
        radii: (R,) float64.
        directions: J directions that were evaluated already.
        errors: (R, J), their errors.
        ball: "inf" or "l2".
        steps: of the ascent.
        finished: told, of `evaluations` for every radius, how many are.
    """
    base = {name: p.detach().double() for name, p in model.named_parameters()}
    starts = _starts(model, base, radii, directions, errors, ball)
    counts = len(next(iter(starts.values()))) // len(radii)
    limits = radii.repeat_interleave(counts)
    climbed = _climb(evaluator, model, base, starts, limits, ball, steps, lambda: finished(len(radii)))
    worst = _evaluate(evaluator, model, base, climbed).reshape(len(radii), counts)
    finished(len(radii))
    begun = _evaluate(evaluator, model, base, starts).reshape(len(radii), counts)
    finished(len(radii))
    found = []
    best = torch.empty_like(radii)
    for r in range(len(radii)):
        everything = torch.cat((worst[r], begun[r]))
        best[r], index = everything.max(0)
        source = climbed if index < counts else starts
        row = r * counts + int(index) % counts
        found.append({name: value[row].cpu() for name, value in source.items()})
    return WorstCase(best, found)


def evaluations(steps: int = _STEPS) -> int:
    """How often an ascent evaluates all that it climbs: at every step, where it ends and where it began."""
    return steps + 3


def _starts(
    model: nn.Module,
    base: Stacked,
    radii: Tensor,
    directions: Sequence[Mapping[str, Tensor]],
    errors: Tensor,
    ball: str,
) -> Stacked:
    """Perturbations to climb from, (R * starts, *shape): the worst random ones, slow, small."""
    fixed: list[Mapping[str, Tensor]] = []
    with suppress(ValueError):  # a module without cofm layers has no slow direction
        fixed.append(slow_direction(model, ball=ball))
    fixed.append({name: 0.01 * value for name, value in directions[0].items()})
    rows: dict[str, list[Tensor]] = {name: [] for name in base}
    chosen = errors.argsort(1, descending=True)[:, :_RANDOM_STARTS]
    for radius, order in zip(radii, chosen.tolist(), strict=True):
        for direction in [*(directions[j] for j in order), *fixed]:
            for name, value in base.items():
                entry = direction.get(name)
                moved = torch.zeros_like(value) if entry is None else entry.to(value)
                rows[name].append(radius.item() * moved)
    return {name: torch.stack(values) for name, values in rows.items()}


def _climb(
    evaluator: ErrorEvaluator,
    model: nn.Module,
    base: Stacked,
    starts: Stacked,
    limits: Tensor,
    ball: str,
    steps: int,
    stepped: Callable[[], None],
) -> Stacked:
    """The best point on the way of every start, (K, *shape)."""
    point = {name: value.clone() for name, value in starts.items()}
    best = {name: value.clone() for name, value in starts.items()}
    highest = torch.full_like(limits, -torch.inf)
    for step in range(steps + 1):
        error, gradient = evaluator.gradient(model, {name: base[name] + value for name, value in point.items()})
        better = error > highest
        highest = torch.where(better, error, highest)
        for name, value in point.items():
            best[name][better.to(value.device)] = value[better.to(value.device)]
        stepped()
        if step == steps:
            break
        length = _FIRST_STEP * (_LAST_STEP / _FIRST_STEP) ** (step / max(1, steps - 1))
        for name, value in point.items():
            limit = limits.to(value.device)
            point[name] = _project(value + _wide(length * limit, value) * _ascent(gradient[name], ball), limit, ball)
    return best


def _ascent(gradient: Tensor, ball: str) -> Tensor:
    """Steepest ascent of unit length in the ball's norm; overflowed gradients do not move."""
    gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    if ball == "inf":
        return gradient.sign()
    size = norm(gradient, ball, batch_dims=1)
    return gradient / _wide(torch.where(size > 0, size, 1.0), gradient)


def _project(point: Tensor, limit: Tensor, ball: str) -> Tensor:
    """The point, or where it is outside the ball, a point on its surface."""
    bound = _wide(limit, point)
    if ball == "inf":
        return torch.minimum(torch.maximum(point, -bound), bound)
    size = norm(point, ball, batch_dims=1)
    return point * _wide(torch.where(size > limit, limit / size, 1.0), point)


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *([1] * (like.dim() - 1)))


def _evaluate(evaluator: ErrorEvaluator, model: nn.Module, base: Stacked, points: Stacked) -> Tensor:
    return evaluator(model, {name: base[name] + value for name, value in points.items()})

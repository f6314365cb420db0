"""Perturbation error, arXiv 2305.19190 Definition 3.4.

    E_m(beta) = sup { ||H - Hhat(.; theta~)|| : |theta~ - theta_m| <= beta }

with the sup replaced by a maximum over given directions. A direction holds one tensor per
parameter, each on the unit sphere of its own norm, so the ball is a product of balls per tensor.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .model import Parameters
from .parameterization import parameterization as lookup

BALLS = ("inf", "l2")
"""The largest |entry| (the paper's code), or |.|_2 of matrices and vectors (its definition)."""


class PerturbationError(NamedTuple):
    """Errors of the perturbed models.

    Attributes:
        per_direction: (radii, directions); a diverged model counts as +inf.
        error: (radii,), the maximum over directions.
        diverged: (radii, directions), where the error was not finite.
    """

    per_direction: Tensor
    error: Tensor
    diverged: Tensor


def paper_radii() -> Tensor:
    """0 and 1e-3 * 2^(i / 2), i = 0..20: (22,) float64.

    Example:
        >>> paper_radii()[[0, 1, 21]].tolist()
        [0.0, 0.001, 1.024]
    """
    grid = 1e-3 * 2 ** (torch.arange(21, dtype=torch.float64) / 2)
    return torch.cat([torch.zeros(1, dtype=torch.float64), grid])


def norm(tensor: Tensor, ball: str) -> Tensor:
    """Norm of one parameter tensor: max |entry| ("inf"), or |.|_2 ("l2").

    |.|_2 of a matrix is its largest singular value (of a tensor of more dimensions, that of the
    matrix whose rows are the first dimension); of a vector, the Euclidean length.

    Raises:
        ValueError: unknown ball.
    """
    if ball not in BALLS:
        raise ValueError(f"ball must be one of {BALLS}, got {ball!r}")
    if ball == "inf":
        return tensor.abs().max()
    if tensor.dim() < 2:
        return torch.linalg.vector_norm(tensor)
    return torch.linalg.matrix_norm(tensor.flatten(1), 2)


def normalise(direction: Mapping[str, Tensor], ball: str) -> dict[str, Tensor]:
    """Scale every tensor to norm 1.

    Raises:
        ValueError: unknown ball.
    """
    return {name: noise / norm(noise, ball) for name, noise in direction.items()}


def random_directions(params: Parameters, count: int, *, seed: int = 0, ball: str = "inf") -> list[dict[str, Tensor]]:
    """Gaussian directions, normalised per parameter tensor, biases included.

    Raises:
        ValueError: unknown ball.
    """
    generator = torch.Generator().manual_seed(seed)
    return [
        normalise(
            {name: torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p) for name, p in params.items()},
            ball,
        )
        for _ in range(count)
    ]


def slow_direction(params: Parameters, parameterization: str) -> dict[str, Tensor]:
    """The direction that moves every raw recurrent weight towards slower decay, alone.

    Against the sign of f'(w); at a weight where f' = 0 the rate moves up the other side just as
    far, so +1 is as good as -1 (inverse at w = 0), or falls by going on down (relu at w <= 0).
    """
    raw = params["rnn.rate_l0"]
    slope = lookup(parameterization).derivative(raw)
    flat = torch.ones_like(raw) if parameterization == "inverse" else -torch.ones_like(raw)
    direction = {name: torch.zeros_like(p) for name, p in params.items()}
    direction["rnn.rate_l0"] = torch.where(slope == 0, flat, -torch.sign(slope))
    return direction


def perturb(params: Parameters, direction: Mapping[str, Tensor], radius: float) -> dict[str, Tensor]:
    """Parameters theta + radius * direction; those that the direction does not name stay."""
    return {name: p + radius * direction[name] if name in direction else p for name, p in params.items()}


def perturbation_error(
    error: Callable[[dict[str, Tensor]], Tensor],
    params: Parameters,
    directions: Sequence[Mapping[str, Tensor]],
    radii: Tensor,
) -> PerturbationError:
    """Error of every perturbed model, one at a time.

        per_direction[i, j] = error(theta + radii[i] * directions[j])

    Args:
        error: maps parameters to a scalar, for example the loss of the model on test data.
        params: the unperturbed parameters theta.
        directions: one mapping per direction, see `random_directions`.
        radii: (R,), the beta.

    Returns:
        Errors in float64; NaN and infinities count as +inf and are flagged.
    """
    rows = [[float(error(perturb(params, direction, float(radius)))) for direction in directions] for radius in radii]
    raw = torch.tensor(rows, dtype=torch.float64).reshape(len(radii), len(directions))
    diverged = ~torch.isfinite(raw)
    per_direction = torch.where(diverged, torch.full_like(raw, math.inf), raw)
    return PerturbationError(per_direction, per_direction.amax(1), diverged)

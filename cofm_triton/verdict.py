"""Stable or unstable: the horizon test of the slow-direction radius.

SIGNATURES (stable; the bodies are being written).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class StabilityVerdict:
    """verdict: "stable", "unstable" or "undecided"; radii: `(horizons,)` floats, 0.0 where even the unperturbed
    model misses the threshold; horizons; slope of log r in log T (nan if a radius is 0); margin: smallest rate
    over the models (nan for a limit formula); censored: radius hit max_radius; reason: one sentence."""

    verdict: str
    horizons: tuple[int, ...]
    radii: tuple[float, ...]
    censored: tuple[bool, ...]
    slope: float
    margin: float
    reason: str


def slow_direction_radius(
    model: nn.Module | Sequence[nn.Module],
    inputs: Tensor,
    targets: Tensor,
    *,
    threshold: float = 0.1,
    max_radius: float = 2.048,
    metric: str = "twe",
) -> list[float]: ...


def stability_verdict(
    models: Sequence[nn.Module] | None = None,
    inputs: Sequence[Tensor] | None = None,  # one (N, T_i, d) per model
    targets: Sequence[Tensor] | None = None,  # one (N, T_i, p) per model
    *,
    target: str | Callable[[Tensor], Tensor] | None = None,  # limit formula (with parameterization, horizons)
    parameterization: str = "direct",
    horizons: Sequence[int] = (100, 200, 400, 800),  # limit formula only
    dt: float = 1.0,
    threshold: float = 0.1,
    max_radius: float = 2.048,
    metric: str = "twe",
) -> StabilityVerdict: ...

"""The perturbation error E_m(beta) of trained models (paper arXiv 2305.19190, Definition 3.4).

SIGNATURES (stable; the bodies are being written).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class PerturbationCurve:
    """Errors of perturbed models: one row per model, one column per radius.

    Attributes (all float64 on the CPU unless said otherwise):
        radii: `(radii,)`.
        per_direction: `(models, radii, directions)`; +inf where a state overflowed.
        error: `(models, radii)`, the maximum over directions (and, for `search="gradient"`, over the found parameters).
        diverged: `(models, radii)` bool, whether any direction gave a non-finite error.
        found: for `search="gradient"`, one list per model of one `{parameter name: tensor}` per radius
            (the perturbation itself, not divided by the radius); otherwise None.
    """

    radii: Tensor
    per_direction: Tensor
    error: Tensor
    diverged: Tensor
    found: list[list[dict[str, Tensor]]] | None = None

    @property
    def mean(self) -> Tensor: ...  # (models, radii)

    @property
    def running_max(self) -> Tensor: ...  # (models, radii), of error over smaller radii

    def quantile(self, q: float) -> Tensor: ...  # (models, radii), over directions

    def to_csv(self, path: str | PathLike[str]) -> None: ...  # rows: model, radius, direction, error, diverged

    def plot(self, path_or_axes: str | PathLike[str] | Axes) -> Axes: ...


def perturbation_error(
    models: nn.Module | Sequence[nn.Module],
    inputs: Tensor,
    targets: Tensor,
    *,
    radii: Tensor | Sequence[float] | None = None,
    directions: int | Sequence[Mapping[str, Tensor]] = 30,
    seed: int = 0,
    search: str = "random",
    ball: str = "inf",
    metric: str = "twe",
    dtype: torch.dtype | None = None,  # float32 or float64 of the nonlinear states; None: the inputs'
    progress: Any = None,  # called as progress(done_models, total_models)
) -> PerturbationCurve: ...

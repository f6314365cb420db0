"""Perturbed copies of a model: its parameters moved by every radius along every direction."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cofm_triton.modules.module_state import cast
from cofm_triton.perturbation.directions import Directions


class Copies:
    """The copies `theta + radius * direction`, formed when they are needed.

    Args:
        model: gives theta.
        directions: J of them; parameters that one leaves out do not move.

    Attributes:
        count: J.
        numbers: how many a copy has.
    """

    def __init__(self, model: nn.Module, directions: Directions) -> None:
        self._base = {name: cast(p, torch.float64) for name, p in model.named_parameters()}
        self._moves = {
            name: torch.stack([_move(direction.get(name), value) for direction in directions])
            for name, value in self._base.items()
        }
        self.count = len(directions)
        self.numbers = sum(value.numel() for value in self._base.values())

    def at(self, radii: Tensor, directions: Tensor) -> dict[str, Tensor]:
        """Parameters of K copies, {name: (K, *shape) float64}: radii (K,), indices of directions (K,)."""
        return {
            name: value
            + radii.to(value).reshape(-1, *([1] * value.dim())) * self._moves[name][directions.to(value.device)]
            for name, value in self._base.items()
        }

    def jobs(self, radii: Tensor, held: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Indices (K,) of radii and of directions, of as many copies at a time as `held` numbers are.

        Radius 0 comes once.
        """
        pairs = [(r, j) for r in range(len(radii)) for j in range(self.count if radii[r] != 0 else 1)]
        size = max(1, held // max(1, self.numbers))
        for first in range(0, len(pairs), size):
            r, j = torch.tensor(pairs[first : first + size], device="cpu").T
            yield r, j


def _move(given: Tensor | None, value: Tensor) -> Tensor:
    return torch.zeros_like(value) if given is None else given.detach().to(value)


def count_copies(radii: Tensor, directions: int) -> int:
    """How many copies there are, radius 0 once for each time that it is asked for."""
    return sum(directions if radius else 1 for radius in radii.tolist())

"""Perturbed copies of models, their parameters moved by every radius along every direction, and the errors of these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from cofm_triton.modules.module_state import cast
from cofm_triton.perturbation.directions import Directions
from cofm_triton.perturbation.evaluator import ErrorEvaluator
from cofm_triton.support.progress import Finished, ignore

_NUMBER_BYTES = 8
_CHUNK_NUMBERS = 1 << 23  # perturbed parameters held at once: 64 MB, at most half the memory limit


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
    pending: list[tuple[nn.Module, dict[str, Tensor]]] = []
    places: list[tuple[Tensor, Tensor, Tensor]] = []

    def compute() -> None:
        results = evaluator.of_family(pending, finished)
        for (into, r, j), result in zip(places, results, strict=True):
            into[r, j] = result
        pending.clear()
        places.clear()

    room = held
    for (model, directions), into in zip(family, errors, strict=True):
        copies = Copies(model, directions)
        for r, j in copies.jobs(radii, held):
            size = len(r) * copies.numbers
            if pending and size > room:
                compute()
                room = held
            pending.append((model, copies.at(radii[r], j)))
            places.append((into, r, j))
            room -= size
    compute()
    for found in errors:
        found[radii == 0] = found[radii == 0, :1]
    return errors

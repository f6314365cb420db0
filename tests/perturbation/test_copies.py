"""Perturbed copies: the parameters of each, and all of them once."""

import pytest
import torch
from torch import nn

from cofm_triton.perturbation.copies import Copies

RADII = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)


def test_copies_are_moved_parameters() -> None:
    model = nn.Linear(2, 1)
    directions = [{"weight": torch.ones(1, 2)}, {"bias": torch.tensor([3.0])}]
    copies = Copies(model, directions)
    moved = copies.at(RADII, torch.tensor([0, 1, 0]))
    assert all(value.dtype == torch.float64 for value in moved.values())
    weight, bias = (value.detach().double() for value in (model.weight, model.bias))
    torch.testing.assert_close(moved["weight"], torch.stack((weight, weight, weight + 2)), rtol=0, atol=0)
    torch.testing.assert_close(moved["bias"], torch.stack((bias, bias + 1.5, bias)), rtol=0, atol=0)
    assert (copies.count, copies.numbers) == (2, 3)


@pytest.mark.parametrize(("held", "sizes"), [(1, [1] * 5), (6, [2, 2, 1]), (100, [5])])
def test_jobs_are_every_copy_once(held: int, sizes: list[int]) -> None:
    jobs = list(Copies(nn.Linear(2, 1), [{}, {}]).jobs(RADII, held))
    assert [len(r) for r, _ in jobs] == sizes
    pairs = [(int(r), int(j)) for some in jobs for r, j in zip(*some, strict=True)]
    assert pairs == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)]

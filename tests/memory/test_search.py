"""The sup over Heaviside inputs: known suprema are found, nothing outside the domain is tried."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cofm_triton.memory.search import PAIRED, SHARED, Best, Domain, Effort, corners, directions, over, search

UNBIASED = Domain(2.0**-20, 1.0, "inf")


def test_corners() -> None:
    assert corners(1).tolist() == [[1.0], [-1.0]]
    assert corners(1, odd=True).tolist() == [[1.0]]
    for size in (2, 5, 10):
        signs = corners(size)
        assert len(signs.unique(dim=0)) == 2**size and (signs.abs() == 1).all()
        half = corners(size, odd=True)
        assert len(torch.cat((half, -half)).unique(dim=0)) == 2**size
    many = corners(40)
    assert many.shape == (1024, 40) and (many.abs() == 1).all()
    assert torch.equal(many, corners(40)) and not torch.equal(many, corners(40, seed=1))


def test_directions_lie_on_the_surface_of_the_cube() -> None:
    assert directions(1).tolist() == corners(1).tolist()
    for size in (2, 3, 4, 5, 12):
        ways = directions(size)
        torch.testing.assert_close(ways.abs().amax(1), torch.ones(len(ways), dtype=torch.float64))
        assert torch.equal(ways[: len(corners(size))], corners(size))
    for size, count in ((2, 5**2 - 3**2), (3, 5**3 - 3**3), (4, 5**4 - 3**4)):
        for odd in (False, True):
            ways = directions(size, odd=odd)
            lattice = ways[((2 * ways) % 1 == 0).all(1)]
            whole = torch.cat((lattice, -lattice)).unique(dim=0) if odd else lattice
            assert len(whole) == count and len(lattice) == (count // 2 if odd else count)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=4), st.floats(0.01, 3), st.floats(0.01, 1))
def test_points_are_moved_into_the_domain(point: list[float], largest: float, share: float) -> None:
    domain = Domain(share * largest, largest, "inf")
    moved = domain.nearest(torch.tensor(point, dtype=torch.float64))
    size = moved.abs().max().item()
    assert domain.smallest * (1 - 1e-12) <= size <= largest * (1 + 1e-12)
    inside = torch.tensor(point, dtype=torch.float64) * 0 + domain.smallest
    assert torch.equal(domain.nearest(inside), inside)


def test_sizes_are_geometric_and_end_exactly() -> None:
    sizes = Domain(0.3, 7.0, "inf").sizes(5).tolist()
    assert (sizes[0], sizes[-1]) == (7.0, 0.3)
    assert all(b / a == pytest.approx((0.3 / 7) ** 0.25) for a, b in pairwise(sizes))
    assert Domain(2.0, 2.0, "inf").sizes(5).tolist() == [2.0]


def test_nan_counts_as_infinite() -> None:
    velocities = torch.tensor([[1.0, torch.nan], [torch.inf, 0.0], [3.0, -4.0]])
    points = torch.tensor([[1.0], [1.0], [-2.0]])
    assert Domain(0.1, 2.0, "inf").ratio(velocities, points).tolist() == [torch.inf, torch.inf, 2.0]
    assert Domain(0.1, 2.0, "inf+1").ratio(velocities, points)[2].item() == pytest.approx(4 / 3)


def test_best_keeps_the_input_of_every_step() -> None:
    best = Best(torch.tensor([[1.0, 5.0]]), torch.tensor([[[1.0], [2.0]]]))
    better = best.improved(torch.tensor([[[2.0, 1.0], [3.0, 4.0]]]), torch.tensor([[[7.0]], [[8.0]]])[None, :, 0, None])
    assert better.values.tolist() == [[3.0, 5.0]]
    assert better.points.tolist() == [[[8.0], [2.0]]]


def peaks(where: Tensor) -> "object":
    """v of K = 1 models with the ratio v / |x| = 1 / (1 + |x - where|^2) at every step, where (S, d)."""

    def response(inputs: Tensor) -> Tensor:
        x = inputs if inputs.dim() == 4 else inputs[:, :, None]
        ratio = 1 / (1 + (x - where).square().sum(-1))
        return (ratio * x.abs().amax(-1))[..., None]

    return response


@pytest.mark.parametrize("effort", [PAIRED, SHARED])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_peak_inside_the_ball_is_found(size: int, effort: Effort) -> None:
    generator = torch.Generator().manual_seed(size)
    where = 2 * torch.rand(6, size, generator=generator, dtype=torch.float64) - 1
    best = search(peaks(where), directions(size), 1, UNBIASED, chunk=50, effort=effort)  # type: ignore[arg-type]
    assert (best.values <= 1).all()
    # Refinement ends at 1e-5 of the first distance, shared or not, but shared rounds are fewer.
    gap = (best.points[0] - where).abs().max().item()
    assert gap < (1e-3 if effort is PAIRED else 0.1)
    assert best.points.abs().max() <= 1
    achieved = peaks(where)(best.points[:, None])[:, 0, :, 0] / best.points.abs().amax(-1)  # type: ignore[operator]
    torch.testing.assert_close(best.values, achieved)


def test_more_is_never_less() -> None:
    where = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    grid_only = over(peaks(where), corners(1), 1, UNBIASED, chunk=1)  # type: ignore[arg-type]
    searched = search(peaks(where), corners(1), 1, UNBIASED, chunk=7, effort=PAIRED)  # type: ignore[arg-type]
    assert (searched.values >= grid_only.values).all()


def test_the_surface_alone() -> None:
    domain = Domain(1.0, 1.0, "inf")
    tried: list[Tensor] = []

    def response(inputs: Tensor) -> Tensor:
        tried.append(inputs.abs().amax(-1).flatten())
        return inputs.sum(-1)[:, :, None, None]

    search(response, directions(3), 1, domain, chunk=100, effort=SHARED)
    torch.testing.assert_close(torch.cat(tried), torch.ones(sum(map(len, tried)), dtype=torch.float64))

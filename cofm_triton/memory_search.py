"""The sup over Heaviside inputs in the memory function (arXiv 2305.19190, Definition 3.1).

    M(k dt) = sup { |v_x[k]|_inf / (|x|_inf + {0 or 1}) : r <= |x|_inf <= R }

First a grid: corners of cubes (`corners`) of `LEVELS` sizes between r and R, in a geometric
progression. Then every step k refines its own best input: it tries sizes a little larger and
smaller and every coordinate moved both ways, by distances that shrink round after round. The result
is attained by an input that was tried: a lower bound of the sup, never above it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

NORMS = {"inf": 0.0, "inf+1": 1.0}
"""What is added to |x|_inf under the bar."""

LEVELS = 64
_MAX_POINTS = 1 << 14  # of the grid; in many dimensions there are fewer sizes
_FEWEST_LEVELS = 12
_MAX_ALL_CORNERS = 10  # dimensions up to which every corner is tried
_RANDOM_CORNERS = 1 << _MAX_ALL_CORNERS
_ROUNDS, _SHRINK = 24, 0.62  # ends at 1e-5 of the first distance
_SHARED_ROUNDS, _SHARED_COLUMNS = 8, 12  # where each input tried costs a whole trajectory

Response = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Domain:
    """Inputs over which the sup is taken.

    Attributes:
        smallest, largest: r and R.
        norm: "inf" or "inf+1".
    """

    smallest: float
    largest: float
    norm: str

    def sizes(self, levels: int) -> Tensor:
        """Geometric progression from R down to r, (levels,); R alone if they are equal."""
        if self.smallest == self.largest:
            return torch.tensor([self.largest], dtype=torch.float64)
        share = torch.linspace(0, 1, levels, dtype=torch.float64)
        sizes = self.largest * (self.smallest / self.largest) ** share
        sizes[0], sizes[-1] = self.largest, self.smallest
        return sizes

    def nearest(self, points: Tensor) -> Tensor:
        """Points (..., d) moved into the domain: coordinates cut off at R, short ones stretched to r."""
        cut = points.clamp(-self.largest, self.largest)
        size = cut.abs().amax(-1, keepdim=True)
        return torch.where(size < self.smallest, cut * (self.smallest / size), cut)

    def ratio(self, velocities: Tensor, points: Tensor) -> Tensor:
        """|v|_inf / (|x|_inf + {0 or 1}) for v (..., p) and x (..., d); NaN, which is lost overflow, as +inf."""
        value = velocities.abs().amax(-1) / (points.abs().amax(-1) + NORMS[self.norm])
        return torch.where(value.isnan(), torch.inf, value)


@dataclass(frozen=True)
class Best:
    """Largest ratios so far, (K, S), and the inputs that give them, (K, S, d)."""

    values: Tensor
    points: Tensor

    def improved(self, values: Tensor, points: Tensor) -> "Best":
        """The better of this and candidates: values (K, n, S), points (K, n, 1 or S, d)."""
        found, where = values.max(1)
        index = where[:, None, :, None].expand(-1, 1, -1, points.shape[-1])
        chosen = points.expand(-1, -1, values.shape[2], -1).gather(1, index)[:, 0]
        better = found > self.values
        return Best(torch.where(better, found, self.values), torch.where(better[..., None], chosen, self.points))


def corners(size: int, *, odd: bool = False, seed: int = 0) -> Tensor:
    """Sign vectors: all 2^d for d <= 10, else 1,024 drawn at random, (n, d) float64.

    Args:
        size: d.
        odd: leave out -x where x is in.
        seed: of the random ones.
    """
    if size <= _MAX_ALL_CORNERS:
        first = (1.0,) if odd else (1.0, -1.0)
        return torch.tensor([*product(first, *[(1.0, -1.0)] * (size - 1))], dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randint(2, (_RANDOM_CORNERS, size), generator=generator).double() - 1


def search(response: Response, signs: Tensor, models: int, domain: Domain, *, chunk: int, paired: bool) -> Best:
    """The sup over the grid of all sizes times all sign vectors, and what refinement finds.

    Args:
        response: maps inputs (K, n, d) to v (K, n, S, p), and if `paired` also (K, n, S, d), one input per step.
        signs: (n, d), see `corners`.
        models: K.
        domain: of the inputs.
        chunk: inputs per call.
        paired: see `response`.
    """
    sizes = domain.sizes(max(_FEWEST_LEVELS, min(LEVELS, _MAX_POINTS // len(signs)))).to(signs)
    best = over(response, (sizes[:, None, None] * signs).flatten(0, 1), models, domain, chunk=chunk)
    if signs.shape[1] == 1 and len(sizes) == 1:
        return best
    spacing = math.log(domain.largest / domain.smallest) / max(1, len(sizes) - 1)
    refine = _refine_each if paired else _refine_together
    return refine(response, best, domain, spacing, chunk)


def over(response: Response, points: Tensor, models: int, domain: Domain, *, chunk: int) -> Best:
    """The maximum over given inputs (n, d) alone; arguments of `search`."""
    best: Best | None = None
    for some in points.split(chunk):
        inputs = some.expand(models, -1, -1)
        values = domain.ratio(response(inputs), inputs[:, :, None])
        here = Best(values[:, 0], inputs[:, :1].expand(-1, values.shape[2], -1)) if best is None else best
        best = here.improved(values, inputs[:, :, None])
    assert best is not None
    return best


def _moves(points: Tensor, domain: Domain, radial: float, lateral: float) -> Tensor:
    """Neighbours (K, q, S, d) of points (K, S, d): longer and shorter, and each coordinate both ways."""
    moved = [] if radial == 0 else [points * math.exp(radial), points * math.exp(-radial)]
    size = points.abs().amax(-1)
    if points.shape[-1] > 1:
        for axis in range(points.shape[-1]):
            for side in (lateral, -lateral):
                shifted = points.clone()
                shifted[..., axis] += side * size
                moved.append(shifted)
    return domain.nearest(torch.stack(moved, 1))


def _refine_each(response: Response, best: Best, domain: Domain, spacing: float, chunk: int) -> Best:
    """Every step refines its own input, which the closed forms answer at that step alone."""
    for turn in range(_ROUNDS):
        shrink = _SHRINK**turn
        for near in _moves(best.points, domain, spacing * shrink, shrink).split(max(1, chunk), 1):
            best = best.improved(domain.ratio(response(near), near), near)
    return best


def _refine_together(response: Response, best: Best, domain: Domain, spacing: float, chunk: int) -> Best:
    """Some steps, other ones every round, refine their inputs; every step may use what they find."""
    steps = best.values.shape[1]
    for turn in range(_SHARED_ROUNDS):
        shrink = _SHRINK**turn
        share = (torch.arange(min(steps, _SHARED_COLUMNS)) + turn / _SHARED_ROUNDS) / min(steps, _SHARED_COLUMNS)
        chosen = (share * steps).long()
        near = _moves(best.points[:, chosen.to(best.points.device)], domain, spacing * shrink, shrink)
        for some in near.flatten(1, 2).split(chunk, 1):
            best = best.improved(domain.ratio(response(some), some[:, :, None]), some[:, :, None])
    return best

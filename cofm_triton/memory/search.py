"""The sup over Heaviside inputs in the memory function (arXiv 2305.19190, Definition 3.1).

    M(k dt) = sup { |v_x[k]|_inf / (|x|_inf + {0 or 1}) : r <= |x|_inf <= R }

First a grid: directions (sign vectors and points between them, see `directions`) times sizes from R
down to r in a geometric progression. Then every step k refines its own best input: it tries those of
the steps beside it, sizes a little larger and smaller, every coordinate moved both ways and random
directions, by distances that shrink round after round. In two dimensions or more, parts of the
directions start such a search each, as there are several optima. The result is attained by an input
that was tried: a lower bound of the sup, never above it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from cofm_triton.support.progress import Finished, ignore

NORMS = {"inf": 0.0, "inf+1": 1.0}
"""What is added to |x|_inf under the bar."""

_MAX_ALL_CORNERS = 10  # dimensions up to which every corner is tried
_RANDOM_CORNERS = 1 << _MAX_ALL_CORNERS
_MAX_LATTICE = 4  # dimensions up to which a lattice of points between corners is tried
_RANDOM_BETWEEN = 128  # and in two dimensions or more, so many points at random
_FEWEST_SIZES = 12
_LAST_DISTANCE = 1e-5  # of the first one
_TIE = 1e-12  # relative differences that are rounding

Response = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Effort:
    """How hard to search.

    Attributes:
        sizes: at most this many.
        points: of the grid, about; in many dimensions there are fewer sizes.
        rounds: of refinement, the first number and what each dimension after the first adds.
        starts: parts of the directions that are searched one after the other, in two dimensions or more.
        random: random steps tried in a round, in two dimensions or more.
        columns: how many steps refine in a round; None: all, each answering its own inputs alone.
    """

    sizes: int
    points: int
    rounds: tuple[int, int]
    starts: int
    random: int
    columns: int | None


PAIRED = Effort(256, 1 << 12, (32, 16), 4, 16, None)
SHARED = Effort(64, 1 << 11, (10, 4), 1, 2, 16)  # every input tried costs a whole trajectory


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
            return torch.tensor([self.largest], dtype=torch.float64, device="cpu")
        share = torch.linspace(0, 1, levels, dtype=torch.float64, device="cpu")
        sizes = self.largest * (self.smallest / self.largest) ** share
        sizes[0], sizes[-1] = self.largest, self.smallest
        return sizes

    def nearest(self, points: Tensor) -> Tensor:
        """Points (..., d) moved into the domain: coordinates cut off at R, short points stretched to r."""
        cut = points.clamp(-self.largest, self.largest)
        size = cut.abs().amax(-1, keepdim=True)
        tiny = torch.finfo(cut.dtype).tiny
        stretched = torch.where(size < tiny, self.smallest, cut * (self.smallest / size.clamp(min=tiny)))
        return torch.where(size < self.smallest, stretched, cut)

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
        # Of equals the first, which is the largest on the grid: beyond the end of a plateau there may be a peak.
        found = values.amax(1)
        where = (values >= (1 - _TIE) * found[:, None]).byte().argmax(1)
        index = where[:, None, :, None].expand(-1, 1, -1, points.shape[-1])
        chosen = points.expand(-1, -1, values.shape[2], -1).gather(1, index)[:, 0]
        better = found * (1 - _TIE) > self.values
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
        return torch.tensor([*product(first, *[(1.0, -1.0)] * (size - 1))], dtype=torch.float64, device="cpu")
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randint(2, (_RANDOM_CORNERS, size), generator=generator, device="cpu").double() - 1


def directions(size: int, *, odd: bool = False) -> Tensor:
    """Points with |x|_inf = 1, (n, d) float64.

    `corners`; from two dimensions on also random points between them; and in up to 4 dimensions those with
    coordinates in {0, 1/2, 1} and their negatives.
    """
    signs = corners(size, odd=odd)
    if size == 1:
        return signs
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(_RANDOM_BETWEEN, size, generator=generator, dtype=torch.float64, device="cpu")
    random = 2 * uniform - 1
    signs = torch.cat((signs, random / random.abs().amax(1, keepdim=True)))
    if size > _MAX_LATTICE:
        return signs
    between = torch.tensor([*product((1.0, 0.5, 0.0, -0.5, -1.0), repeat=size)], dtype=torch.float64, device="cpu")
    between = between[(between.abs().amax(1) == 1) & (between.abs().amin(1) < 1)]
    if odd:
        first = torch.tensor([next(value for value in point if value != 0) for point in between.tolist()], device="cpu")
        between = between[first > 0]
    return torch.cat((signs, between))


def turns(ways: Tensor, domain: Domain, effort: Effort) -> int:
    """How many turns a search takes: a grid, and rounds of refinement, from every start."""
    refined = ways.shape[1] > 1 or len(_sizes(ways, domain, effort)) > 1
    return _starts(ways, effort) * (1 + refined * _rounds(ways.shape[1], effort))


def search(
    response: Response,
    ways: Tensor,
    models: int,
    domain: Domain,
    *,
    chunk: int,
    effort: Effort,
    finished: Finished = ignore,
) -> Best:
    """The sup over the grid of all sizes times all directions, and what refinement finds.

    Args:
        response: maps inputs (K, n, d) to v (K, n, S, p), and for `PAIRED` also (K, n, S, d), one input per step.
        ways: (n, d), see `directions`.
        models: K.
        domain: of the inputs.
        chunk: inputs per call.
        effort: `PAIRED` or `SHARED`.
        finished: told how many of `turns` are.
    """
    sizes = _sizes(ways, domain, effort)
    spacing = math.log(domain.largest / domain.smallest) / max(1, len(sizes) - 1)
    found: Best | None = None
    for start in range(_starts(ways, effort)):
        some = ways[start :: effort.starts] if ways.shape[1] > 1 else ways
        best = over(response, (sizes[:, None, None] * some).flatten(0, 1), models, domain, chunk=chunk)
        finished(1)
        if ways.shape[1] > 1 or len(sizes) > 1:
            best = _refine(response, best, domain, spacing, chunk, effort, finished)
        found = best if found is None else found.improved(best.values[:, None], best.points[:, None])
    assert found is not None
    return found


def _sizes(ways: Tensor, domain: Domain, effort: Effort) -> Tensor:
    """Sizes of the grid."""
    return domain.sizes(max(_FEWEST_SIZES, min(effort.sizes, effort.points // len(ways)))).to(ways)


def _starts(ways: Tensor, effort: Effort) -> int:
    """Parts of the directions that start a search each."""
    return min(effort.starts, len(ways)) if ways.shape[1] > 1 else 1


def _rounds(size: int, effort: Effort) -> int:
    """Rounds of refinement in d = `size` dimensions."""
    return effort.rounds[0] + effort.rounds[1] * (size - 1)


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


def _refine(
    response: Response,
    best: Best,
    domain: Domain,
    spacing: float,
    chunk: int,
    effort: Effort,
    finished: Finished,
) -> Best:
    """Steps look around their inputs, at distances that shrink from `spacing` in log size and 1 in direction."""
    size, steps = best.points.shape[2], best.values.shape[1]
    rounds = _rounds(size, effort)
    generator = torch.Generator().manual_seed(0)
    for turn in range(rounds):
        shrink = _LAST_DISTANCE ** (turn / rounds)
        ways = _steps(size, effort.random, generator).to(best.points)
        if effort.columns is None:
            beside = torch.stack((best.points.roll(1, 1), best.points.roll(-1, 1)), 1)
            near = torch.cat((beside, _moves(best.points, domain, spacing * shrink, shrink * ways)), 1)
            for some in near.split(chunk, 1):
                best = best.improved(domain.ratio(response(some), some), some)
            finished(1)
            continue
        # Some steps, other ones every round; every step may use what they find.
        count = min(steps, effort.columns)
        chosen = ((torch.arange(count, device="cpu") + turn / rounds) * steps / count).long().to(best.points.device)
        near = _moves(best.points[:, chosen], domain, spacing * shrink, shrink * ways).flatten(1, 2)
        for some in near.split(chunk, 1):
            best = best.improved(domain.ratio(response(some), some[:, :, None]), some[:, :, None])
        finished(1)
    return best


def _steps(size: int, count: int, generator: torch.Generator) -> Tensor:
    """Steps of |.|_inf <= 1: both ways along the coordinates and `count` random ones, (n, d); none in one dimension."""
    if size == 1:
        return torch.empty(0, 1, dtype=torch.float64, device="cpu")
    random = 2 * torch.rand(count, size, generator=generator, dtype=torch.float64, device="cpu") - 1
    axes = torch.eye(size, dtype=torch.float64, device="cpu")
    return torch.cat((axes, -axes, random))


def _moves(points: Tensor, domain: Domain, radial: float, ways: Tensor) -> Tensor:
    """Neighbours (K, q, S, d) of points (K, S, d): longer and shorter ones, and steps relative to their size."""
    factors = torch.tensor([radial, -radial] if radial > 0 else [], dtype=points.dtype, device=points.device).exp()
    scaled = factors[:, None, None] * points[:, None]
    shifted = points[:, None] + ways[:, None] * points.abs().amax(-1, keepdim=True)[:, None]
    return domain.nearest(torch.cat((scaled, shifted), 1))

"""What rows say of nonlinearities is what their functions do."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from cofm_triton.step.activation import bodies
from cofm_triton.step.activations import NONLINEARITIES, properties

GRID = torch.linspace(-12, 12, 240_001, dtype=torch.float64)
SPACING = 1e-4


def moment(values: Tensor) -> float:
    """Mean over z ~ N(0, 1)."""
    weights = torch.exp(-GRID.square() / 2)
    return float((weights * values).sum() / weights.sum())


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_slopes_and_values(name: str) -> None:
    row, functions = properties(name), bodies(name)
    slope, value = functions.slope(GRID), functions.act(GRID)
    assert (slope.min().item(), slope.max().item()) == pytest.approx(row.slopes, abs=1e-7)
    assert value.min() >= row.values[0] and value.max() <= row.values[1]
    for limit, reached in zip(row.values, (value.min(), value.max()), strict=True):
        assert math.isinf(limit) == (reached.abs().item() >= 11)
        assert math.isinf(limit) or abs(limit - reached.item()) <= 1e-6
    assert row.is_contracting == bool(((slope >= 0) & (slope <= 1)).all())


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_kinks_and_curvature(name: str) -> None:
    """The slope changes by more than its curvature allows at the kinks, and there alone."""
    row, slope = properties(name), bodies(name).slope(GRID)
    steep = (slope.diff().abs() > SPACING * (row.curvature + 1e-3)).nonzero().flatten()
    at = GRID[steep].tolist()
    places = [x for x, before in zip(at, [-math.inf, *at], strict=False) if x - before > 3 * SPACING]
    assert places == pytest.approx(row.kinks, abs=2 * SPACING)
    if not row.kinks:
        assert slope.diff().abs().max().item() / SPACING == pytest.approx(row.curvature, rel=1e-3, abs=1e-9)
    assert not bodies(name).slope(torch.tensor(row.kinks)).any()


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_parity_and_rest(name: str) -> None:
    row, act = properties(name), bodies(name).act
    assert row.is_odd == torch.equal(act(-GRID), -act(GRID))
    assert row.is_restoring == bool((act(GRID[GRID.abs() > 1]).abs() > 0.5).all())
    assert act(torch.zeros(1)).item() == 0
    place = GRID.clone()
    assert bodies(name).in_place(place) is place and torch.equal(place, act(GRID))


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_linear_radius(name: str) -> None:
    row, act = properties(name), bodies(name).act
    if row.linear_radius:
        z = min(row.linear_radius, 5.0) * torch.tensor([-1.0, -0.3, 0.6, 1.0], dtype=torch.float64)
        assert ((act(z) - z).abs() <= 1e-12 * z.abs()).all()
    else:
        assert act(torch.tensor(-1e-3)).item() != -1e-3


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_excess_keeps_its_digits(name: str) -> None:
    """z - act(z) relative to itself; where it is a difference of two numbers, to the rounding of act."""
    mpmath = pytest.importorskip("mpmath")  # comes with torch
    row, functions, u = properties(name), bodies(name), torch.finfo(torch.float64).eps / 2
    magnitudes = torch.logspace(-12, 1.2, 80, dtype=torch.float64)
    z = torch.cat((magnitudes, -magnitudes, torch.zeros(1, dtype=torch.float64)))
    act = getattr(mpmath, name, lambda value: functions.act(torch.tensor(float(value), dtype=torch.float64)).item())
    with mpmath.workdps(60):
        exact = torch.tensor([float(value - act(value)) for value in map(mpmath.mpf, z.tolist())], dtype=torch.float64)
    # A series of nine terms, each half as rounded as the one before it; or one subtraction.
    allowed = 16 * u * exact.abs() + torch.where(z.abs() < 0.25, 0, row.error(z, functions.act(z)) * u)
    assert ((functions.excess(z) - exact).abs() <= allowed).all()


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_sizes_of_a_normal_input(name: str) -> None:
    row, value = properties(name), bodies(name).act(GRID)
    assert row.output_size == pytest.approx(math.sqrt(moment(value.square()) - moment(value) ** 2), abs=1e-3)
    assert row.output_mean == pytest.approx(moment(value), abs=1e-3)


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_differences_add_up(name: str) -> None:
    """act(z + step) - act(z) of tiny steps is slope * step, and that of large ones the difference itself."""
    functions = bodies(name)
    z = torch.tensor([-2.3, -0.4, 0.3, 1.7], dtype=torch.float64)
    torch.testing.assert_close(
        functions.difference(z, torch.full_like(z, 1e-30)), 1e-30 * functions.slope(z), rtol=1e-12, atol=0
    )
    for before, after in pairwise([-3.0, -0.9, 0.2, 0.4, 2.5]):
        ends = torch.tensor([before, after], dtype=torch.float64)
        step = functions.difference(ends[0], ends[1] - ends[0])
        torch.testing.assert_close(step, functions.act(ends).diff()[0], rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(functions.excess(z), z - functions.act(z), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", [name for name in NONLINEARITIES if bodies(name).relaxed])
def test_closed_forms_are_the_steps(name: str) -> None:
    """z <- z - A act(z), step by step."""
    row, functions = properties(name), bodies(name)
    start = torch.tensor([-3.0, -1.2, 0.0, 0.4, 2.6], dtype=torch.float64)
    for size in (0.3, 1.0, min(1.9, row.closed_step)):
        step = torch.tensor(size, dtype=torch.float64)
        z, relaxed = start, functions.relaxed
        assert relaxed is not None
        for k in range(12):
            times = torch.tensor(float(k), dtype=torch.float64)
            found = relaxed(start, step, 1 - step, times, partial(torch.pow, 1 - step))
            torch.testing.assert_close(found, functions.act(z), rtol=1e-12, atol=1e-12)
            z = z - step * functions.act(z)


@pytest.mark.parametrize("bad", ["ReLU", "identity", None])
def test_unknown_names(bad: str | None) -> None:
    with pytest.raises(ValueError, match=r"nonlinearity must be one of \('linear', 'hardtanh'.*got "):
        properties(bad)  # type: ignore[arg-type]

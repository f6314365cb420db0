import math

import pytest
import torch

from cofm_triton.reference import tail_weights, targets
from cofm_triton.reference.quadratic_form import gram, population_moments, quadratic_error
from cofm_triton.reference.verdict import (
    decide,
    limit_error,
    limit_radius,
    local_slope,
    radius,
    zero_model_error,
)

HORIZONS = [50, 100, 200, 400, 800, 1600]


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("exp", 2.0713065195676945),
        ("pol", 14.785361699676622),
        ("twoparts", 4.349249465264158),
        ("sin", 74.55452192755097),
    ],
)
def test_error_of_the_zero_model(target: str, error: float) -> None:
    assert zero_model_error(target, 100).item() == pytest.approx(error, rel=1e-10)


@pytest.mark.parametrize(
    ("target", "parameterization", "radii", "scaling", "verdict"),
    [
        ("exp", "direct", "0.449 0.449 0.449 0.449 0.449 0.449", 0.0, "stable"),
        ("pol", "direct", "0.0184 0.0113 0.00716 0.00453 0.00284 0.00174", -0.69, "unstable"),
        ("exp", "exp", "0.596 0.596 0.596 0.596 0.596 0.596", 0.0, "stable"),
        ("pol", "exp", "0.63 0.554 0.52 0.504 0.497 0.494", 0.04, "stable"),
    ],
)
def test_radii_from_the_limit_formulas(
    target: str, parameterization: str, radii: str, scaling: float, verdict: str
) -> None:
    found = [limit_radius(target, parameterization, length) for length in HORIZONS]
    assert " ".join(f"{r:.3g}" for r in found) == radii
    measured, error = local_slope(HORIZONS, found)
    assert measured == pytest.approx(scaling, abs=0.005)
    assert decide(measured, error) == verdict


@pytest.mark.parametrize("length", [1, 40])
@pytest.mark.parametrize("beta", [0.0, 1e-6, 0.3, 0.9])
@pytest.mark.parametrize("name", ["direct", "exp"])
def test_limit_formulas_on_the_target_that_one_unit_realises(name: str, beta: float, length: int) -> None:
    # The unit of rate 1 becomes one of rate 1 - beta or e^-beta.
    slower_by = beta if name == "direct" else -math.expm1(-beta)
    lags = torch.arange(length, dtype=torch.float64)
    kappa_change = torch.exp(-lags) * torch.expm1(slower_by * lags)
    z = torch.stack([kappa_change, torch.zeros_like(lags)])[None]
    expected = quadratic_error(z, gram(population_moments(length)))
    # At beta = 1e-6 the formula subtracts nearly equal values of rho.
    rtol = 1e-8 if name == "exp" else 1e-12
    torch.testing.assert_close(limit_error("exp", name, beta, length), expected, rtol=rtol, atol=1e-30)


@pytest.mark.parametrize("length", [1600, 6400])
def test_the_direct_limit_formula_survives_huge_exponentials(length: int) -> None:
    # e^{0.9 * 1600} overflows and e^-1600 underflows; e^{-0.1 s} is what they make.
    lags = torch.arange(length, dtype=torch.float64)
    change = torch.exp(-0.1 * lags) - torch.exp(-lags)
    expected = (tail_weights(length) * change**2).sum()
    torch.testing.assert_close(limit_error("exp", "direct", 0.9, length), expected)


def test_limit_error_keeps_its_accuracy_for_small_beta() -> None:
    # To first order E = beta^2 sum_s V_s (rho_s s)^2 for direct.
    small = limit_error("pol", "direct", 1e-12, 100).item()
    smaller = limit_error("pol", "direct", 1e-13, 100).item()
    assert small / smaller == pytest.approx(100, rel=1e-9)


@pytest.mark.parametrize("target", targets.TARGETS)
def test_limit_errors_start_at_zero(target: str) -> None:
    for name in ("direct", "exp"):
        assert limit_error(target, name, 0.0, 60).item() == 0.0


def test_limit_error_needs_a_formula() -> None:
    with pytest.raises(ValueError, match="softplus"):
        limit_error("pol", "softplus", 0.1, 10)


def test_radius_by_bisection() -> None:
    assert radius(lambda beta: beta**2, 0.25) == pytest.approx(0.5, rel=1e-12)
    assert radius(lambda beta: beta**2, 0.25, upper=0.3) == 0.3
    assert radius(lambda beta: 1.0 + beta, 0.25) == 0.0
    assert radius(lambda beta: math.nan, 0.25) == 0.0
    assert radius(lambda beta: beta if beta < 1 else math.nan, 3.0) == pytest.approx(1.0)
    assert radius(lambda beta: beta if beta < 2 else math.inf, 3.0) == pytest.approx(2.0)


def test_slope_of_a_power_law() -> None:
    horizons = [100.0, 200.0, 400.0, 800.0]
    slope, error = local_slope(horizons, [3 * t**-0.68 for t in horizons], 0.0)
    assert slope == pytest.approx(-0.68) and error == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="radii"):
        local_slope(horizons[:2], [0.5, 0.5])
    with pytest.raises(ValueError, match="radii"):
        local_slope(horizons, [0.5])


def test_the_error_of_the_slope_is_the_spread_over_draws() -> None:
    """Radii with a scatter of 0.05 in log r; the standard deviation of 2,000 draws is known to 1 / sqrt(4,000)."""
    horizons = [50, 100, 200, 400, 800]
    noise = 0.05 * torch.randn(2000, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    fits = [local_slope(horizons, row.exp().tolist()) for row in noise]
    slopes, errors = torch.tensor(fits, dtype=torch.float64).T
    assert float(slopes.std()) == pytest.approx(float(errors.square().mean().sqrt()), rel=5 / math.sqrt(4000))


@pytest.mark.parametrize(
    ("slope", "error", "verdict"),
    [
        (-0.51, 0.1, "unstable"),
        (-0.49, 0.1, "undecided"),
        (-0.11, 0.1, "undecided"),
        (-0.09, 0.1, "stable"),
        (-math.inf, 0.1, "unstable"),
        (math.nan, math.nan, "undecided"),
    ],
)
def test_rule(slope: float, error: float, verdict: str) -> None:
    assert decide(slope, error) == verdict

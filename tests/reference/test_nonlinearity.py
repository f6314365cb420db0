import math
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
import torch

from cofm_triton.reference import NONLINEARITIES, nonlinearity

POINTS = [-3.0, -1.0, -0.7, 0.0, 0.2, 0.9999, 1.0, 2.5]


def exact(name: str, z: float) -> float:
    table = {"linear": z, "tanh": math.tanh(z), "relu": max(z, 0.0)}
    return table.get(name, min(max(z, -1.0), 1.0))


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_values(name: str) -> None:
    z = torch.tensor(POINTS, dtype=torch.float64)
    expected = torch.tensor([exact(name, point) for point in POINTS], dtype=torch.float64)
    torch.testing.assert_close(nonlinearity(name).act(z), expected, rtol=4e-16, atol=0)


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_nan_and_infinity(name: str) -> None:
    values = nonlinearity(name).act(torch.tensor([torch.nan, torch.inf, -torch.inf]))
    assert values[0].isnan()
    limits = {"linear": (torch.inf, -torch.inf), "relu": (torch.inf, 0.0)}.get(name, (1.0, -1.0))
    assert tuple(values[1:].tolist()) == limits


@pytest.mark.parametrize(("name", "kinks"), [("hardtanh", [-1.0, 1.0]), ("relu", [0.0])])
def test_derivative_at_a_kink_is_zero(name: str, kinks: list[float]) -> None:
    z = torch.tensor(kinks, requires_grad=True)
    (slope,) = torch.autograd.grad(nonlinearity(name).act(z).sum(), z)
    assert not slope.any()


def exact_difference(name: str, z: float, step: float) -> float:
    """act(z + step) - act(z) of the two floats, in exact or 800-digit arithmetic."""
    if name == "tanh":
        with localcontext() as context:
            context.prec = 800
            low, high = ((2 * x).exp() for x in (Decimal(z), Decimal(z) + Decimal(step)))
            return float((high - 1) / (high + 1) - (low - 1) / (low + 1))
    bounds = {"hardtanh": (-1, 1), "relu": (0, 10**9), "linear": (-(10**9), 10**9)}
    lower, upper = map(Fraction, bounds[name])
    start, end = Fraction(z), Fraction(z) + Fraction(step)
    return float(min(max(end, lower), upper) - min(max(start, lower), upper))


@pytest.mark.parametrize("name", NONLINEARITIES)
@pytest.mark.parametrize("step", [1e-13, -1e-6, 0.0, 0.3, -5.0, 900.0])
@pytest.mark.parametrize("point", [-30.0, -2.0, -0.7, 0.0, 0.2, 0.9, 5.0, 400.0])
def test_differences_keep_relative_accuracy(name: str, point: float, step: float) -> None:
    z, s = torch.tensor([point, step], dtype=torch.float64)
    actual = float(nonlinearity(name).difference(z, s))
    # z + step is rounded once before exp: a relative error of half an ulp times |z + step|.
    rel = 1e-15 + 4e-16 * (abs(point) + abs(step) if name == "tanh" else 0)
    assert actual == pytest.approx(exact_difference(name, point, step), rel=rel, abs=1e-307)


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"hardtanh.*'gelu'"):
        nonlinearity("gelu")

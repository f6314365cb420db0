"""What NaN, infinity and overflow do to results and derivatives: one rule for all backends and `reference/`."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from scan_cases import BACKENDS, Problem, dense_problem, gated_problem, linear_problem, paired_problem, rnn_problem
from torch import Tensor

from cofm_triton import reference
from cofm_triton.step.activations import NONLINEARITIES

# Triton's interpreter computes with NumPy, which says so.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")
STEP = 3
# Pairs of linear scans aside: PyTorch adds complex numbers as if each were multiplied by 1 + 0j, and NaN reaches both
# parts one step too early in `reference/`.
SCANS: dict[str, Callable[..., Problem]] = {
    "linear": linear_problem,
    "linear gated": partial(linear_problem, gated=True),
    "gated": gated_problem,
    **{
        f"{name} {nonlinearity}": partial(make, nonlinearity=nonlinearity)
        for name, make in (("rnn", rnn_problem), ("paired", paired_problem), ("dense", dense_problem))
        for nonlinearity in NONLINEARITIES
    },
}


def spoiled(problem: Problem, name: str, value: float) -> Problem:
    """One number of the input replaced, or of the start states."""
    tensor = problem[name].clone()
    tensor[(0, STEP, 0) if name == "x" else (0, 0)] = value
    return problem.with_(**{name: tensor})


def kinds(numbers: Tensor) -> Tensor:
    """0, a finite number, infinity or NaN, as 0 to 3."""
    return (numbers != 0).to(torch.int8) + numbers.isfinite().logical_not() + numbers.isnan()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
@pytest.mark.parametrize("name", ["x", "h0"])
@pytest.mark.parametrize("scan", SCANS)
def test_one_number_that_is_not_finite(scan: str, name: str, value: float, backend: str) -> None:
    """Each result and derivative is NaN, infinite or 0 just where that of the definition is."""
    problem = spoiled(SCANS[scan](2, 9, 4, dtype=torch.float32), name, value)
    exact, found = problem.bounds(), problem.run(backend)
    for what, result in found.items():
        ours, theirs = kinds(result), kinds(exact[what].exact)
        if (name, value, backend) == ("h0", math.inf, "triton") and scan.startswith("dense"):
            # An infinite unit times the zeros beside a matrix that does not fill its tile.
            assert torch.equal(ours[1:], theirs[1:]) or what == "grad_weight"
            assert ((ours == theirs) | (ours == 3)).all(), what
        else:
            assert torch.equal(ours, theirs), what


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("length", [9, 70])
@pytest.mark.parametrize("scan", ["linear", "rnn linear", "rnn relu", "dense relu"])
def test_states_that_overflow(scan: str, length: int, backend: str) -> None:
    """What float32 cannot hold is infinite or NaN, never a number; how far NaN reaches depends on the order of sums.

    Derivatives too in scans whose factors do not depend on states; a relu whose argument became NaN lets none through.
    """
    problem = SCANS[scan](1, length, 2, dtype=torch.float32)
    name, value = {"linear": ("decay", 1e6), "rnn": ("rate", -1e6), "dense": ("weight", -1e6)}[scan.split()[0]]
    problem = problem.with_(**{name: torch.full_like(problem[name], value)})
    exact, found = problem.bounds(), problem.run(backend)
    largest = torch.finfo(torch.float32).max
    assert any((~(bound.exact.abs() <= largest)).any() for bound in exact.values())
    for what, result in found.items():
        if what.startswith("grad") and "relu" in scan:
            continue
        too_large = ~(exact[what].exact.abs() <= largest)
        assert not result[too_large].isfinite().any(), what


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_the_slope_at_nan(nonlinearity: str) -> None:
    """That of tanh is NaN; those that a comparison decides are 0; that of the identity is 1."""
    z = torch.tensor([math.nan, 0.5], requires_grad=True)
    h = reference.nonlinearity(nonlinearity).act(z)
    (slope,) = torch.autograd.grad(h.sum(), z)
    wanted = {"tanh": math.nan, "linear": 1.0}.get(nonlinearity, 0.0)
    torch.testing.assert_close(slope[0], torch.tensor(wanted), rtol=0, atol=0, equal_nan=True)
    assert h[0].isnan() and slope[1] > 0

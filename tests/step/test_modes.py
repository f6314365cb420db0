"""Coefficients of single units and of pairs that turn: the definition, slow ones, gradients at the edges."""

import cmath
import math

import pytest
import torch

from cofm_triton import reference
from cofm_triton.step import modes
from cofm_triton.step.discretization import DISCRETIZATIONS
from cofm_triton.step.modes import log_decay, mode_decay, mode_gain, normalized_gain, step_size

RATES = [1e-9, 1e-6, 1e-3, 0.1, 0.26, 1.0, 8.0, 40.0]
ANGLES = [0.0, 1e-7, -1e-3, 0.2, 0.5, math.pi / 2, -3.0, math.pi, 2 * math.pi, 100.0]


@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
@pytest.mark.parametrize("dt", [0.01, 1.0])
@pytest.mark.parametrize("name", ["mode_decay", "mode_gain", "normalized_gain"])
@pytest.mark.parametrize("turning", [False, True])
def test_against_the_definition(name: str, discretization: str, dt: float, turning: bool) -> None:
    rate, angle = torch.cartesian_prod(torch.tensor(RATES).double(), torch.tensor(ANGLES).double()).unbind(1)
    frequency = angle / dt if turning else None
    ours = getattr(modes, name)(rate, frequency, dt, discretization)
    theirs = getattr(reference, name)(rate, frequency, dt, discretization)
    # The definition's quotient and its 1 - |l|^2 round once at the size of 1.
    eps = torch.finfo(torch.float64).eps
    torch.testing.assert_close(ours.square(), theirs.square(), rtol=64 * eps, atol=16 * eps)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("angle", ANGLES)
def test_exact_coefficients_in_float32_are_those_of_float64(rate: float, angle: float) -> None:
    """Nothing cancels: every coefficient is right to a few roundings."""
    r, w = torch.tensor([rate]), torch.tensor([angle])
    r64, w64 = r.double(), w.double()
    eps = torch.finfo(torch.float32).eps
    z = complex(r64.item(), w64.item())
    decay = mode_decay(r, w, 1.0, "exact")
    assert abs(complex(decay.item()) - cmath.exp(-z)) <= 4 * eps
    phi = -torch.expm1(torch.tensor(-z)).item() / z
    assert abs(complex(mode_gain(r, w, 1.0, "exact").item()) - phi) <= 8 * eps * abs(phi)
    gain = math.sqrt(-math.expm1(-2 * r64.item()))
    assert normalized_gain(r, w, 1.0, "exact").item() == pytest.approx(gain, rel=4 * eps)
    assert step_size(r, w, 1.0, "exact").item() == pytest.approx(abs(z * phi), rel=8 * eps)


@pytest.mark.parametrize("turning", [False, True])
def test_gradients_are_finite_at_the_edges(turning: bool) -> None:
    """Rate 0, rates below it, Euler's method beyond its stability: zeros, never NaN."""
    for discretization in DISCRETIZATIONS:
        rate = torch.tensor([0.0, -0.5, 2.5, 1e-30], dtype=torch.float64, requires_grad=True)
        frequency = torch.zeros(4, dtype=torch.float64, requires_grad=True) if turning else None
        for function in (mode_decay, mode_gain, normalized_gain):
            value = function(rate, frequency, 1.0, discretization)
            leaves = [rate] if frequency is None else [rate, frequency]
            loss = value.abs().square().sum() + value.real.sum() + 0 * rate.sum()  # Euler's gain depends on nothing
            gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
            assert all(g is None or g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
@pytest.mark.parametrize("turning", [False, True])
def test_logarithms_of_decays(discretization: str, turning: bool) -> None:
    """To the last digits of slow modes, and of fast ones."""
    mpmath = pytest.importorskip("mpmath")  # comes with torch
    rates = [1e-9, 1e-6, 0.1, 0.26, 1.5, 2.0 - 1e-9, 8.0, 40.0]
    for rate, angle in [(r, w) for r in rates for w in ((0.0, 1e-7, 0.2, -3.0) if turning else (0.0,))]:
        r, w = torch.tensor([[rate], [angle]], dtype=torch.float64)
        ours = log_decay(r, w if turning else None, 1.0, discretization)
        assert ours.is_complex() == turning
        with mpmath.workdps(40):
            z = mpmath.mpc(r.item(), w.item())
            wanted = -z if discretization == "exact" else mpmath.log(1 - z)
            size, lost = float(wanted.real), float(2 * z.real - abs(z) ** 2)
            decay = complex(1 - z if discretization == "euler" else mpmath.exp(-z))
        # 2 r - |z|^2 cancels at the edge of stability: an error in roundings of its terms.
        near = 8 * torch.finfo(torch.float64).eps * min(1.0, abs(z) ** 2 + 2 * rate)
        assert abs(ours.real.item() - size) <= near + 1e-15 * abs(size), (rate, angle, lost)
        if turning and decay:
            assert abs(cmath.exp(1j * ours.imag.item()) - decay / abs(decay)) <= 4e-15


def test_gradients_of_the_complex_gain() -> None:
    rate = torch.tensor([1e-3, 0.2, 0.26, 3.0], dtype=torch.float64, requires_grad=True)
    frequency = torch.tensor([1e-3, -0.1, 0.3, 7.0], dtype=torch.float64, requires_grad=True)

    def gain(r: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.view_as_real(mode_gain(r, w, 0.7, "exact"))

    assert torch.autograd.gradcheck(gain, (rate, frequency))
    assert torch.autograd.gradgradcheck(gain, (rate, frequency))


def test_a_unit_keeps_the_variance_of_white_noise() -> None:
    """var h = g^2 var x / (1 - |l|^2)."""
    rate, frequency = torch.tensor([1e-3, 0.5]), torch.tensor([0.3, 2.0])
    for discretization, steps in (("exact", 1.0), ("euler", 1e-3)):
        decay = mode_decay(rate, frequency, steps, discretization)
        gain = normalized_gain(rate, frequency, steps, discretization)
        assert (gain.square() / (1 - decay.abs().square())).tolist() == pytest.approx([1, 1], rel=1e-2)

"""The nonlinear scan on the CPU: saturation, unstable steps, long sequences."""

from __future__ import annotations

import pytest
import torch
from scan_cases import CPU_BACKENDS, normal, rnn_problem

from cofm_triton import reference
from cofm_triton.functional import rnn_scan
from cofm_triton.step.activations import NONLINEARITIES


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_saturated_steps_are_of_unit_size(backend: str) -> None:
    # |h[t]| <= dt (t + 1), reached while x - rate h stays above 1.
    x = torch.full((1, 100, 3), 1e6, requires_grad=True)
    h, _ = rnn_scan(x, torch.tensor([0.0, 0.5, 1.0]), dt=0.25, backend=backend)
    assert torch.equal(h[0, :, 0], 0.25 * torch.arange(1, 101))
    assert not torch.autograd.grad(h.sum(), x)[0].any()


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("nonlinearity", ["tanh", "hardtanh"])
def test_steps_beyond_the_stable_one_stay_bounded(nonlinearity: str, backend: str) -> None:
    # dt * rate = 3 > 2: a linear model grows like 2^T, a saturating one keeps |h[t]| <= dt (t + 1).
    x, rate = normal(1, 200, 3, dtype=torch.float64), torch.full((3,), 3.0, dtype=torch.float64)
    h, _ = rnn_scan(x, rate, nonlinearity=nonlinearity, backend=backend)
    assert (h.abs().amax((0, 2)) <= torch.arange(1, 201)).all()
    # A step rounds numbers of up to 34 a few times, and multiplies earlier errors by at most |1 - 3| = 2.
    expected, _ = reference.rnn_scan(x[:, :10], rate, nonlinearity=nonlinearity)
    torch.testing.assert_close(h[:, :10], expected, rtol=0, atol=64 * 2**10 * 2.0**-52)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_a_linear_model_beyond_the_stable_step_overflows(backend: str) -> None:
    x, rate = torch.ones(1, 2000, 3), torch.full((3,), 3.0)
    h, _ = rnn_scan(x, rate, nonlinearity="linear", backend=backend)
    expected, _ = reference.rnn_scan(x, rate, nonlinearity="linear")
    assert not h[:, -1].isfinite().any()
    assert torch.equal(h.isfinite(), expected.isfinite())
    assert torch.equal(h.isnan(), expected.isnan())


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_long_sequences(nonlinearity: str, backend: str) -> None:
    rnn_problem(1, 1000, 3, nonlinearity=nonlinearity, dt=0.1).check(backend)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("width", [3, 70])  # a row in registers; blocks of 32 channels and what they leave
def test_empty_sequences_touch_no_row(width: int, backend: str) -> None:
    rnn_problem(1, 30, width, nonlinearity="tanh", starts=[0, 0, 7, 7, 30]).check(backend)


@pytest.mark.parametrize("dt", [1e-3, 0.1, 0.5, 1.0, 1.9, 4.0])  # rates are 0.05 to 1.2
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_step_sizes(backend: str, dt: float) -> None:
    for nonlinearity in NONLINEARITIES:
        rnn_problem(2, 20, 3, nonlinearity=nonlinearity, dt=dt).check(backend)

"""The nonlinear scan's kernels: narrow blocks of channels, and blocks of time that are read ahead."""

from __future__ import annotations

import pytest
import torch
from scan_cases import device_of, normal, rnn_problem

from cofm_triton import functional, reference
from cofm_triton.ops import rnn_scan
from cofm_triton.ops.backends import INSTALLED, interpreting
from cofm_triton.step.activations import NONLINEARITIES

if not INSTALLED["triton"] or not (torch.cuda.is_available() or interpreting()):
    pytest.skip("triton cannot run here", allow_module_level=True)


# An H100's 132 multiprocessors leave 256 channels in blocks of 32, 9 of them leave bfloat16 in blocks of 64.
@pytest.mark.parametrize(("num_sms", "dtype"), [(132, torch.float32), (132, torch.bfloat16), (9, torch.bfloat16)])
@pytest.mark.parametrize("length", [11, 24, 77])  # blocks have 24 rows forward and 14 backward
def test_narrow_blocks(length: int, num_sms: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than a block of rows, whole blocks, and what is left of them: every row read ahead is the right one."""
    monkeypatch.setattr(rnn_scan, "num_sms", lambda device: num_sms)
    rnn_problem(1, length, 100 if length == 77 else 256, dtype=dtype, nonlinearity="hardtanh").check("triton")


@pytest.mark.parametrize("length", [6, 7, 48, 84])  # blocks have 12 rows forward and 7 backward
def test_full_blocks(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rnn_scan, "num_sms", lambda device: 1)
    rnn_problem(2, length, 130, nonlinearity="relu").check("triton")


def on_triton(x: torch.Tensor, rate: torch.Tensor, nonlinearity: str) -> torch.Tensor:
    """Every state."""
    device = device_of("triton")
    return functional.rnn_scan(x.to(device), rate.to(device), nonlinearity=nonlinearity, backend="triton")[0].cpu()


@pytest.mark.parametrize("dt", [1e-3, 1.9, 4.0])  # rates are 0.05 to 1.2
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_step_sizes(nonlinearity: str, dt: float) -> None:
    """Euler's method slow, oscillating and diverging: as the definition does, gradients included."""
    rnn_problem(2, 20, 3, nonlinearity=nonlinearity, dt=dt).check("triton")


def test_saturated_steps_are_of_unit_size() -> None:
    # |h[t]| <= dt (t + 1), reached while x - rate h stays above 1.
    device = device_of("triton")
    x, rate = torch.full((1, 40, 3), 1e6, device=device, requires_grad=True), torch.tensor([0.0, 0.5, 1.0])
    h, _ = functional.rnn_scan(x, rate.to(device), dt=0.25, backend="triton")
    assert torch.equal(h[0, :, 0].cpu(), 0.25 * torch.arange(1, 41))
    assert not torch.autograd.grad(h.sum(), x)[0].any()


@pytest.mark.parametrize("nonlinearity", ["tanh", "hardtanh"])
def test_steps_beyond_the_stable_one_stay_bounded(nonlinearity: str) -> None:
    # dt * rate = 3 > 2: a linear model grows like 2^T, a saturating one keeps |h[t]| <= dt (t + 1).
    x, rate = normal(1, 60, 3, dtype=torch.float64), torch.full((3,), 3.0, dtype=torch.float64)
    h = on_triton(x, rate, nonlinearity)
    assert (h.abs().amax((0, 2)) <= torch.arange(1, 61)).all()
    # A step rounds numbers of up to 34 a few times, and multiplies earlier errors by at most |1 - 3| = 2.
    expected, _ = reference.rnn_scan(x[:, :10], rate, nonlinearity=nonlinearity)
    torch.testing.assert_close(h[:, :10], expected, rtol=0, atol=64 * 2**10 * 2.0**-52)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy, which stands in for the machine, warns of infinities
def test_a_linear_model_beyond_the_stable_step_overflows() -> None:
    x, rate = torch.ones(1, 150, 3), torch.full((3,), 3.0)
    h = on_triton(x, rate, "linear")
    expected, _ = reference.rnn_scan(x, rate, nonlinearity="linear")
    assert not h[:, -1].isfinite().any()
    assert torch.equal(h.isfinite(), expected.isfinite())
    assert torch.equal(h.isnan(), expected.isnan())

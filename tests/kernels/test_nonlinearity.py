"""The nonlinearities on Triton values: accuracy, NaN, infinity and slopes at the kinks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scan_cases import device_of

from cofm_triton.ops.backends import INSTALLED, interpreting
from cofm_triton.step.activation import activation, activation_slope, bodies
from cofm_triton.step.activations import NONLINEARITIES, properties
from cofm_triton.step.activations.tanh import TANH_FLOAT32

if not INSTALLED["triton"] or not (torch.cuda.is_available() or interpreting()):
    pytest.skip("triton cannot run here", allow_module_level=True)

import triton
import triton.language as tl

from cofm_triton.kernels.nonlinearity import act, act_derivative, excess


def _apply(
    z_ptr: Any, act_ptr: Any, slope_ptr: Any, count: Any, NONLINEARITY: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    z = tl.load(z_ptr + i, mask=i < count, other=0.0)
    u = act(z, NONLINEARITY)
    tl.store(act_ptr + i, u, mask=i < count)
    tl.store(slope_ptr + i, act_derivative(z, u, 1.0, NONLINEARITY), mask=i < count)


# Called rather than written above the function: the decorator carries no types.
apply_kernel = triton.jit(_apply)


def _apply_excess(z_ptr: Any, excess_ptr: Any, NONLINEARITY: tl.constexpr, BLOCK: tl.constexpr) -> None:
    i = tl.arange(0, BLOCK)
    z = tl.load(z_ptr + i)
    tl.store(excess_ptr + i, excess(z, act(z, NONLINEARITY), NONLINEARITY))


excess_kernel = triton.jit(_apply_excess)


def arguments(dtype: torch.dtype) -> torch.Tensor:
    tiny = torch.logspace(-30, 2, 4001, dtype=torch.float64)
    grid = torch.linspace(-25, 25, 20_001, dtype=torch.float64)
    special = [0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1.0, -1.0, float(torch.finfo(dtype).max)]
    return torch.cat([tiny, -tiny, grid, torch.tensor(special, dtype=torch.float64)]).to(dtype)


@pytest.mark.parametrize("name", NONLINEARITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_slopes(name: str, dtype: torch.dtype) -> None:
    z = arguments(dtype)
    device = device_of("triton")
    values, slopes = torch.empty_like(z, device=device), torch.empty_like(z, device=device)
    apply_kernel[(triton.cdiv(z.numel(), 2048),)](z.to(device), values, slopes, z.numel(), name, BLOCK=2048)
    values, slopes = values.cpu(), slopes.cpu()
    nan = z.isnan()
    assert torch.equal(values.isnan(), nan)
    if name != "relu":  # one instruction, max(z, 0), which takes -0 for +0 on some targets
        assert torch.equal(values[z == 0].signbit(), z[z == 0].signbit())
    if name == "tanh":
        wide = np.tanh(z[~nan].numpy().astype(np.longdouble))
        unit = np.spacing(np.abs(wide.astype(z.numpy().dtype)))
        assert (np.abs(values[~nan].numpy() - wide) / unit).max() <= 2.5  # what the docstring says
        # 1 - u^2 from a u that is 2.5 ulp off: 2 * 2.5 ulp of at most 1/2 unit each, and its own rounding.
        torch.testing.assert_close(slopes[~nan].double(), activation_slope(name)(z[~nan].double()), rtol=0,
                                   atol=5 * torch.finfo(dtype).eps)  # fmt: skip
        return
    row, known, u = properties(name), z[z.isfinite()], torch.finfo(dtype).eps / 2
    for actual, exact, error in (
        (values, activation(name)(known), u * row.error(known, activation(name)(known))),
        (slopes, activation_slope(name)(known), row.slope_roundings * u),
    ):
        assert ((actual[z.isfinite()] - exact).abs() <= error).all()
    assert torch.equal(values[z.isinf()], activation(name)(z[z.isinf()]))


@pytest.mark.parametrize("name", NONLINEARITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_excess_keeps_its_digits(name: str, dtype: torch.dtype) -> None:
    magnitudes = torch.logspace(-9, 1.2, 128, dtype=torch.float64)
    z = torch.cat((magnitudes, -magnitudes)).to(dtype)
    found = torch.empty_like(z, device=device_of("triton"))
    excess_kernel[(1,)](z.to(found.device), found, name, BLOCK=len(z))
    row, wide, u = properties(name), z.double(), torch.finfo(dtype).eps / 2
    exact, series = bodies(name).excess(wide), z.abs() < (TANH_FLOAT32.threshold if dtype == torch.float32 else 0.25)
    # Near 0 a series: as many roundings as it has terms, and the fit of float32, 1.3e-6 off where tanh does not see it.
    fit = abs(3 * TANH_FLOAT32.coefficients[0] + 1) if dtype == torch.float32 else 0.0
    allowed = (32 * u + fit) * exact.abs() + torch.where(series, 0, row.error(wide, activation(name)(wide)) * u)
    assert ((found.cpu().double() - exact).abs() <= allowed).all()


def test_an_unknown_name_is_an_error() -> None:
    z = torch.zeros(1, device=device_of("triton"))
    with pytest.raises(Exception, match="NONLINEARITY must be one of"):
        apply_kernel[(1,)](z, z, z, 1, "silu", BLOCK=1)


def test_tanh_is_that_of_pytorch_to_two_units_over_all_of_float32() -> None:
    """Every 4,099th number from the smallest to the largest: as `activations/tanh.py` says, range by range."""
    bits = torch.arange(0, torch.tensor(torch.inf).view(torch.int32).item(), 4099, dtype=torch.int32)
    z = torch.cat((bits.view(torch.float32), -bits.view(torch.float32)))
    values, slopes = torch.empty_like(z, device=device_of("triton")), torch.empty_like(z, device=device_of("triton"))
    apply_kernel[(triton.cdiv(z.numel(), 2**16),)](z.to(values.device), values, slopes, z.numel(), "tanh", BLOCK=2**16)
    u, size = values.cpu(), z.abs()
    expected = torch.tanh(z)
    unit = torch.from_numpy(np.spacing(expected.abs().numpy())).double()
    units = (u.double() - expected.double()).abs() / unit
    assert units.max() <= 2
    assert units[(size >= 1e-4) & (size <= 1)].max() <= 1
    assert torch.equal(u[size < 1e-4], z[size < 1e-4])
    assert torch.equal(u[size > 10], z[size > 10].sign())


@pytest.mark.parametrize("root_units", [-2, 2])
@pytest.mark.parametrize("power_units", [-2, 2])
def test_tanh_bears_the_errors_of_a_gpu_beyond_its_threshold(power_units: int, root_units: int) -> None:
    """exp2 and the inverse root of the target may be two units off: the quotient's share of tanh is small by then."""
    size = torch.linspace(TANH_FLOAT32.threshold, 10, 200_001)
    power = torch.exp2(size * (2 / np.log(2)))
    root = torch.rsqrt((power + power_units * torch.from_numpy(np.spacing(power.numpy()))) * 0.5 + 0.5)
    root = (root + root_units * torch.from_numpy(np.spacing(root.numpy()))).double()
    u = (1 - root * root).float()  # fused
    expected = torch.tanh(size)
    units = (u.double() - expected.double()).abs() / torch.from_numpy(np.spacing(expected.numpy())).double()
    assert units.max() <= 2

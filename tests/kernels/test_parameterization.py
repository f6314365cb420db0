"""Rates inside kernels: off by one rounding of the state, over the whole range of the parameter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scan_cases import device_of

from cofm_triton.ops.backends import INSTALLED, interpreting
from cofm_triton.ops.step_rate import step_rate as exact_rate
from cofm_triton.ops.step_rate import step_rate_slope as exact_slope
from cofm_triton.step.discretization import DISCRETIZATIONS
from cofm_triton.step.parameterization import PARAMETERIZATIONS

if not INSTALLED["triton"] or not (torch.cuda.is_available() or interpreting()):
    pytest.skip("triton cannot run here", allow_module_level=True)

import triton
import triton.language as tl

from cofm_triton.kernels.parameterization import step_rate, step_rate_slope


def _apply(
    w_ptr: Any, rate_ptr: Any, slope_ptr: Any, dt: tl.float64, NAME: tl.constexpr, EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    i = tl.arange(0, BLOCK)
    w = tl.load(w_ptr + i)
    tl.store(rate_ptr + i, step_rate(w, dt, NAME, EXACT))
    tl.store(slope_ptr + i, step_rate_slope(w, dt, NAME, EXACT))


# Called rather than written above the function: the decorator carries no types.
apply_kernel = triton.jit(_apply)


@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_slopes(dtype: torch.dtype, name: str, discretization: str) -> None:
    special = torch.tensor([0.0, 1e-30, -1e-30, 30.0, 30.5, torch.nan], dtype=torch.float64)
    w = torch.cat([torch.linspace(-40, 40, 1018, dtype=torch.float64), special]).to(dtype)
    if name == "direct":
        w = w / 20  # a growing exp(-dt w) would magnify the error of w itself
    device, dt = device_of("triton"), 0.7
    rates, slopes = (torch.empty_like(w, device=device) for _ in range(2))
    apply_kernel[(1,)](w.to(device), rates, slopes, dt, name, discretization == "exact", BLOCK=1024)
    wide = w.double()
    # float64's own error, that of exp times an exponent of up to 1e3 where the rate is not yet immaterial.
    rtol = torch.finfo(dtype).eps / 2 + 1e-12
    tiny = torch.finfo(dtype).smallest_normal
    for actual, exact in ((rates, exact_rate), (slopes, exact_slope)):
        expected = exact(wide, dt, name, discretization)
        torch.testing.assert_close(actual.cpu().double(), expected, rtol=rtol, atol=tiny, equal_nan=True)

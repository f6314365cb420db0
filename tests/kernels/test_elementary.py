"""Elementary functions inside kernels, float64, beside PyTorch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scan_cases import device_of

from cofm_triton.ops.backends import INSTALLED, interpreting

if not INSTALLED["triton"] or not (torch.cuda.is_available() or interpreting()):
    pytest.skip("triton cannot run here", allow_module_level=True)

import triton
import triton.language as tl

from cofm_triton.kernels.elementary import atan, sin_cos

EPS = torch.finfo(torch.float64).eps


def _apply(x_ptr: Any, out_ptr: Any, BLOCK: tl.constexpr) -> None:
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i)
    sine, cosine = sin_cos(x)
    tl.store(out_ptr + i, sine)
    tl.store(out_ptr + BLOCK + i, cosine)
    tl.store(out_ptr + 2 * BLOCK + i, atan(x))


# Called rather than written above the function: the decorator carries no types.
apply_kernel = triton.jit(_apply)


@pytest.mark.parametrize("largest", [1e-300, 1e-9, 1.0, 10.0, 1e6, 1e15])
def test_sine_cosine_and_arc_tangent(largest: float) -> None:
    x = torch.linspace(-largest, largest, 256, dtype=torch.float64, device=device_of("triton"))
    out = torch.empty(3, 256, dtype=torch.float64, device=x.device)
    apply_kernel[(1,)](x, out, BLOCK=256)
    angle = x.abs().cpu()
    rounding = EPS * torch.maximum(angle, angle.clamp(max=1))  # of the angle, and of a sine
    for found, exact, bound in (
        (out[0], torch.sin(x), 2 * rounding),
        (out[1], torch.cos(x), 2 * rounding + EPS),
        (out[2], torch.atan(x), 8 * EPS * torch.atan(angle)),
    ):
        assert ((found - exact).abs().cpu() <= bound).all()


def test_nan_and_infinity() -> None:
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0], dtype=torch.float64, device=device_of("triton"))
    out = torch.empty(3, 4, dtype=torch.float64, device=x.device)
    apply_kernel[(1,)](x, out, BLOCK=4)
    assert out[:2, :3].isnan().all() and out[:, 3].tolist() == [0, 1, 0]
    torch.testing.assert_close(out[2], torch.atan(x), equal_nan=True)

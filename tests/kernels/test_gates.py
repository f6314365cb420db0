"""Gates inside kernels: errors of their functions at arguments of every size, beside numbers of twice the width."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scan_cases import device_of

from cofm_triton.ops.backends import INSTALLED, interpreting

if not INSTALLED["triton"] or not (torch.cuda.is_available() or interpreting()):
    pytest.skip("triton cannot run here", allow_module_level=True)

import triton
import triton.language as tl

from cofm_triton.kernels.gates import decayed, normalization, sigmoid, softplus

# Roundings of a function like exp or log1p or of a quotient, as `evidence/tolerance/gated_rnn.py` counts them.
ROUNDINGS = 4
BLOCK = 2**11


def _apply(z_ptr: Any, out_ptr: Any, BLOCK: tl.constexpr) -> None:
    i = tl.arange(0, BLOCK)
    z = tl.load(z_ptr + i)
    share, share_slope = sigmoid(z)
    length, length_slope = softplus(z)
    decay, complement = decayed(tl.abs(z))
    tl.store(out_ptr + i, share)
    tl.store(out_ptr + BLOCK + i, share_slope)
    tl.store(out_ptr + 2 * BLOCK + i, length)
    tl.store(out_ptr + 3 * BLOCK + i, length_slope)
    tl.store(out_ptr + 4 * BLOCK + i, decay)
    tl.store(out_ptr + 5 * BLOCK + i, complement)
    tl.store(out_ptr + 6 * BLOCK + i, normalization(decay, complement))


# Called rather than written above the function: the decorator carries no types.
apply_kernel = triton.jit(_apply)


def evaluated(z: torch.Tensor) -> Any:
    """The seven results, of twice the width."""
    z = z.to(device_of("triton"))
    out = z.new_empty(7, BLOCK)
    apply_kernel[(1,)](z, out, BLOCK=BLOCK)
    return out.cpu().numpy().astype(np.longdouble)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_errors(dtype: torch.dtype) -> None:
    """Two functions, one of the other, and exp multiplies what its argument is rounded by."""
    info = torch.finfo(dtype)
    smallest, largest = np.log2(info.tiny) + 16, np.log2(-np.log(info.tiny))
    sizes = torch.logspace(smallest, largest, BLOCK // 2, 2, dtype=torch.float64)
    z = torch.cat((sizes, -sizes)).to(dtype)
    wide = z.numpy().astype(np.longdouble)
    small, complement = np.exp(-abs(wide)), -np.expm1(-abs(wide))
    share = np.where(wide < 0, small, 1) / (1 + small)
    length, root = np.maximum(wide, 0) + np.log1p(small), np.sqrt(complement * (1 + small))
    slack = (2 * ROUNDINGS + 2 * abs(wide)) * info.eps / 2
    exact = share, small / (1 + small) ** 2, length, share, small, complement, root
    for found, right in zip(evaluated(z), exact, strict=True):
        assert (abs(found - right) <= slack * right + info.tiny).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_root_is_zero(dtype: torch.dtype) -> None:
    """A gradient would be 0 times infinity there."""
    assert (evaluated(torch.zeros(BLOCK, dtype=dtype))[6] > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_and_infinity(dtype: torch.dtype) -> None:
    assert np.isnan(evaluated(torch.full((BLOCK,), torch.nan, dtype=dtype))[:6]).all()
    above, below = (evaluated(torch.full((BLOCK,), sign * torch.inf, dtype=dtype))[:, 0] for sign in (1, -1))
    assert above.tolist() == [1, 0, np.inf, 1, 0, 1, 1] and below.tolist() == [0, 0, 0, 0, 0, 1, 1]

"""Dtypes of a recurrence: what tensors may hold, and what the state holds."""

from __future__ import annotations

import torch
from torch import Tensor

_STATE = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.complex64: torch.complex64,
    torch.complex128: torch.complex128,
}
REAL_DTYPES = tuple(dtype for dtype in _STATE if not dtype.is_complex)
DTYPES = tuple(_STATE)
# How float32 matrix products are formed on GPUs: fused multiply-adds, or three products of TF32 numbers.
PRECISIONS = ("ieee", "tf32x3")


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of the state for tensors of `dtype`: never narrower than float32, in which a slow state would stall."""
    return _STATE[dtype]


def in_pairs(x: Tensor, decay: Tensor) -> bool:
    """Whether channels (2k, 2k+1) of a real tensor are the parts of complex channel k: its decay is complex."""
    return decay.is_complex() and x.is_floating_point()


def as_complex(x: Tensor) -> Tensor:
    """(..., D) real numbers as (..., D // 2) complex ones, in the dtype of a complex state."""
    pairs = x.to(state_dtype(x.dtype)).unflatten(-1, (-1, 2))
    return torch.view_as_complex(pairs.contiguous())


def as_reals(z: Tensor) -> Tensor:
    """(..., D // 2) complex numbers as (..., D) real ones: the inverse of `as_complex`, but for the dtype."""
    return torch.view_as_real(z.resolve_conj()).flatten(-2)

"""Dtypes of a recurrence: what tensors may hold, and what the state holds."""

from __future__ import annotations

import torch

_STATE = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.complex64: torch.complex64,
    torch.complex128: torch.complex128,
}
_OF_PARTS = {torch.float32: torch.complex64, torch.float64: torch.complex128}
REAL_DTYPES = tuple(dtype for dtype in _STATE if not dtype.is_complex)
DTYPES = tuple(_STATE)
# How float32 matrix products are formed on GPUs: fused multiply-adds, or three products of TF32 numbers.
PRECISIONS = ("ieee", "tf32x3")


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of the state for tensors of `dtype`: never narrower than float32, in which a slow state would stall."""
    return _STATE[dtype]


def complex_state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of a complex state whose parts are channels of a real `dtype`."""
    return _OF_PARTS[_STATE[dtype]]

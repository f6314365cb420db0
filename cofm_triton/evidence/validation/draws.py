"""Random numbers that test a recurrence: the same for every dtype, up to rounding."""

from __future__ import annotations

import torch
from torch import Tensor


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Standard normal numbers; the same for every dtype, up to rounding."""
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(shape, dtype=wide, generator=torch.Generator().manual_seed(seed)).to(dtype)


def decays(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    """Decays of either sign, or any phase, with moduli from 0.7 to 1: states remember about as long as they can."""
    values = normal(*shape, dtype=torch.complex128 if dtype.is_complex else torch.float64, seed=seed)
    return (values.sgn() * (0.7 + 0.3 * values.abs() / (1 + values.abs()))).to(dtype)


def starts(length: int, seed: int) -> list[int]:
    """Start indices of sequences packed into `length` steps: some one step long, one of them empty.

    Example:
        >>> starts(7, 0)[0], max(starts(7, 0)) < 7
        (0, True)
    """
    count = min(length, 2 + seed % 3)
    drawn = torch.randint(0, length, (count,), generator=torch.Generator().manual_seed(seed)).tolist() if length else []
    return sorted([0, *drawn, *drawn[:1]])


def away_from_kinks(*shape: int, seed: int) -> Tensor:
    """Pre-activations z with `0.1 <= |z| <= 0.8` or `1.25 <= |z| <= 3`, float64.

    Where the gradients of hardtanh and relu jump, a bound could not tell right from wrong.
    """
    draw = normal(*shape, dtype=torch.float64, seed=seed)
    size = draw.abs()
    return draw.sgn() * torch.where(size < 0.9, 0.1 + 0.75 * size, (1.25 + size - 0.9).clamp(max=3))

"""Pairs of real channels that are complex numbers: an oscillating mode in a real tensor, (2k, 2k+1) its two parts."""

from __future__ import annotations

import torch
from torch import Tensor


def in_pairs(x: Tensor, decay: Tensor) -> bool:
    """Whether the channels of a real tensor are pairs: its decay is complex.

    Example:
        >>> in_pairs(torch.ones(1, 1, 2), torch.tensor([1j])), in_pairs(torch.ones(1, 1, 2), torch.ones(2))
        (True, False)
    """
    return decay.is_complex() and x.is_floating_point()


def as_complex(x: Tensor) -> Tensor:
    """(..., D) real numbers as (..., D // 2) complex ones, in complex64 at least.

    Example:
        >>> as_complex(torch.tensor([1.0, 2.0]))
        tensor([1.+2.j])
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.view_as_complex(wide.unflatten(-1, (x.shape[-1] // 2, 2)).contiguous())


def as_reals(z: Tensor) -> Tensor:
    """(..., D // 2) complex numbers as (..., D) real ones: the inverse of `as_complex`, but for the dtype.

    Example:
        >>> as_reals(torch.tensor([1 + 2j]))
        tensor([1., 2.])
    """
    return torch.view_as_real(z.resolve_conj()).flatten(-2)

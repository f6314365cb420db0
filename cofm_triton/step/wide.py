"""The dtype that coefficients are formed in: float64, where the device has it."""

from __future__ import annotations

import torch
from torch import Tensor

_NARROW_DEVICES = ("mps",)  # Metal has no float64


def widened(x: Tensor) -> Tensor:
    """The tensor in float64; on devices without it in float32 at least.

    Coefficients are small and are formed once for a whole sequence, so that their digits cost little; what cancels in
    float64 leaves all the digits of a float32 result.

    Args:
        x: any shape, floating point.

    Example:
        >>> widened(torch.ones(2, dtype=torch.bfloat16)).dtype
        torch.float64
    """
    narrow = x.device.type in _NARROW_DEVICES
    return x.to(torch.promote_types(x.dtype, torch.float32) if narrow else torch.float64)

"""The encoded input  gain (U x + b)  of a recurrence."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def encode(x: Tensor, weight: Tensor, bias: Tensor | None, gain: Tensor | None) -> Tensor:
    """gain (U x + b), (B, T, D), of x (B, T, d); the other arguments are those of `amplified`."""
    return F.linear(x, *amplified(weight, bias, gain))


def amplified(weight: Tensor, bias: Tensor | None, gain: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """gain U and gain b: D * d products instead of B * T * D.

    Args:
        weight: U, (D, d).
        bias: b, (D,), or None.
        gain: None, (D,), a matrix (D, D), or complex (D / 2,), one number for each pair of rows.
    """
    if gain is None:
        return weight, bias
    return _amplify(gain, weight), None if bias is None else _amplify(gain, bias)


def _amplify(gain: Tensor, values: Tensor) -> Tensor:
    """gain times values (D,) or (D, d), in their dtype."""
    wide = values.to(gain.real.dtype)
    if gain.dim() == 2:
        return (gain @ wide).to(values.dtype)
    factors = gain.reshape(-1, *[1] * (values.dim() - 1))
    if gain.is_complex():
        pairs = wide.unflatten(0, (-1, 2))
        product = torch.view_as_real(factors * torch.complex(pairs[:, 0], pairs[:, 1])).movedim(-1, 1).flatten(0, 1)
    else:
        product = factors * wide
    return product.to(values.dtype)

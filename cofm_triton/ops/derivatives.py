"""Whether a call can be asked for a derivative: if not, an operator is called without the wrapper that offers them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

# What `autograd.Function` itself asks; a PyTorch that answers no longer is taken to transform always.
_transforming: Any = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


def wanted(*tensors: Tensor | None) -> bool:
    """True inside `torch.func` and forward mode, and where a tensor requires a gradient.

    Example:
        >>> wanted(torch.ones(2), None), wanted(torch.ones(2, requires_grad=True))
        (False, True)
    """
    # A level of forward mode is asked for, not a tangent: tensors of `vmap` do not answer that question.
    if _transforming() or getattr(forward_ad, "_current_level", 0) >= 0:
        return True
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)

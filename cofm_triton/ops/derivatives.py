"""Whether a call can be asked for a derivative: if not, an operator is called without the wrapper that offers them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

# What `autograd.Function` itself asks; a PyTorch that answers no longer is taken to transform always.
_transforming: Any = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


def wanted(*tensors: Tensor | None) -> bool:
    """True inside `torch.func`, and where a tensor requires a gradient or carries a tangent.

    Example:
        >>> wanted(torch.ones(2), None), wanted(torch.ones(2, requires_grad=True))
        (False, True)
    """
    if _transforming():
        return True
    given = [tensor for tensor in tensors if tensor is not None]
    recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
    return recorded or any(unpack_dual(tensor).tangent is not None for tensor in given)

"""Two dtypes of a recurrence: that of its state, and that of its results.

The state of a recurrence is never narrower than float32: a bfloat16 state stalls as soon as an
increment falls below half a unit in its last place. Inputs and outputs may be 16-bit.
"""

from functools import reduce

import torch
from torch import Tensor


def state_dtype(*tensors: Tensor | None) -> torch.dtype:
    """Dtype of the state: the promotion of the arguments, at least float32.

    Example:
        >>> state_dtype(torch.zeros(1, dtype=torch.bfloat16))
        torch.float32
    """
    dtypes = [tensor.dtype for tensor in tensors if tensor is not None]
    return reduce(torch.promote_types, dtypes, torch.float32)


def output_dtype(x: Tensor, *others: Tensor | None) -> torch.dtype:
    """Dtype of the result: that of `x`, unless another argument makes a real `x` complex.

    Example:
        >>> output_dtype(torch.zeros(1), torch.zeros(1, dtype=torch.complex64))
        torch.complex64
    """
    promoted = state_dtype(x, *others)
    return promoted if promoted.is_complex and not x.is_complex() else x.dtype

"""Kernels broken on purpose, to see that validation notices.

A fault is in the kernels themselves, below everything that calls them: in what the implementations of an operator
return on every backend. It is as small as an error can be that a bound on rounding must tell from rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from cofm_triton.ops.backends import implementation
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.validation.place import Place
from cofm_triton.validation.registry import operators

# In roundings of the state: a kernel that loses the last 10 of float32's 24 bits, at a single element.
LOST = 2**10


def _off(tensor: Tensor, position: int) -> Tensor:
    """One element too large by `LOST` roundings of the state and two of what is stored, of itself or of 1."""
    if tensor.numel() == 0:
        return tensor
    relative = LOST * torch.finfo(state_dtype(tensor.dtype)).eps + 2 * torch.finfo(tensor.dtype).eps
    element = tensor[(position,) * tensor.dim()]
    element += relative * max(1.0, float(element.abs()))
    return tensor


def _last_state(results: Sequence[Tensor]) -> Sequence[Tensor]:
    return (_off(results[0], -1), *results[1:])


def _gradient(results: Sequence[Tensor]) -> Sequence[Tensor]:
    return (_off(results[0], 0), *results[1:])


# Name of a fault to the function of the implementation it breaks, and how.
FAULTS: dict[str, tuple[str, Callable[[Sequence[Tensor]], Sequence[Tensor]]]] = {
    "forward": ("forward", _last_state),
    "backward": ("backward", _gradient),
}


@contextmanager
def injected(fault: str | None, places: Sequence[Place]) -> Iterator[None]:
    """While the block runs, every operator's implementation returns results that are off at one element.

    Args:
        fault: name in `FAULTS`, or None for kernels as they are.
        places: whose implementations to break.
    """
    with ExitStack() as stack:
        if fault is not None:
            name, spoil = FAULTS[fault]
            for operator in operators().values():
                for backend in {place.backend for place in places} & set(operator.backends):
                    module = implementation(backend, operator.name)
                    if hasattr(module, name):
                        stack.enter_context(patch.object(module, name, _spoiled(getattr(module, name), spoil)))
        yield


def _spoiled(
    compute: Callable[..., Sequence[Tensor]], spoil: Callable[[Sequence[Tensor]], Sequence[Tensor]]
) -> Callable[..., Sequence[Tensor]]:
    def broken(*arguments: Any, **options: Any) -> Sequence[Tensor]:
        return spoil(compute(*arguments, **options))

    return broken

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

from cofm_triton.evidence.registry import validations
from cofm_triton.evidence.validation.place import Place
from cofm_triton.ops.backends import implementation
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.ops.launch_plan import Planned

# In roundings of the state: a kernel that loses the last 10 of float32's 24 bits, at a single element.
LOST = 2**10
# Name of a fault, which is that of the pass it breaks, to the element it breaks: the last state, the first gradient.
FAULTS: dict[str, int] = {"forward": -1, "backward": 0}


@contextmanager
def injected(fault: str | None, places: Sequence[Place]) -> Iterator[None]:
    """While the block runs, every operator's implementation returns results that are off at one element.

    Args:
        fault: name in `FAULTS`, or None for kernels as they are.
        places: whose implementations to break.
    """
    with ExitStack() as stack:
        if fault is not None:
            stack.enter_context(patch.object(Planned, "enabled", False))  # plans repeat the kernels as they were
            for operator, entry in validations().items():
                for backend in {place.backend for place in places} & set(entry.backends):
                    if fault in entry.functions:
                        module, name = implementation(backend, operator), entry.functions[fault]
                        which = entry.first_gradient if fault == "backward" else 0
                        broken = _spoiled(getattr(module, name), which, FAULTS[fault])
                        stack.enter_context(patch.object(module, name, broken))
        yield


def _spoiled(compute: Callable[..., Any], which: int, position: int) -> Callable[..., Any]:
    """`compute` with one of its results off at one element."""

    def broken(*arguments: Any, **options: Any) -> Any:
        results = compute(*arguments, **options)
        tensors = (*arguments, *options.values())
        given = [tensor.dtype for tensor in tensors if isinstance(tensor, Tensor) and not _whole(tensor)]
        state = state_dtype(max(given, key=lambda dtype: torch.finfo(dtype).eps))
        if isinstance(results, Tensor):
            return _off(results, position, state)
        return (*results[:which], _off(results[which], position, state), *results[which + 1 :])

    return broken


def _whole(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() and not tensor.is_complex()


def _off(tensor: Tensor, position: int, state: torch.dtype) -> Tensor:
    """One element too large by `LOST` roundings of the state and two of what is stored, of itself or of 1."""
    if tensor.numel() == 0:
        return tensor
    relative = LOST * torch.finfo(state).eps + 2 * torch.finfo(tensor.dtype).eps
    element = tensor[(position,) * tensor.dim()]
    element += relative * max(1.0, float(element.abs()))
    return tensor

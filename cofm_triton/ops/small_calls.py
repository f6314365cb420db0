"""Small calls on the CPU: a scan of ten thousand numbers takes a microsecond or two, and what Python does around it
twenty times as long.

All of that follows from the signature of a call: dtypes, shapes and strides of its tensors, and its options. So what
has passed every check once is kept by its signature, as a function that makes room for the results and calls compiled
code. On a GPU launch plans do the same (`launch_plan.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cofm_triton.cpu.sizes import MIN_NUMBERS
from cofm_triton.ops.backends import INSTALLED
from cofm_triton.ops.derivatives import is_plain, watched
from cofm_triton.ops.launch_plan import Signature, signature

MAX_CALLS, MAX_PULLS = 2**12, 2**6  # of a function, and of a call; a kilobyte each

Compute = Callable[..., Any]


def signature_of(tensors: tuple[Any, ...], options: tuple[Any, ...]) -> Signature | None:
    """The signature of a call, if it may be a small one that nobody watches.

    Args:
        tensors: tensors or None, the first one a tensor if the call is right.
        options: equal ones have equal types, too.
    """
    x = tensors[0]
    if torch.compiler.is_compiling() or not INSTALLED["numba"] or not isinstance(x, Tensor) or not x.is_cpu:
        return None
    if watched() or not is_plain(x) or x.numel() >= MIN_NUMBERS:
        return None
    found: list[Any] = [options, *map(type, options)]
    for tensor in tensors:
        if tensor is None:
            found.append(None)
        elif isinstance(tensor, Tensor) and is_plain(tensor):
            found += (tensor.dtype, tensor.shape, tensor.stride(), tensor.is_cpu)
        else:
            return None
    try:
        hash(options)
    except TypeError:  # an option that is not accepted
        return None
    return tuple(found)


class Small:
    """A small call.

    Attributes:
        compute: the results, of the tensors.
        options: the operator's other arguments.
        choose: takes gradients by the results, and what the operator's forward pass keeps for its backward pass; gives
            what computes all gradients of such arguments, or None.
        pulls: what was chosen, by signature.
    """

    def __init__(self, compute: Compute, options: tuple[Any, ...], choose: Callable[..., Compute | None]) -> None:
        self.compute, self.options, self.choose = compute, options, choose
        self.pulls: dict[Signature | None, Compute | None] = {None: None}

    def gradients(
        self, grads: tuple[Tensor | None, ...], kept: tuple[Tensor | None, ...]
    ) -> tuple[Tensor | None, ...] | None:
        """All gradients; None where the operator's own rule is needed."""
        if grads[0] is None or torch.is_grad_enabled() or watched():
            return None
        for grad in grads:
            if grad is not None and not is_plain(grad):
                return None
        tensors = (*grads, *kept)
        key = signature(tensors)
        if key not in self.pulls:
            if len(self.pulls) >= MAX_PULLS:
                self.pulls = {None: None}
            self.pulls[key] = self.choose(*tensors)
        pull = self.pulls[key]
        return None if pull is None else pull(*tensors)


class Kept:
    """Small calls of a function, by signature. What differs in layout only gets another entry."""

    def __init__(self) -> None:
        self.calls: dict[Signature, Compute | None] = {}

    def keep(self, key: Signature | None, make: Callable[[], Compute | None]) -> None:
        """Keep what computes all calls of a signature from their tensors as they are given; None for a call without.

        Args:
            key: see `signature_of`.
            make: gives it; None: nothing does it better than the function.
        """
        if key is None or key in self.calls:
            return
        if len(self.calls) >= MAX_CALLS:
            self.calls = {}
        self.calls[key] = make()

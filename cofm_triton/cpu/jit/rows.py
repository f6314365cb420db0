"""Rows of a tensor inside compiled loops: by address, in any dtype a recurrence takes, computed in the state's.

A row is D numbers next to each other; rows may lie any distance apart. bfloat16 travels as uint16
(`cpu/jit/bfloat16.py`).
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from numba import types
from numba.extending import intrinsic
from numba.np.numpy_support import carray
from torch import Tensor

from cofm_triton.cpu.jit.compiled import inlined, inner

# An array of each dtype that rows are stored in.
SAMPLES = {
    dtype: np.empty(0, stored)
    for dtype, stored in (
        (torch.bfloat16, np.uint16), (torch.float32, np.float32), (torch.float64, np.float64),
        (torch.complex64, np.complex64), (torch.complex128, np.complex128),
    )
}  # fmt: skip


class Rows:
    """Where the rows of a (B, T, D) tensor lie: address of row (b, t), distance between rows, a sample of its dtype."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor  # keeps the memory alive
        self.base = tensor.data_ptr()
        size = tensor.dtype.itemsize
        stride_b, step, _ = tensor.stride()
        self.stride_b, self.step = stride_b * size, step * size
        self.sample = SAMPLES[tensor.dtype]

    def at(self, b: Any, t: Any) -> Any:
        """Address of row t of sequence b; arrays of them give an array."""
        return self.base + b * self.stride_b + t * self.step

    def walk(self, reverse: bool) -> tuple[int, int, Any]:
        """Of the first sequence: address of the row where a walk begins, distance to the next one, a sample."""
        if reverse:
            return self.at(0, self.tensor.shape[1] - 1), -self.step, self.sample
        return self.base, self.step, self.sample


def with_rows(tensor: Tensor) -> Tensor:
    """`tensor` with its channels next to each other, copied only when they are not; float16 becomes float32."""
    if tensor.dtype == torch.float16:
        tensor = tensor.float()
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    return tensor if tensor.stride(2) == 1 or tensor.shape[2] == 1 else tensor.contiguous()


def numbers(tensor: Tensor) -> Any:
    """A contiguous tensor as an array that shares its memory; taken before work goes to threads without autograd."""
    return tensor.detach().numpy()


def aligned(shape: tuple[int, ...], dtype: Any) -> Any:
    """An uninitialised array at the beginning of a cache line, where PyTorch's memory begins and numpy's need not: a
    state whose vectors lie across two lines makes a scan half as fast.
    """
    size = prod(shape) * np.dtype(dtype).itemsize
    return torch.empty(size, dtype=torch.uint8, device="cpu").numpy().view(dtype).reshape(shape)


def _pointer_to(_context: Any, address: Any, sample: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(sample.dtype)(address, sample), generate


# The address of a number of the sample's dtype, as a pointer.
_pointer: Any = intrinsic(_pointer_to)


@inner
def row(address: int, sample: Any, channels: int) -> Any:
    """The row at an address, as an array of the sample's dtype."""
    return carray(_pointer(address, sample), (channels,))


# Rows of up to this many channels are one vector, compiled for their width, with the state in registers. Wider ones are
# done in blocks, their state in memory, and what blocks leave of a row is one more vector.
MAX_HELD = 64
BLOCK, SINGLE = (0,) * 32, (0,)


def row_lanes(channels: int) -> tuple[int, ...]:
    """The width of a row of up to `MAX_HELD` channels, or of what blocks leave of it: a tuple of as many entries."""
    return (0,) * (channels if channels <= MAX_HELD else channels % len(BLOCK) or 1)


@inlined
def block_at(k: int, lanes: Any, first: int, end: int, step: int) -> int:
    """First channel of the k-th block on [first, end), on a walk whose rows are `step` bytes apart.

    A walk that goes down goes down within rows too. Whole rows walked up one after the other from the last to the first
    run at half the speed of memory: prefetchers run ahead into the row that has just been done.
    """
    return first + k * len(lanes) if step > 0 else end - (k + 1) * len(lanes)

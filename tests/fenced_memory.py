"""Memory with fences: every array of a call lies against a page that nobody may touch, amid poison.

Reading or writing past a fence ends the process; Python's fault handler, which pytest turns on, names the test. What
was written on the other side of an array, up to a page away, is found by looking at the poison there. An element that
was never written, or made from such a one, is poison itself: two calls with different poisons then differ.

Fenced are the tensors that PyTorch makes for Python code, results of operators among them, and the arrays that Python
code asks of NumPy. Not fenced is what compiled code takes for itself.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cofm_triton.ops.backends import interpreting

# Pages are guarded by Linux, and against what runs on the CPU: with a GPU, kernels do not.
fences_here = pytest.mark.skipif(sys.platform != "linux" or not interpreting(), reason="needs Linux, and no GPU")

Side = Literal["before", "behind"]

_PAGE = mmap.PAGESIZE
_protect: Any = ctypes.CDLL(None).mprotect
_NO_ACCESS = 0


@dataclass(frozen=True)
class Fence:
    """Where the page lies, and what fills memory that nobody has written: one byte, again and again."""

    side: Side
    poison: int


# All bits set: NaN, -1 and True. The other one: a number in every dtype, of another size in each.
FENCES = (Fence("behind", 0xFF), Fence("before", 0x55))


class Room:
    """Memory for an array, with a page on either side that cannot be touched.

    Attributes:
        block: all of it.
        begin: of the array in it.
        end: of the array in it.
    """

    def __init__(self, size: int, fence: Fence) -> None:
        inside = max(1, -(-size // _PAGE)) * _PAGE
        self.fence, self.block = fence, mmap.mmap(-1, inside + 2 * _PAGE)
        self.block[:] = bytes([fence.poison]) * len(self.block)
        self.begin = _PAGE + (inside - size if fence.side == "behind" else 0)
        self.end = self.begin + size
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.block))
        self.address = address + self.begin
        for page in (address, address + _PAGE + inside):
            assert _protect(ctypes.c_void_p(page), ctypes.c_size_t(_PAGE), _NO_ACCESS) == 0

    def is_clean(self) -> bool:
        """Whether all poison beside the array is still there."""
        beside = self.block[_PAGE : self.begin] + self.block[self.end : len(self.block) - _PAGE]
        return beside == bytes([self.fence.poison]) * len(beside)


class Fenced(TorchFunctionMode):
    """Gives every tensor that is made inside, but for those that require gradients, memory of its own with fences."""

    def __init__(self, fence: Fence) -> None:
        super().__init__()
        self.fence = fence
        self.rooms: list[Room] = []  # kept to the end, when they are looked at

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        old = {tensor.untyped_storage().data_ptr() for tensor in _tensors((args, kwargs)) if _is_plain(tensor)}
        name = getattr(func, "__name__", "")
        if isinstance(result, Tensor) and not name.endswith("_"):
            return self._moved(result, old, filled="empty" not in name)
        if isinstance(result, (tuple, list)) and any(isinstance(part, Tensor) for part in result):
            parts = [self._moved(part, old) if isinstance(part, Tensor) else part for part in result]
            return result if all(map(_same, parts, result)) else type(result)(parts)
        return result

    def tensor(self, given: Tensor) -> Tensor:
        """The same numbers with the same strides; poison in the gaps between them."""
        extent = 1 + sum((size - 1) * stride for size, stride in zip(given.shape, given.stride(), strict=True))
        found = self._room(extent, given.dtype).as_strided(given.shape, given.stride())
        return found.copy_(given.resolve_conj())

    def array(self, shape: Any, dtype: Any) -> Any:
        """An array of NumPy that nobody has written."""
        shape, dtype = tuple(np.atleast_1d(shape).tolist()), np.dtype(dtype)
        room = Room(prod(shape) * dtype.itemsize, self.fence)
        self.rooms.append(room)
        return np.frombuffer(room.block, dtype, prod(shape), room.begin).reshape(shape)

    def _room(self, count: int, dtype: torch.dtype) -> Tensor:
        room = Room(count * dtype.itemsize, self.fence)
        self.rooms.append(room)
        return torch.frombuffer(room.block, dtype=dtype, count=count, offset=room.begin)

    def _moved(self, tensor: Tensor, old: set[int], filled: bool = True) -> Tensor:
        """A fresh tensor, moved; a view of what there was, as it is."""
        if not _is_plain(tensor) or tensor.requires_grad or tensor.numel() == 0:
            return tensor
        if tensor.untyped_storage().data_ptr() in old | {room.address for room in self.rooms}:
            return tensor
        if filled:
            return self.tensor(tensor)
        extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        return self._room(extent, tensor.dtype).as_strided(tensor.shape, tensor.stride())


@contextmanager
def fenced(fence: Fence, *, arrays: bool = False) -> Iterator[Fenced]:
    """Inside, memory has fences; at the end the poison is looked at.

    Args:
        fence: where, and which poison.
        arrays: NumPy's too. Functions that numba is still to compile cannot be called then: it would not know what it
            finds in NumPy's place.

    Raises:
        AssertionError: something was written beside an array.
    """
    mode = Fenced(fence)
    with ExitStack() as stack:
        # `torch.autograd.grad` would be a function like others, in which the mode is off: derivatives were unfenced.
        stack.enter_context(patch.object(torch.autograd, "has_torch_function", lambda _: False))
        for name, make in _made(mode).items() if arrays else ():
            stack.enter_context(patch.object(np, name, make))
        stack.enter_context(mode)
        yield mode
    dirty = sum(not room.is_clean() for room in mode.rooms)
    assert not dirty, f"{dirty} of {len(mode.rooms)} arrays have been written beside"


def _made(mode: Fenced) -> dict[str, Callable[..., Any]]:
    """What stands in for the functions of NumPy that make arrays for Python code."""

    def empty(shape: Any, dtype: Any = float) -> Any:
        return mode.array(shape, dtype)

    def zeros(shape: Any, dtype: Any = float) -> Any:
        made = mode.array(shape, dtype)
        made[...] = 0
        return made

    def empty_like(array: Any) -> Any:
        return mode.array(array.shape, array.dtype)

    def zeros_like(array: Any) -> Any:
        return zeros(array.shape, array.dtype)

    return dict(empty=empty, zeros=zeros, empty_like=empty_like, zeros_like=zeros_like)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) is Tensor and tensor.device.type == "cpu" and tensor.layout == torch.strided


def _same(a: Any, b: Any) -> bool:
    return a is b

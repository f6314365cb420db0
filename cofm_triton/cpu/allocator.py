"""Memory for large results, which is kept when they are freed and used again.

The operating system maps the memory of a fresh large tensor page by page, at the first write. That costs several times
as much as the scan that writes it. PyTorch caches freed memory on GPUs for this reason, but not on the CPU. A block is
private anonymous memory, in huge pages where the system has them. It comes back when the last tensor in it is gone. At
most `KEPT_BYTES` lie idle.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from contextlib import suppress
from math import prod

import numpy as np
import torch
from torch import Tensor

# Smaller tensors come from the C library, which reuses its memory.
MIN_BYTES = 2**20
KEPT_BYTES = 2**29
HUGE_PAGE = 2**21

_idle: list[mmap.mmap] = []
_lock = threading.Lock()


def _forget_lock() -> None:
    """After a fork: the thread that held the lock does not exist in the child, so nobody would release it."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock)


def empty(shape: tuple[int, ...] | torch.Size, dtype: torch.dtype) -> Tensor:
    """An uninitialised contiguous CPU tensor, like `torch.empty`; a large one cannot be resized.

    Example:
        >>> empty((2, 3), torch.float32).shape
        torch.Size([2, 3])
    """
    count = prod(shape)
    size = count * dtype.itemsize
    if size < MIN_BYTES or not hasattr(mmap, "MAP_ANONYMOUS"):
        return torch.empty(shape, dtype=dtype, device="cpu")
    block = _take(size)
    lease = np.frombuffer(block, np.uint8, size)
    weakref.finalize(lease, _give_back, block).atexit = False
    return torch.frombuffer(lease, dtype=dtype).view(shape)


def empty_like(tensor: Tensor) -> Tensor:
    """The same in the shape and the dtype of a CPU tensor.

    Example:
        >>> empty_like(torch.zeros(3, 2).T).is_contiguous()
        True
    """
    if tensor.nbytes < MIN_BYTES and tensor.is_contiguous():
        return torch.empty_like(tensor)  # a third of the time of `torch.empty`
    return empty(tensor.shape, tensor.dtype)


def _take(size: int) -> mmap.mmap:
    """An idle block of at least `size` bytes and at most twice that, or a new one."""
    with _lock:
        fitting = [block for block in _idle if size <= len(block) <= 2 * max(size, HUGE_PAGE)]
        if fitting:
            best = min(fitting, key=len)
            _idle.remove(best)
            return best
    block = mmap.mmap(-1, -(-size // HUGE_PAGE) * HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without huge pages: ordinary ones do
            block.madvise(mmap.MADV_HUGEPAGE)
    return block


def _give_back(block: mmap.mmap) -> None:
    """Keep a freed block, and let the oldest ones go when too much lies idle.

    It runs whenever the garbage collector does, even inside `_take` of the same thread, so it never waits for the lock.
    If it cannot have the lock, the next call frees what is too much.
    """
    _idle.append(block)
    if _lock.acquire(blocking=False):
        try:
            while sum(map(len, _idle)) > KEPT_BYTES:
                _idle.pop(0)
        finally:
            _lock.release()

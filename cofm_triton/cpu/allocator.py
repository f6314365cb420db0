"""Memory for large results: kept when they are freed, and handed out again.

A fresh large tensor is memory that the operating system maps page by page while it is first written: several times
the cost of the scan that writes it. PyTorch caches freed memory on GPUs for the same reason, but not on the CPU. Blocks
are private anonymous memory in huge pages where the system offers them; a block returns when the last tensor that uses
it is gone, and at most `KEPT_BYTES` lie idle.
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
    """In a child: the thread that held the lock at the fork is not there to release it."""
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

    Runs wherever the garbage collector does, inside `_take` of the same thread too: it never waits for the lock. What
    it then leaves too much is let go by the next one.
    """
    _idle.append(block)
    if _lock.acquire(blocking=False):
        try:
            while sum(map(len, _idle)) > KEPT_BYTES:
                _idle.pop(0)
        finally:
            _lock.release()

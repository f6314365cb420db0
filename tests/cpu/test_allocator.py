"""Memory of large results: reused when free, never while in use."""

from __future__ import annotations

import gc
import mmap
import os
import signal
import threading
from collections.abc import Iterator

import pytest
import torch

from cofm_triton.cpu import allocator
from cofm_triton.cpu.allocator import KEPT_BYTES, MIN_BYTES, empty


@pytest.fixture(autouse=True)
def nothing_idle() -> None:
    """No blocks left by other tests."""
    gc.collect()
    allocator._idle.clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex128])
@pytest.mark.parametrize("count", [0, 1, MIN_BYTES // 2, MIN_BYTES + 1])
def test_like_torch_empty(count: int, dtype: torch.dtype) -> None:
    tensor = empty((1, count, 3), dtype)
    assert tensor.shape == (1, count, 3) and tensor.dtype == dtype and tensor.is_contiguous()
    tensor.fill_(2)
    assert (tensor == 2).all()


@pytest.mark.skipif(not hasattr(mmap, "MAP_ANONYMOUS"), reason="memory comes from the C library here")
def test_freed_memory_is_handed_out_again() -> None:
    tensor = empty((MIN_BYTES,), torch.float32)
    address = tensor.data_ptr()
    view = tensor[10:20]
    del tensor
    gc.collect()
    other = empty((MIN_BYTES,), torch.float32)
    assert other.data_ptr() != address  # the view still uses it
    del view
    gc.collect()
    assert empty((MIN_BYTES - 100,), torch.float32).data_ptr() == address


def test_tensors_in_use_never_share() -> None:
    tensors = [empty((MIN_BYTES // 4 + i,), torch.float32).fill_(i) for i in range(8)]
    assert all((tensor == i).all() for i, tensor in enumerate(tensors))


def test_memory_is_freed_while_memory_is_taken() -> None:
    """The garbage collector runs anywhere, and may free a cycle that holds a tensor inside `_take`."""

    class Greedy(list[mmap.mmap]):
        def __iter__(self) -> Iterator[mmap.mmap]:
            allocator._give_back(mmap.mmap(-1, allocator.HUGE_PAGE))
            return super().__iter__()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(allocator, "_idle", Greedy())
        done: list[torch.Tensor] = []
        thread = threading.Thread(target=lambda: done.append(empty((MIN_BYTES,), torch.float32)), daemon=True)
        thread.start()
        thread.join(20)
    assert len(done) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_takes_memory_that_a_thread_of_its_parent_was_taking() -> None:
    with allocator._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            empty((MIN_BYTES,), torch.float32)
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_idle_memory_is_bounded() -> None:
    for _ in range(3):
        held = [empty((KEPT_BYTES // 4,), torch.uint8) for _ in range(6)]
        del held
        gc.collect()
        assert sum(map(len, allocator._idle)) <= KEPT_BYTES


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_writes_memory_of_its_own() -> None:
    tensor = empty((MIN_BYTES,), torch.float32).fill_(1)
    child = os.fork()
    if child == 0:
        tensor[:4] = 2  # few enough for one thread: OpenMP's do not survive a fork
        os._exit(0)
    os.waitpid(child, 0)
    assert (tensor == 1).all()

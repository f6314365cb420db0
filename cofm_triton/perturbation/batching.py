"""How many copies of a module fit a memory limit: measured on a small call, not guessed from its parameters.

A call of K copies on n sequences is taken to hold  K (fixed + n share)  bytes at its peak: everything that `torch.func`
makes of a copy has a copy's axis. Both numbers come from two calls of one copy on a few sequences, in which the
storages that are alive together are added up. Scratch memory inside an operator is not seen.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cofm_triton.support.scalars import as_int, described

DEFAULT_LIMIT = 2**30
"""Bytes: a quarter of the 4 GiB of a small machine. It is no share of what happens to be free, because the last bits of
a sum depend on its parts."""

_PROBED = 4  # sequences of the larger of the two measured calls


def check_memory_limit(limit: int | None) -> int:
    """The limit in bytes, the default for None.

    Raises:
        TypeError: not an integer.
        ValueError: not positive.
    """
    if limit is None:
        return DEFAULT_LIMIT
    size = as_int(limit)
    if size is None:
        raise TypeError(f"memory_limit must be a number of bytes (int) or None, got {described(limit)}")
    if size < 1:
        raise ValueError(f"memory_limit must be at least 1 byte, got {size}")
    return size


class PeakBytes(TorchDispatchMode):
    """Counts, while it is entered, the bytes of new tensors that are alive at the same time.

    Example:
        >>> with PeakBytes() as peak:
        ...     x = torch.zeros(10, dtype=torch.float64) + 1
        >>> peak.bytes
        160
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self._alive = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator and add what it made; storages that die take themselves off."""
        result = func(*args, **(kwargs or {}))
        given = _storages((args, kwargs))
        for key, storage in _storages(result).items():
            if key not in given:
                self._alive += storage.nbytes()
                weakref.finalize(storage, self._forget, storage.nbytes()).atexit = False
        self.bytes = max(self.bytes, self._alive)
        return result

    def _forget(self, size: int) -> None:
        self._alive -= size


def _storages(tree: Any) -> dict[int, torch.UntypedStorage]:
    """By identity."""
    storages = (leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
    return {storage._cdata: storage for storage in storages}


def fitting(call: Callable[[int], object], limit: int, sequences: int, *, divisible: bool = True) -> tuple[int, int]:
    """How many copies, on how many sequences each, stay below a limit: (copies, sequences).

    Sequences are split only if one copy on all of them is too much.

    Args:
        call: runs one copy on that many sequences, with everything that comes with it.
        limit: bytes.
        sequences: the most at a time.
        divisible: whether they may be split.

    Raises:
        ValueError: one copy on one sequence is too much, or on all if they may not be split.
    """
    few, more = _peak(call, 1), _peak(call, min(_PROBED, sequences))
    share = max(0, more - few) / max(1, min(_PROBED, sequences) - 1)
    fixed = few - share
    whole = fixed + share * sequences
    if whole <= limit:
        return int(limit / max(1.0, whole)), sequences
    fits = int((limit - fixed) / share) if share and divisible else 0
    if fits < 1:
        least, together = (few, 1) if divisible else (math.ceil(whole), sequences)
        raise ValueError(
            f"memory_limit must be at least {least} bytes, for one copy of the model and {together} sequences at a "
            f"time, got {limit}"
        )
    return 1, min(fits, sequences)


def _peak(call: Callable[[int], object], sequences: int) -> int:
    with PeakBytes() as peak:
        call(sequences)
    return peak.bytes

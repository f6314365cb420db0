"""Small calls, which one thread does: what does not depend on addresses is made once, see `ops/small_calls.py`."""

from __future__ import annotations

from operator import add
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cofm_triton.cpu.jit.chains import CHAINS, MIN_STEPS
from cofm_triton.cpu.jit.rows import MAX_HELD, SAMPLES, Rows, row_lanes
from cofm_triton.cpu.jit.schedule import plan
from cofm_triton.cpu.sizes import MIN_NUMBERS

# In float16 and bfloat16, results would have to be rounded after the call.
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


class Alone(NamedTuple):
    """Calls of sequences that are all of one length, in contiguous tensors, with the state in registers.

    Attributes:
        lanes: of the rows.
        offsets: (B, tensors), bytes from the beginning of each tensor to the row where a sequence begins.
        begin: the only row of these; None: there are several.
        inner: (B,) of the steps of each sequence, those after which it has another one.
        rest: what follows the places in `Plan.walk`.
        nothing: (B, D), states that are zero, to be read.
    """

    lanes: tuple[int, ...]
    offsets: Any
    begin: list[int] | None
    inner: Any
    rest: tuple[Any, ...]
    nothing: Any

    def places(self, *tensors: Tensor) -> Any:
        """(B, tensors), addresses of the rows where sequences begin."""
        whole = [tensor.data_ptr() for tensor in tensors]
        if self.begin is None:
            return self.offsets + np.array(whole)
        return np.array((list(map(add, self.begin, whole)),))

    def states(self, given: Tensor | None) -> Any:
        """(B, D), those that are given or zeros, to be changed."""
        return (self.nothing if given is None else given.detach().numpy()).copy()

    def total(self, sums: Any) -> Any:
        """(D,) of (B, D), added up in the order of sequences."""
        return sums[0] if len(sums) == 1 else sums.sum(0)


def alone(reverse: bool, states: tuple[Tensor | None, ...], *tensors: Tensor) -> Alone | None:
    """For tensors (B, T, D), the first among them, or (D,), and states (B, D); None where the call is no small one."""
    first = tensors[0]
    given = [*tensors, *(state for state in states if state is not None)]
    alike = all(tensor.dtype == first.dtype and tensor.is_contiguous() for tensor in given)
    plain = not any(tensor.is_conj() or tensor.is_neg() for tensor in given)
    if first.dtype not in DTYPES or not alike or not plain or first.numel() >= MIN_NUMBERS:
        return None
    batch, length, channels = first.shape
    fits = all(tensor.shape in (first.shape, first.shape[2:]) for tensor in tensors)
    if not fits or channels > MAX_HELD or length >= CHAINS * MIN_STEPS:  # chains may be faster
        return None
    parts = plan(batch, length, None, channels, None, 1)
    rows = [Rows(torch.empty_like(tensor, device="meta")) for tensor in tensors]  # at address 0
    offsets, *rest = parts.walk(rows, reverse)
    begin = offsets[0].tolist() if batch == 1 else None
    nothing = np.zeros((batch, channels), SAMPLES[first.dtype].dtype)
    return Alone(row_lanes(channels), offsets, begin, parts.inner, tuple(rest), nothing)

"""Small calls, which one thread does: what does not depend on addresses is kept by shapes and dtypes.

A scan of ten thousand numbers takes a microsecond or two, and what Python does around it ten times as long.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cofm_triton.cpu.jit.chains import CHAINS, MIN_STEPS
from cofm_triton.cpu.jit.rows import MAX_HELD, SAMPLES, Rows, row_lanes
from cofm_triton.cpu.jit.schedule import KEPT_PLANS, MIN_NUMBERS, Plan, plan

_Layouts = tuple[tuple[torch.Size, torch.dtype], ...]


class Alone(NamedTuple):
    """A call of sequences that are all of one length, in contiguous tensors, with the state in registers.

    Attributes:
        parts: the sequences in order.
        lanes: of the rows.
        offsets: (B, tensors), bytes from the beginning of each tensor to the row where a sequence begins.
        rest: what follows the places in `Plan.walk`.
    """

    parts: Plan
    lanes: tuple[int, ...]
    offsets: Any
    rest: tuple[Any, ...]

    def walk(self, *tensors: Tensor) -> tuple[Any, ...]:
        """`Plan.walk` of tensors with the shapes and dtypes of those that it is kept for."""
        return self.offsets + np.array([tensor.data_ptr() for tensor in tensors]), *self.rest


def alone(reverse: bool, *tensors: Tensor) -> Alone | None:
    """What is kept for tensors (B, T, D), the first among them, or (D,); None where the call is no small one."""
    if tensors[0].numel() >= MIN_NUMBERS:
        return None
    for tensor in tensors:
        if not tensor.is_contiguous() or tensor.is_conj() or tensor.is_neg():
            return None
    return _kept(reverse, tuple([(tensor.shape, tensor.dtype) for tensor in tensors]))


@lru_cache(KEPT_PLANS)
def _kept(reverse: bool, layouts: _Layouts) -> Alone | None:
    (batch, length, channels), _ = layouts[0]
    is_known = all(dtype in SAMPLES and shape in (layouts[0][0], (channels,)) for shape, dtype in layouts)
    if not is_known or channels > MAX_HELD or length >= CHAINS * MIN_STEPS:  # chains may be faster
        return None
    parts = plan(batch, length, None, channels, None, 1)
    rows = [Rows(torch.empty(shape, dtype=dtype, device="meta")) for shape, dtype in layouts]  # at address 0
    offsets, *rest = parts.walk(rows, reverse)
    return Alone(parts, row_lanes(channels), offsets, tuple(rest))

"""Calls of `cofm_triton.linear_scan`: one decay per channel or gates, real and complex, reverse, packed, in pairs of
real channels.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from cofm_triton.evidence.validation.case import Case
from cofm_triton.evidence.validation.draws import decays, normal
from cofm_triton.evidence.validation.problem import Operator
from cofm_triton.ops.dtypes import DTYPES, complex_state_dtype, state_dtype


def linear_case(
    batch: int, length: int, channels: int, *, dtype: torch.dtype = torch.float32, gated: bool = False,
    states: bool = True, reverse: bool = False, starts: list[int] | None = None, pairs: bool = False,
    shared: bool = False, seed: int = 0,
) -> Case:  # fmt: skip
    """A linear scan of random numbers; decay (D,) in the state's dtype, gates in x's, all channels of a step the same
    if `shared`. With `pairs`, complex decays and one real channel more if their number is odd.
    """
    state, seed = state_dtype(dtype), 10 * seed
    sequences, decay_dtype = batch if starts is None else len(starts), dtype if gated else state
    if pairs:
        channels, decay_dtype = channels + channels % 2, complex_state_dtype(dtype)
    width = 1 if shared else channels // 2 if pairs else channels
    return Case(
        x=normal(batch, length, channels, dtype=dtype, seed=seed),
        factor=decays(*((batch, length, width) if gated else (width,)), dtype=decay_dtype, seed=seed + 1),
        h0=normal(sequences, channels, dtype=state, seed=seed + 2) if states else None,
        grad_h=normal(batch, length, channels, dtype=dtype, seed=seed + 3),
        grad_last=normal(sequences, channels, dtype=state if states else dtype, seed=seed + 4),
        options=dict(reverse=reverse, seq_starts=None if starts is None else torch.tensor(starts)),
    )


def paired_case(*shape: int, dtype: torch.dtype = torch.float32, **options: Any) -> Case:
    """As `linear_case`, with a complex decay of pairs of channels; complex tensors are that already."""
    return linear_case(*shape, dtype=dtype, pairs=not dtype.is_complex, **options)


OPERATOR = Operator(
    name="linear_scan",
    draws={
        "time-invariant": linear_case,
        "gated": partial(linear_case, gated=True),
        "reverse": partial(linear_case, reverse=True),
        "gated+reverse": partial(linear_case, gated=True, reverse=True),
        "packed": linear_case,
        "gated+packed": partial(linear_case, gated=True),
        "packed+reverse": partial(linear_case, reverse=True),
        "shared": partial(linear_case, gated=True, shared=True),
        "pairs": paired_case,
        "pairs+reverse+packed": partial(paired_case, reverse=True),
        "pairs+gated": partial(paired_case, gated=True),
    },
    dtypes=DTYPES,
    splits=True,
)

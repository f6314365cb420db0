"""Calls of `cofm_triton.linear_scan`: one decay per channel or gates, real and complex, reverse, packed."""

from __future__ import annotations

from functools import partial

import torch

from cofm_triton.ops.dtypes import DTYPES, state_dtype
from cofm_triton.validation.case import Case
from cofm_triton.validation.draws import decays, normal
from cofm_triton.validation.problem import Operator


def linear_case(
    batch: int, length: int, channels: int, *, dtype: torch.dtype = torch.float32, gated: bool = False,
    states: bool = True, reverse: bool = False, starts: list[int] | None = None, seed: int = 0,
) -> Case:  # fmt: skip
    """A linear scan of random numbers; decay (D,) in the state's dtype, gates in x's."""
    state, seed = state_dtype(dtype), 10 * seed
    sequences = batch if starts is None else len(starts)
    gates = (batch, length, channels) if gated else (channels,)
    return Case(
        x=normal(batch, length, channels, dtype=dtype, seed=seed),
        factor=decays(*gates, dtype=dtype if gated else state, seed=seed + 1),
        h0=normal(sequences, channels, dtype=state, seed=seed + 2) if states else None,
        grad_h=normal(batch, length, channels, dtype=dtype, seed=seed + 3),
        grad_last=normal(sequences, channels, dtype=state if states else dtype, seed=seed + 4),
        options=dict(reverse=reverse, seq_starts=None if starts is None else torch.tensor(starts)),
    )


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
    },
    dtypes=DTYPES,
    splits=True,
)

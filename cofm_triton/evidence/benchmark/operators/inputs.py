"""Inputs of the recurrences: reproducible, and with memories from one step to the whole sequence."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cofm_triton.evidence.benchmark.contract import Case
from cofm_triton.ops.dtypes import state_dtype


def randn(case: Case, device: torch.device, seed: int) -> Tensor:
    """(B, T, D) standard normal numbers in the case's dtype."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(case.shape, dtype=case.dtype, device=device, generator=generator)


def rates(case: Case, device: torch.device) -> Tensor:
    """(D,) rates in the state's real dtype, spread evenly in their logarithm from 1 / T to 1 / 2."""
    _, length, channels = case.shape
    real = state_dtype(case.dtype).to_real()
    return torch.logspace(-math.log10(max(length, 2)), math.log10(0.5), channels, dtype=real, device=device)


def decays(case: Case, device: torch.device) -> Tensor:
    """(D,) decays `exp(-rate)` in the state's dtype; complex ones turn by one radian per step as well."""
    decay = torch.exp(-rates(case, device))
    return torch.polar(decay, torch.ones_like(decay)) if case.dtype.is_complex else decay

"""Small calls give the bits of the others, and only calls that are small are taken for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scan_cases import normal
from torch import Tensor

pytest.importorskip("numba")

from cofm_triton.cpu.jit import linear_scan, rnn_scan
from cofm_triton.cpu.jit.alone import alone
from cofm_triton.cpu.jit.chains import CHAINS, MIN_STEPS
from cofm_triton.cpu.sizes import MIN_NUMBERS


def _equal(small: Any, other: Any, h0: Tensor | None) -> None:
    """The gradient by a start that is not given is left out."""
    for k, (ours, theirs) in enumerate(zip(small, other, strict=True)):
        if k == 2 and h0 is None:
            assert ours is None
        else:
            assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_bits_of_linear_scans(batch: int, started: bool, reverse: bool, paired: bool, dtype: torch.dtype) -> None:
    x, g = (normal(batch, 9, 6, dtype=dtype, seed=seed) for seed in (0, 1))
    turns = paired and not dtype.is_complex
    decay = 0.7 * normal(3 if turns else 6, dtype=dtype.to_complex() if turns else dtype)
    h0, last = normal(2, batch, 6, dtype=dtype) if started else (None, None)
    options: dict[str, Any] = dict(reverse=reverse, state_dtype=dtype)
    forward = linear_scan.small_forward(x, decay, h0, reverse)
    assert forward is not None
    small, other = forward(x, decay, h0), linear_scan.forward(x, decay, h0, None, **options)
    _equal(small, other, h0)
    backward = linear_scan.small_backward(reverse, g, last, decay, other[0], h0)
    assert backward is not None
    given = (g, last, decay, other[0], h0)
    _equal(backward(*given), linear_scan.backward(*given, None, **options), h0)


@pytest.mark.parametrize("kinds", [("direct", "euler"), ("exp", "exact")])
@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_bits_of_rnn_scans(batch: int, started: bool, varies: bool, kinds: tuple[str, str]) -> None:
    x, g = (normal(batch, 9, 6, seed=seed) for seed in range(2))
    w = normal(batch, 9, 6, seed=2) if varies else normal(6)
    h0, last = normal(2, batch, 6) if started else (None, None)
    names: dict[str, Any] = dict(parameterization=kinds[0], discretization=kinds[1])
    options: dict[str, Any] = dict(dt=0.5, nonlinearity="tanh", state_dtype=x.dtype, **names)
    rule = (0.5, "tanh", *kinds)
    forward, other = rnn_scan.small_forward(rule, x, w, h0), rnn_scan.forward(x, w, h0, None, **options)
    assert forward is not None
    _equal(forward(x, w, h0), other, h0)
    given = (g, last, x, w, other[0], h0)
    backward = rnn_scan.small_backward(rule, *given)
    assert backward is not None
    _equal(backward(*given), rnn_scan.backward(*given, None, **options), h0)


def test_what_is_no_small_call() -> None:
    x, decay, state = torch.ones(2, 8, 4), torch.ones(4), torch.ones(2, 4)
    assert alone(False, (None, state), x, decay, x) is not None
    longest = torch.ones(1, CHAINS * MIN_STEPS - 1, 1)
    assert alone(False, (), longest, torch.ones(1), longest) is not None
    for other in (
        torch.ones(8, MIN_NUMBERS // 32, 4),
        torch.ones(1, CHAINS * MIN_STEPS, 1),
        torch.ones(1, 2, 65),
        torch.ones(2, 8, 4, dtype=torch.bfloat16),
        torch.ones(2, 8, 8)[..., ::2],
        torch._neg_view(x),
        torch.ones(2, 8, 4, dtype=torch.complex64).conj(),
    ):
        assert alone(False, (), other, torch.ones(other.shape[2], dtype=other.dtype), other) is None
    assert alone(False, (), x, torch.ones(2, 1, 4), x) is None
    assert alone(False, (), x, decay.double(), x) is None
    assert alone(False, (state.double(),), x, decay, x) is None

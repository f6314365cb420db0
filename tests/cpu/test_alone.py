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


def _apart(x: Tensor) -> Tensor:
    """The same numbers, with rows that are not next to each other."""
    return torch.stack((x, x), 2)[:, :, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_bits_of_linear_scans(dtype: torch.dtype, reverse: bool, started: bool, batch: int) -> None:
    state = torch.float32 if dtype == torch.bfloat16 else dtype
    x, g = (normal(batch, 9, 6, dtype=dtype, seed=seed) for seed in (0, 1))
    decay, (h0, last) = 0.7 * normal(6, dtype=state), normal(2, batch, 6, dtype=state) if started else (None, None)
    options: dict[str, Any] = dict(reverse=reverse, state_dtype=state)
    assert alone(reverse, x, decay, x) is not None and alone(reverse, _apart(x), decay, x) is None
    small = linear_scan.forward(x, decay, h0, None, **options)
    for ours, theirs in zip(small, linear_scan.forward(_apart(x), decay, h0, None, **options), strict=True):
        assert torch.equal(ours, theirs)
    small = linear_scan.backward(g, last, decay, small[0], h0, None, **options)  # type: ignore[assignment]
    other = linear_scan.backward(
        _apart(g), last, decay, linear_scan.forward(x, decay, h0, None, **options)[0], h0, None, **options
    )
    for ours, theirs in zip(small, other, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("parameterization", ["direct", "exp"])
def test_bits_of_adjoints_of_rnn_scans(parameterization: str) -> None:
    x, g, h = (normal(3, 9, 6, seed=seed) for seed in range(3))
    (h0, last), w = normal(2, 3, 6), normal(6)
    options: dict[str, Any] = dict(
        dt=0.5, nonlinearity="tanh", parameterization=parameterization, discretization="euler", state_dtype=x.dtype
    )
    small = rnn_scan.backward(g, last, x, w, h, h0, None, **options)
    for ours, theirs in zip(small, rnn_scan.backward(_apart(g), last, x, w, h, h0, None, **options), strict=True):
        assert torch.equal(ours, theirs)


def test_what_is_no_small_call() -> None:
    x, decay = torch.ones(2, 8, 4), torch.ones(4)
    assert alone(False, x, decay, x) is alone(False, x.clone(), decay, x)
    for other in (
        torch.ones(2, MIN_NUMBERS // 8, 4),
        torch.ones(1, CHAINS * MIN_STEPS, 1),
        torch.ones(1, 2, 65),
        torch.ones(2, 8, 4, dtype=torch.float16),
        torch._neg_view(x),
        torch.ones(2, 8, 4, dtype=torch.complex64).conj(),
    ):
        assert alone(False, other, torch.ones(other.shape[2]), other) is None
    assert alone(False, x, torch.ones(2, 1, 4), x) is None
    minus, _ = linear_scan.forward(torch._neg_view(x), decay, None, None, reverse=False, state_dtype=x.dtype)
    assert torch.equal(minus, -linear_scan.forward(x, decay, None, None, reverse=False, state_dtype=x.dtype)[0])

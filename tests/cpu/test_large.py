"""More than 2^31 numbers in a tensor, for real: what an index of 32 bits would lose."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("numba")

import cofm_triton as cofm

# States and their gradient in bfloat16, and as much again for whoever else runs; what goes in is one row, expanded.
NEEDED = 3 * 2 * 2**31


def available() -> int:
    """Bytes that can be had without swapping, 0 where the system does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0


@pytest.mark.slow
@pytest.mark.skipif(available() < NEEDED, reason=f"needs {NEEDED / 2**30:.0f} GiB of free memory")
@pytest.mark.parametrize(("operator", "channels"), [("linear_scan", 2048), ("rnn_scan", 32)])
def test_beyond_two_to_the_31(operator: str, channels: int) -> None:
    """Rows in blocks, and rows in registers."""
    x = torch.ones(1, 1, channels, dtype=torch.bfloat16).expand(1, 2**31 // channels + 3, channels)
    h0 = torch.zeros(1, channels, requires_grad=True)
    half = torch.full((channels,), 0.5)
    if operator == "linear_scan":
        h, last = cofm.linear_scan(x, half, h0, backend="numba")
    else:  # h + (x - h / 2): the same recurrence
        h, last = cofm.rnn_scan(x, half, h0, nonlinearity="linear", solver="sequential", backend="numba")
    assert h.numel() > 2**31
    torch.testing.assert_close(last, torch.full_like(last, 2.0))
    assert bool((h.detach()[0, 100::61] == 2).all())  # of every block, those past 2^31 included
    assert bool((h.detach()[0, -1000:] == 2).all())
    pulls = torch.ones(1, 1, channels, dtype=torch.bfloat16).expand(h.shape), torch.ones_like(last)
    (grad,) = torch.autograd.grad((h, last), h0, pulls)
    torch.testing.assert_close(grad, torch.ones_like(grad))  # the sum of 0.5^k, k = 1, 2, ...

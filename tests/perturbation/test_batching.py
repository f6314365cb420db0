"""The memory limit: what is counted, what fits, and that a process really stays below."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from cofm_triton.perturbation.batching import DEFAULT_LIMIT, PeakBytes, check_memory_limit, fitting

MEGABYTE = 1 << 20
_SWEEP = r"""
import re, sys, torch
from torch import nn
import cofm_triton as cofm

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    def forward(self, x):
        return self.layers(x)

x, y = cofm.targets.generate("exp", 256, 100, dtype=torch.float32)
model = Network()
def peak(directions, limit):
    cofm.perturbation_error(model, x, y, radii=[0.1], directions=directions, memory_limit=limit)
    return int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read()).group(1)) * 1024
before = peak(1, 1 << 22)  # libraries, and one copy of the model on a few sequences
print(peak(40, int(sys.argv[1])) - before)
"""


def test_peak_is_what_is_alive_together() -> None:
    with PeakBytes() as peak:
        a = torch.zeros(1000)
        b = a + 1
        del a
        c = b.view(10, 100)  # a view holds no bytes of its own
        c.add_(1)
        b = torch.cat((b[:100], b[:100]))
        del c
        torch.zeros(100)
    assert peak.bytes == 4 * 2000
    assert b.numel() == 200


def test_peak_sees_what_autograd_keeps_and_vmap_makes() -> None:
    x = torch.randn(1000, requires_grad=True)
    with PeakBytes() as kept:
        y = x.exp()
        for _ in range(3):
            y = y.exp()
    assert kept.bytes == 4 * 4000
    with PeakBytes() as copies:
        torch.func.vmap(lambda scale: scale * torch.ones(1000))(torch.ones(8))
    assert copies.bytes >= 4 * 8000


def held(fixed: int, share: int) -> Callable[[int], object]:
    return lambda sequences: torch.empty(fixed + share * sequences, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(1_000_000, (8, 20)), (120_000, (1, 20)), (119_999, (1, 19)), (25_000, (1, 1)), (10**7, (83, 20))],
)
def test_fitting(limit: int, expected: tuple[int, int]) -> None:
    copies, sequences = fitting(held(20_000, 5_000), limit, 20)
    assert (copies, sequences) == expected
    assert copies * (20_000 + 5_000 * sequences) <= limit


def test_fitting_when_sequences_cost_nothing_or_are_one() -> None:
    assert fitting(held(1000, 0), 5000, 64) == (5, 64)
    assert fitting(held(1000, 10), 3030, 1) == (3, 1)


def test_a_limit_that_nothing_fits_says_what_would() -> None:
    with pytest.raises(ValueError, match=r"memory_limit must be at least 1010 bytes.*got 1009"):
        fitting(held(1000, 10), 1009, 64)
    assert fitting(held(1000, 10), 1010, 64) == (1, 1)
    with pytest.raises(ValueError, match=r"memory_limit must be at least 1640 bytes.*64 sequences.*got 1639"):
        fitting(held(1000, 10), 1639, 64, divisible=False)
    assert fitting(held(1000, 10), 1640, 64, divisible=False) == (1, 64)


def test_values() -> None:
    assert check_memory_limit(None) == DEFAULT_LIMIT and check_memory_limit(5) == 5
    with pytest.raises(ValueError, match="memory_limit must be at least 1 byte, got 0"):
        check_memory_limit(0)
    with pytest.raises(TypeError, match="memory_limit must be a number of bytes"):
        check_memory_limit(1.5)  # type: ignore[arg-type]


def resident_growth(limit: int) -> int:
    """Bytes by which the largest resident set of a process grows over that of a small sweep.

    Freed blocks go back to the system at once: glibc would keep those below a threshold that moves. The high-water mark
    is that of the process's own memory: `ru_maxrss` of a child begins with the size of the parent that started it.
    """
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 16)}
    command = [sys.executable, "-c", _SWEEP, str(limit)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc/self/status, whose high-water mark is read")
def test_resident_memory_stays_below_the_limit() -> None:
    """All forty copies together hold 500 MB and more; with a limit of 64 MB, no more than that and an eighth, which is
    left for the allocator and for scratch memory of operators."""
    assert resident_growth(1 << 30) > 256 * MEGABYTE
    assert resident_growth(64 * MEGABYTE) < 72 * MEGABYTE

"""Results that go past the cache: the same numbers as results that do not."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("numba")

from scan_cases import linear_problem, rnn_problem

from cofm_triton.cpu.jit import streams
from cofm_triton.cpu.jit.rows import Rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("channels", [64, 200])
@pytest.mark.parametrize("kind", ["linear", "gated", "reverse", "packed", "rnn"])
def test_streamed_results_are_the_same(
    kind: str, channels: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "rnn" and dtype.is_complex:
        pytest.skip("rnn_scan is real")
    if kind == "rnn":
        problem = rnn_problem(2, 9, channels, dtype=dtype)
    else:
        starts = [0, 3, 3, 10] if kind == "packed" else None
        batch = 1 if starts else 2
        problem = linear_problem(
            batch, 17, channels, dtype=dtype, gated=kind == "gated", reverse=kind == "reverse", starts=starts
        )
    ordinary = problem.run("numba")
    monkeypatch.setattr(streams, "MIN_BYTES", 0)
    problem.check("numba")
    for name, result in problem.run("numba").items():
        assert torch.equal(result, ordinary[name]), name


def test_only_large_aligned_results_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    large = torch.empty(1, streams.MIN_BYTES // 256, 64)
    assert streams.streams(Rows(large))
    assert not streams.streams(Rows(large[:, 1:]))
    monkeypatch.setattr(streams, "MIN_BYTES", 0)
    assert not streams.streams(Rows(torch.empty(2, 3, 65)))
    assert not streams.streams(Rows(torch.empty(1 + 3 * 64)[1:].view(1, 3, 64)))

"""The adjoint of the nonlinear recurrence in chunks: within its bounds, and the same in every run."""

from __future__ import annotations

import pytest
import torch
from scan_cases import device_of, paired_problem, rnn_problem

from cofm_triton.functional import rnn_scan
from cofm_triton.ops import paired_rnn_scan as paired_ops
from cofm_triton.ops import rnn_scan as ops
from cofm_triton.ops.backends import INSTALLED, interpreting

if not INSTALLED["triton"] or not (torch.cuda.is_available() or interpreting()):
    pytest.skip("triton cannot run here", allow_module_level=True)

from cofm_triton.kernels import launch


@pytest.fixture(autouse=True)
def an_idle_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is cut, into chunks of one block of rows or two."""
    for module in (ops, paired_ops):
        monkeypatch.setattr(module, "num_sms", lambda device: 132)
    monkeypatch.setattr(launch, "MIN_CHAINED", 20)
    monkeypatch.setattr(launch, "MIN_CHUNK", 5)


# More chunks than summaries that are read at a time, and a last one with a row.
@pytest.mark.parametrize(("nonlinearity", "dtype"), [("relu", torch.float32), ("tanh", torch.bfloat16)])
def test_chunks(nonlinearity: str, dtype: torch.dtype) -> None:
    rnn_problem(1, 7 * launch.CARRY_ROWS + 15, 3, nonlinearity=nonlinearity, dtype=dtype).check("triton")


@pytest.mark.parametrize("reset_to", ["h0", "zero"])
def test_chunks_of_varying_rates_and_resets(reset_to: str) -> None:
    rnn_problem(1, 47, 3, nonlinearity="tanh", gated=True, reset_to=reset_to).check("triton")


@pytest.mark.parametrize("reset_to", [None, "h0"])
def test_packed_pairs(reset_to: str | None) -> None:
    paired_problem(1, 45, 3, nonlinearity="tanh", starts=[0, 0, 21], reset_to=reset_to).check("triton")


def test_sums_are_the_same_in_every_run() -> None:
    problem = rnn_problem(2, 25, 3)
    first, second = problem.run("triton"), problem.run("triton")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_nothing_times_a_factor_that_overflowed_is_nothing() -> None:
    """States grow by 2^20 a step: over a chunk, factors of the adjoint are infinite, and what they multiply is 0."""
    device = device_of("triton")
    x = torch.zeros(1, 30, 1, device=device, requires_grad=True)
    h, _ = rnn_scan(x, torch.full((1,), 2.0**20 + 1, device=device), nonlinearity="linear", backend="triton")
    (gradient,) = torch.autograd.grad(h[0, 0, 0], x)
    assert gradient[0, 0, 0] == 1 and not gradient[0, 1:].any()

"""Pairs of channels that turn, on the CPU: narrow and wide rows, chains of guesses, 16 bits, odd strides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scan_cases import CPU_BACKENDS, paired_problem

from cofm_triton import reference
from cofm_triton.functional import rnn_scan
from cofm_triton.step.activations import NONLINEARITIES


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("pairs", [3, 35])  # a row in registers; blocks of 32 channels and what they leave
def test_within_bounds(pairs: int, nonlinearity: str, backend: str) -> None:
    paired_problem(2, 40, pairs, nonlinearity=nonlinearity).check(backend)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_and_strides(dtype: torch.dtype, backend: str) -> None:
    paired_problem(2, 33, 3, dtype=dtype, nonlinearity="tanh", parameterization="softplus").strided().check(backend)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("pairs", [3, 35])
def test_packed(pairs: int, backend: str) -> None:
    """Empty sequences, the first and the last one among them, touch no row."""
    paired_problem(1, 30, pairs, nonlinearity="tanh", starts=[0, 0, 7, 7, 20, 30]).check(backend)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("dt", [1e-3, 0.5, 1.9])
def test_step_sizes(dt: float, backend: str) -> None:
    for discretization in ("exact", "euler"):
        options: dict[str, Any] = dict(nonlinearity="hardtanh", dt=dt, discretization=discretization, states=False)
        paired_problem(2, 20, 3, **options).check(backend)


@pytest.mark.parametrize("nonlinearity", ["linear", "tanh", "hardtanh", "relu"])
def test_a_long_sequence_in_chains_is_the_sequential_one(nonlinearity: str, two_threads: None) -> None:
    """Parts that guess their first state, to the bit what one thread without guesses does."""
    pytest.importorskip("numba")
    x = torch.randn(1, 12_345, 6)
    rate, frequency = 0.3 + torch.rand(3), torch.randn(3)

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        return rnn_scan(
            x, rate, frequency=frequency, nonlinearity=nonlinearity, discretization="exact", backend="numba"
        )

    chained = run()
    torch.set_num_threads(1)
    from cofm_triton.cpu.jit import forward

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "worth_a_guess", lambda *arguments: False)
        whole = run()
    assert torch.equal(chained[0], whole[0]) and torch.equal(chained[1], whole[1])


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_pairs_at_rest_keep_turning(backend: str) -> None:
    """Without decay and act, a turn of a twelfth of a circle comes back after twelve steps."""
    frequency = torch.full((40,), torch.pi / 6, dtype=torch.float64)
    h0 = torch.randn(2, 80, dtype=torch.float64)
    x = torch.zeros(2, 12, 80, dtype=torch.float64)
    h, last = rnn_scan(
        x, torch.zeros_like(frequency), h0, frequency=frequency, nonlinearity="linear", discretization="exact",
        backend=backend,
    )  # fmt: skip
    torch.testing.assert_close(last, h0)
    torch.testing.assert_close(h[:, 5], -h0)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_overflow_is_not_hidden(backend: str) -> None:
    """Euler's step beyond its bound grows; infinities and NaN come out as they do of the definition."""
    x, rate, frequency = torch.ones(1, 400, 4), torch.full((2,), 0.1), torch.full((2,), 2.0)
    h, _ = rnn_scan(x, rate, frequency=frequency, nonlinearity="linear", backend=backend)
    expected, _ = reference.rnn_scan(x, rate, nonlinearity="linear", frequency=frequency)
    assert not h[:, -1].isfinite().any()
    assert torch.equal(h.isnan(), expected.isnan())

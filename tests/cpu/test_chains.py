"""Sequences in chains: the bits of the sequential recurrence, whether guesses are right or not."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from watching import watch

pytest.importorskip("numba")

import cofm_triton as cofm
from cofm_triton.cpu.guess import MIN_PART
from cofm_triton.cpu.jit import forward, rnn_scan
from cofm_triton.cpu.jit.chains import CHAINS, MAX_SEQUENCES, MIN_STEPS, chained, piece_plan, worth_a_guess


def check_same(run: Callable[[], tuple[Tensor, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    """`run()` gives the same bits in chains, which it must use, and without them."""
    used = watch(forward, "chain_plan", monkeypatch)
    together = run()
    assert used and all(used)
    monkeypatch.setattr(forward, "chain_plan", lambda *arguments: None)
    for one, other in zip(together, run(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        *[(torch.float32, shape) for shape in [(1, 14_001, 8), (3, 8192, 1), (2, 8300, 5), (1, 15_007, 32)]],
        (torch.bfloat16, (2, 8300, 5)), (torch.float64, (1, 14_001, 8)), (torch.complex64, (1, 15_007, 32)),
    ], ids=str,
)  # fmt: skip
@pytest.mark.parametrize("reverse", [False, True])
def test_linear(
    shape: tuple[int, int, int], dtype: torch.dtype, reverse: bool, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, h0 = torch.randn(shape).to(dtype), torch.randn(shape[0], shape[2]).to(dtype)
    decay = (torch.rand(shape[2]) - 0.5).to(torch.float32 if dtype == torch.bfloat16 else dtype)
    check_same(lambda: cofm.linear_scan(x, decay, h0, reverse=reverse, backend="numba"), monkeypatch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_long_memories_are_guessed_right(
    dtype: torch.dtype, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, decay = torch.randn(2, 110_000, 3).to(dtype), torch.tensor([0.999, -0.999, 0.998])
    monkeypatch.setattr(forward, "_settle", lambda *arguments: None)  # nothing would be done again
    check_same(lambda: cofm.linear_scan(x, decay, backend="numba"), monkeypatch)


@pytest.mark.parametrize("nonlinearity", ["linear", "tanh", "hardtanh"])
@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_nonlinear(nonlinearity: str, scale: float, two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    x, rate = scale * torch.randn(2, 12_345, 7), 0.3 + torch.rand(7)
    check_same(
        lambda: cofm.rnn_scan(x, rate, nonlinearity=nonlinearity, solver="sequential", backend="numba"), monkeypatch
    )


def test_packed_sequences(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    x, decay = torch.randn(1, 30_000, 4), torch.tensor([0.5, -0.5, 0.0, 0.25])
    starts, h0 = torch.tensor([0, 9_000, 18_001]), torch.randn(3, 4)
    check_same(lambda: cofm.linear_scan(x, decay, h0, seq_starts=starts, backend="numba"), monkeypatch)


@pytest.mark.parametrize("kind", ["never", "late", "nan", "inf"])
def test_wrong_guesses(kind: str, two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A saturated state counts its steps and forgets nothing; NaN and infinity reach every later state."""
    x, rate = torch.randn(1, 16_384, 3), torch.full((3,), 0.5)
    h0 = torch.randn(1, 3)
    if kind == "never":
        x, rate = torch.full_like(x, 1e6), torch.full((3,), 0.4)
    if kind == "late":
        x[:, :12_000] = 1e4
    if kind in ("nan", "inf"):
        x[0, 5_000, 1] = float(kind)

    def run() -> tuple[Tensor, ...]:
        h, last = cofm.rnn_scan(x, rate, h0, nonlinearity="hardtanh", solver="sequential", backend="numba")
        return h.view(torch.int32), last.view(torch.int32)

    check_same(run, monkeypatch)


@pytest.mark.parametrize("kind", ["usual", "never", "late", "between", "kept", "nan"])
@pytest.mark.parametrize(
    ("nonlinearity", "dtype"),
    [("linear", torch.float32), ("tanh", torch.float32), ("tanh", torch.float64), ("hardtanh", torch.bfloat16)],
)
@pytest.mark.parametrize("starts", [None, [0, 5_000]], ids=str)
def test_adjoint(
    starts: list[int] | None, nonlinearity: str, dtype: torch.dtype, kind: str, two_threads: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The same bits, but for the sum over time of the rates' gradient; parts that guessed wrong are done again."""
    state = torch.float64 if dtype == torch.float64 else torch.float32
    length = 12_345 if starts is None else 5_000  # the second of two packed sequences has no step
    x, grad_h = torch.randn(1, length, 7).to(dtype), torch.randn(1, length, 7).to(dtype)
    rate, h0 = 0.3 + torch.rand(7, dtype=state), torch.randn(1 if starts is None else 2, 7, dtype=state)
    grad_last = torch.randn_like(h0)
    if kind == "never":
        x = torch.full_like(x, 1e4)
    if kind in ("late", "kept"):
        x[:, : length // 2 + 300] = 1e4
    if kind == "between":  # a wrong guess for a part that has a share of the rates' gradient
        x[:, length // 2 : length // 2 + 300] = 1e4
    if kind == "kept":  # the second part ends with what it guessed, zero, which is wrong
        grad_h[:, : length // 2 + 300] = 0
    if kind == "nan":
        grad_h[0, length // 3, 1] = torch.nan
    h, _ = cofm.rnn_scan(
        x, rate, h0, nonlinearity=nonlinearity, seq_starts=None if starts is None else torch.tensor(starts)
    )

    def run() -> tuple[Tensor, ...]:
        return rnn_scan.backward(
            grad_h, grad_last, x, rate, h, h0, None if starts is None else torch.tensor(starts),
            dt=1.0, nonlinearity=nonlinearity, parameterization="direct", discretization="euler", state_dtype=state,
        )  # fmt: skip

    used = watch(rnn_scan, "chain_plan", monkeypatch)
    grad_x, grad_rate, grad_h0 = run()
    assert used == ([True] if starts is None else [])
    monkeypatch.setattr(rnn_scan, "chain_plan", lambda *arguments: None)
    whole_x, whole_rate, whole_h0 = run()
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    for one, other in ((grad_x, whole_x), (grad_h0, whole_h0)):
        bits = integer[one.element_size()]
        assert torch.equal(one.view(bits), other.view(bits))
    # Two sums of the same terms: each is rounded after every one of them.
    terms = (grad_x.double() * torch.cat((h0[:1, None].to(dtype), h[:, :-1]), 1).double()).abs().sum((0, 1))
    error = (grad_rate.double() - whole_rate.double()).abs()
    assert bool(((error <= 2 * length * torch.finfo(state).eps * terms) | whole_rate.isnan()).all())
    assert torch.equal(grad_rate.isnan(), whole_rate.isnan())


def test_when_sequences_are_cut() -> None:
    def groups(lengths: list[int], guessed: int | None) -> int:
        return chained(np.array(lengths), guessed, 2)[1]

    parts, count = chained(np.array([8 * MIN_STEPS + 3]), 0, 2)
    assert count == 2
    assert parts[:, 1].tolist() == [k * MIN_STEPS for k in range(2 * CHAINS)]
    assert parts[-1, 2] == 8 * MIN_STEPS + 3
    assert groups([8 * MIN_STEPS - 1], 0) == 0  # parts would be too short
    assert MIN_PART == CHAINS  # four chains hide guesses as long as a part, one chain those of a quarter
    assert groups([8 * MIN_STEPS], MIN_STEPS) == 2 and groups([8 * MIN_STEPS], MIN_STEPS + 1) == 0
    assert chained(np.array([2 * MIN_STEPS]), MIN_STEPS // 4, 2, 1)[1] == 2
    assert chained(np.array([2 * MIN_STEPS]), MIN_STEPS // 4 + 1, 2, 1)[1] == 0
    assert groups([10**6], None) == 0
    assert groups([10**6] * (2 * MAX_SEQUENCES + 1), 0) == 0
    assert groups([10**6, 5], 0) == 0


def test_no_guess_for_what_cannot_be_cut() -> None:
    assert worth_a_guess(1, 8 * MIN_STEPS, 2) and not worth_a_guess(1, 8 * MIN_STEPS - 1, 2)
    assert worth_a_guess(2 * MAX_SEQUENCES, 4 * MIN_STEPS, 2)
    assert worth_a_guess(3 * MAX_SEQUENCES, 4 * MIN_STEPS, 3)
    assert not worth_a_guess(2 * MAX_SEQUENCES + 1, 10**6, 2) and not worth_a_guess(0, 10**6, 2)
    # One part a thread: nothing to cut where every thread has a sequence.
    assert worth_a_guess(1, 2 * MIN_STEPS, 2, 1) and not worth_a_guess(2, 10**6, 2, 1)


def test_pieces_take_a_thread_for_each_group() -> None:
    """Others would begin in the middle of a group, or find nothing to do."""
    for count, threads in ((CHAINS - 1, 1), (2 * CHAINS - 1, 1), (2 * CHAINS, 2), (5 * CHAINS, 3)):
        assert piece_plan(1, 100, tuple(range(count)), 3).threads == threads


@pytest.mark.parametrize("nonlinearity", ["tanh", "linear"])
def test_pieces_run_together_have_the_bits_of_each_alone(
    nonlinearity: str, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine packed sequences of unequal lengths, some empty: two groups of four, one that is left. And resets."""
    starts = [0, 300, 300, 1000, 1001, 4000, 4007, 9000, 9000]
    x, rate, h0 = torch.randn(1, 9500, 5), torch.rand(5) + 0.1, torch.randn(9, 5)
    used = watch(forward, "piece_plan", monkeypatch)

    def run(x: Tensor, h0: Tensor, **cuts: Any) -> tuple[Tensor, Tensor]:
        return cofm.rnn_scan(x, rate, h0, nonlinearity=nonlinearity, backend="numba", **cuts)

    h, last = run(x, h0, seq_starts=torch.tensor(starts))
    resets = torch.zeros(1, 9500, dtype=torch.bool)
    resets[:, starts[1:8]] = True
    resets[:, ::97] = True
    cut, _ = run(x, h0[:1], resets=resets)
    assert len(used) == 2
    for k, (start, end) in enumerate(pairwise([*starts, 9500])):
        one, one_last = run(x[:, start:end], h0[k : k + 1])
        assert torch.equal(h[:, start:end], one) and torch.equal(last[k : k + 1], one_last)
    for start, end in pairwise([*resets[0].nonzero().flatten().tolist(), 9500]):
        assert torch.equal(cut[:, start:end], run(x[:, start:end], h0[:1])[0])

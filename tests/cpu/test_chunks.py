"""Long sequences of few channels in chunks: as accurate as any order of the recurrence, the same on every machine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from watching import watch

pytest.importorskip("numba")

import cofm_triton as cofm
from cofm_triton.cpu.jit import chunks, forward
from cofm_triton.cpu.jit.chunks import (
    CHUNKS,
    MAX_CHANNELS,
    MIN_STEPS,
    first_states,
    forgets_too_slowly,
    worth_a_summary,
)
from cofm_triton.tolerance import linear_scan_bounds

LENGTH = 2_000
SLOW = [1 - 1e-6, 1.0, -1.0, -(1 - 1e-4), 1 - 1e-3, 0.5, 0.0, 1e-40]


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MIN_STEPS", 64)


def scan(x: Tensor, decay: Tensor, h0: Tensor | None = None, reverse: bool = False) -> tuple[Tensor, Tensor]:
    return cofm.linear_scan(x, decay, h0, reverse=reverse, backend="numba")


def step_by_step(run: Callable[[], tuple[Tensor, Tensor]], monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
    with monkeypatch.context() as patch:
        patch.setattr(forward, "worth_a_summary", lambda *arguments: False)
        return run()


@pytest.mark.parametrize("channels", [1, 3, 8])
@pytest.mark.parametrize("length", [CHUNKS * 64, LENGTH, LENGTH + CHUNKS - 1])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_results(channels: int, length: int, reverse: bool, given: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, decay = torch.randn(1, length, channels).bfloat16(), torch.tensor(SLOW[:channels])
    h0 = torch.randn(1, channels) if given else None
    used = watch(forward, "_in_chunks", monkeypatch)
    h, last = scan(x, decay, h0, reverse)
    assert used == [True]
    bounds = linear_scan_bounds(x, decay, h0, reverse=reverse)
    assert bounds["h"].excess(h) <= 1 and bounds["h_last"].excess(last) <= 1


def test_what_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    x, decay = torch.randn(1, LENGTH, 3).bfloat16(), torch.tensor([1.01, -1.02, 1.0])
    used = watch(forward, "_in_chunks", monkeypatch)
    h, last = scan(x, decay)
    assert used == [True]
    bounds = linear_scan_bounds(x, decay)
    assert bounds["h"].excess(h) <= 1 and bounds["h_last"].excess(last) <= 1


def test_memory_of_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that comes from far back crosses every chunk by a power of its decay."""
    x, decay = torch.zeros(1, 2**18, 2).bfloat16(), torch.tensor([1 - 1e-6, -(1 - 1e-6)])
    used = watch(forward, "_in_chunks", monkeypatch)
    h, last = scan(x, decay, torch.ones(1, 2))
    assert used == [True]
    exact = decay.double() ** 2**18
    # decay^n from its logarithm: exact but for the rounding of each first state, and for the last chunk's own steps.
    steps = CHUNKS + 2**18 // CHUNKS
    assert bool(((last.double() / exact - 1).abs() <= 2 * steps * 2.0**-24).all())
    assert torch.equal(h[:, -1], last.bfloat16())


@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_threads(threads: int, two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    x, decay, h0 = torch.randn(1, LENGTH, 5).bfloat16(), torch.tensor(SLOW[:5]), torch.randn(1, 5)
    used = watch(forward, "_in_chunks", monkeypatch)
    h, last = scan(x, decay, h0)
    torch.set_num_threads(threads)
    other, other_last = scan(x, decay, h0)
    assert used == [True, True]
    assert torch.equal(h, other) and torch.equal(last, other_last)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan, 3e38])
@pytest.mark.parametrize("at", [0, LENGTH // 2, LENGTH - 2])
@pytest.mark.parametrize("decay", [1.0, -1.0, 0.0, 1e-30])
def test_states_that_are_not_finite(value: float, at: int, decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bits of the recurrence, also of channels beside the one that is not finite."""
    x, decays = torch.randn(1, LENGTH, 3).bfloat16(), torch.tensor([0.999, decay, -0.999])
    x[0, at : at + 2, 1] = value
    used = watch(forward, "_in_chunks", monkeypatch)
    h, last = scan(x, decays)
    right, right_last = step_by_step(lambda: scan(x, decays), monkeypatch)
    assert used == [bool(right_last.isfinite().all())]
    if used == [False]:
        assert torch.equal(h.view(torch.int16), right.view(torch.int16))
        assert torch.equal(last.view(torch.int16), right_last.view(torch.int16))
    else:
        assert torch.equal(h.isfinite(), right.isfinite())


def test_a_state_that_overflows_inside_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the chunk adds from zero stays finite, what arrives before it does not."""
    x, used = torch.zeros(1, LENGTH, 1).bfloat16(), watch(forward, "_in_chunks", monkeypatch)
    x[0, LENGTH // 2 - 30] = 3e38
    x[0, LENGTH // 2 + 30] = 3e38
    x[0, LENGTH // 2 + 40] = -3e38
    h, last = scan(x, torch.ones(1))
    assert used == [False]
    assert last.item() == torch.inf and h[0, -1, 0] == torch.inf


def test_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    x, decay = torch.randn(1, LENGTH, 4).bfloat16().requires_grad_(), torch.tensor(SLOW[:4], requires_grad=True)
    h0, g = torch.randn(1, 4, requires_grad=True), torch.randn(1, LENGTH, 4).bfloat16()
    used = watch(forward, "_in_chunks", monkeypatch)
    h, last = scan(x, decay, h0)
    assert used == [True]
    grads = torch.autograd.grad((h, last), (x, decay, h0), (g, torch.ones_like(last)))
    bounds = linear_scan_bounds(x.detach(), decay.detach(), h0.detach(), g, torch.ones_like(last))
    for name, grad in zip(("grad_x", "grad_decay", "grad_h0"), grads, strict=True):
        assert bounds[name].excess(grad) <= 1


def test_first_states() -> None:
    decay = np.float32([0.5, -0.5, 0.0, 1.0, -1.0])
    summaries = np.arange(5 * CHUNKS, dtype=np.float32).reshape(CHUNKS, 5)
    states = first_states(decay, 3, summaries, np.float32([1, 2, 3, 4, 5]))
    right = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    for k in range(CHUNKS):
        np.testing.assert_array_max_ulp(states[k], right.astype(np.float32), 1)
        right = summaries[min(k + 1, CHUNKS - 1)] + decay.astype(np.float64) ** 3 * right


def test_which_scans_are_done_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MIN_STEPS", MIN_STEPS)
    bfloat16, least = torch.bfloat16, CHUNKS * MIN_STEPS
    assert worth_a_summary(bfloat16, 1, least, MAX_CHANNELS)
    assert not worth_a_summary(bfloat16, 1, least - 1, MAX_CHANNELS)
    assert not worth_a_summary(bfloat16, 1, least, MAX_CHANNELS + 1)
    assert not worth_a_summary(bfloat16, 2, least, 1)
    assert not worth_a_summary(torch.float32, 1, least, 1)  # the bits of the recurrence
    assert forgets_too_slowly(None, least)
    assert forgets_too_slowly(MIN_STEPS, least) and not forgets_too_slowly(MIN_STEPS - 1, least)


def test_what_forgets_fast_is_guessed(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    used, x = watch(forward, "_in_chunks", monkeypatch), torch.randn(1, 32_000, 2).bfloat16()
    scan(x, torch.tensor([0.9, -0.9]))
    assert not used


@pytest.mark.parametrize("nonlinearity", ["linear", "hardtanh"])
def test_other_recurrences_go_step_by_step(nonlinearity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used, x = watch(forward, "_in_chunks", monkeypatch), torch.randn(1, LENGTH, 2).bfloat16()
    cofm.rnn_scan(x, torch.full((2,), 1e-6), nonlinearity=nonlinearity, solver="sequential", backend="numba")
    cofm.linear_scan(x, torch.ones(2), seq_starts=torch.tensor([0]), backend="numba")
    cofm.linear_scan(x, torch.ones(1, LENGTH, 2), backend="numba")
    assert not used

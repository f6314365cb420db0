"""Long sequences of few channels, four steps at a time: within the bounds of any order, the same on every machine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from lookahead_cases import DECAYS, LENGTH, LENGTHS
from torch import Tensor
from watching import watch

pytest.importorskip("numba")

import cofm_triton as cofm
from cofm_triton.cpu.jit import linear_scan, lookahead
from cofm_triton.cpu.jit.lookahead import (
    LARGEST,
    MAX_CHANNELS,
    MAX_PARTS,
    MIN_LENGTH,
    SMALLEST,
    STEPS,
    block_bounds,
    worth_looking_ahead,
)
from cofm_triton.evidence.tolerance import linear_scan_bounds

pytestmark = pytest.mark.usefixtures("short_sequences_look_ahead")


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call that looked ahead could do so."""
    return watch(linear_scan, "look_ahead", monkeypatch)


def scan(x: Tensor, decay: Tensor, h0: Tensor | None = None, reverse: bool = False) -> tuple[Tensor, Tensor]:
    return cofm.linear_scan(x, decay, h0, reverse=reverse, backend="numba")


def step_by_step(run: Callable[[], tuple[Tensor, Tensor]], monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
    with monkeypatch.context() as patch:
        patch.setattr(linear_scan, "worth_looking_ahead", lambda *arguments: False)
        return run()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [1, 3, 8])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_results(dtype: torch.dtype, channels: int, reverse: bool, given: bool, used: list[bool]) -> None:
    decay, h0 = torch.tensor(DECAYS[-channels:]), torch.randn(1, channels) if given else None
    for length in LENGTHS:
        x = torch.randn(1, length, channels).to(dtype)
        h, last = scan(x, decay, h0, reverse)
        bounds = linear_scan_bounds(x, decay, h0, reverse=reverse)
        assert bounds["h"].excess(h) <= 1 and bounds["h_last"].excess(last) <= 1
    assert used == [True] * len(LENGTHS)


@pytest.mark.parametrize("kind", ["transposed", "sliced", "every second", "expanded"])
def test_views(kind: str, used: list[bool]) -> None:
    decay = torch.tensor(DECAYS[:4])
    x = {
        "transposed": torch.randn(1, 4, LENGTH).transpose(1, 2),
        "sliced": torch.randn(1, LENGTH, 9)[:, :, 1:5],
        "every second": torch.randn(1, 2 * LENGTH, 4)[:, ::2],
        "expanded": torch.randn(1, 1, 4).expand(1, LENGTH, 4),
    }[kind]
    h, last = scan(x, decay)
    whole, whole_last = scan(x.contiguous(), decay)
    assert used == [True, True]
    assert torch.equal(h, whole) and torch.equal(last, whole_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_grows(dtype: torch.dtype, used: list[bool]) -> None:
    x, decay = torch.randn(1, LENGTH, 3).to(dtype), torch.tensor([1.01, -1.02, 1.5])
    x[:, 100:, 2] = 0
    h, last = scan(x, decay)
    assert used == [False]  # 1.5^300 overflows
    h, last = scan(x[..., :2], decay[:2])
    assert used == [False, True]
    bounds = linear_scan_bounds(x[..., :2], decay[:2])
    assert bounds["h"].excess(h) <= 1 and bounds["h_last"].excess(last) <= 1


def test_memory_of_many_steps(used: list[bool]) -> None:
    """A state that comes from far back crosses every block by a power that has more digits than float32."""
    length = 2**18
    x, decay = torch.zeros(1, length, 2), torch.tensor([1 - 5e-5, -(1 - 5e-5)])
    h, last = scan(x, decay, torch.ones(1, 2))
    assert used == [True]
    exact = decay.double() ** length
    error = (last.double() / exact - 1).abs()
    # A block rounds its state twice, and its factor has 48 digits.
    assert bool((error <= 2 * length / STEPS * 2.0**-24).all())
    # With a factor rounded to float32 the state would be another one, which roundings in both directions are not.
    rounded = (decay.double() ** STEPS).float().double() ** (length // STEPS)
    assert bool((error < (rounded / exact - 1).abs() / 10).all())
    assert torch.equal(h[:, -1], last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threads", [1, 3, MAX_PARTS + 1])
def test_any_number_of_threads(dtype: torch.dtype, threads: int, two_threads: None, used: list[bool]) -> None:
    x, decay, h0 = torch.randn(1, LENGTH, 5).to(dtype), torch.tensor(DECAYS[:5]), torch.randn(1, 5)
    h, last = scan(x, decay, h0)
    torch.set_num_threads(threads)
    other, other_last = scan(x, decay, h0)
    assert used == [True, True]
    assert torch.equal(h, other) and torch.equal(last, other_last)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan, 3e38])
@pytest.mark.parametrize("at", [0, LENGTH // 2, LENGTH - 2])
@pytest.mark.parametrize("decay", [1.0, -1.0, 0.0, 0.5])
def test_states_that_are_not_finite(
    value: float, at: int, decay: float, used: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bits of the recurrence, also of channels beside the one that is not finite."""
    x, decays = torch.randn(1, LENGTH, 3), torch.tensor([0.999, decay, -0.999])
    x[0, at : at + 2, 1] = value
    h, last = scan(x, decays)
    right, right_last = step_by_step(lambda: scan(x, decays), monkeypatch)
    if not right_last.isfinite().all():
        assert used == [False]
        assert torch.equal(h.view(torch.int32), right.view(torch.int32))
        assert torch.equal(last.view(torch.int32), right_last.view(torch.int32))
    else:
        assert h.isfinite().all() and last.isfinite().all()


@pytest.mark.parametrize("phase", range(2 * STEPS))
def test_a_state_that_overflows_inside_a_block(phase: int, used: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what the block adds from zero nor what is left at its end is infinite, what lies between is: for good."""
    x, at = torch.zeros(1, LENGTH, 1), LENGTH // 2 + phase
    x[0, at], x[0, at + 1], x[0, at + 2] = 3.3e38, 3.3e38, -3.3e38
    h, last = scan(x, torch.full((1,), 0.5))
    assert used == [False]
    assert last.item() == torch.inf and torch.equal(h.isinf().squeeze(), torch.arange(LENGTH) > at)


@pytest.mark.parametrize("decay", [SMALLEST / 2, 1e-40, -2 * LARGEST, torch.inf, torch.nan])
def test_decays_whose_powers_leave_their_range(decay: float, used: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    x, decays = torch.randn(1, LENGTH, 2), torch.tensor([0.9, decay])
    results = scan(x, decays)
    for one, other in zip(results, step_by_step(lambda: scan(x, decays), monkeypatch), strict=True):
        assert torch.equal(one.view(torch.int32), other.view(torch.int32))
    assert used == [False]


@pytest.mark.parametrize("length", [1, 3, 4, 17, LENGTH, 10**6 + 1])
@pytest.mark.parametrize("parts", range(1, MAX_PARTS + 1))
def test_parts_begin_where_blocks_do(length: int, parts: int) -> None:
    bounds = block_bounds(length, parts)
    assert bounds[0] == 0 and bounds[-1] == length and len(bounds) == parts + 1
    assert (np.diff(bounds) >= 0).all() and (bounds[:-1] % STEPS == 0).all()


def test_which_scans_look_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookahead, "MIN_LENGTH", MIN_LENGTH)
    single = torch.float32
    assert worth_looking_ahead(single, 1, MIN_LENGTH, MAX_CHANNELS)
    assert not worth_looking_ahead(single, 1, MIN_LENGTH - 1, MAX_CHANNELS)
    assert not worth_looking_ahead(single, 1, MIN_LENGTH, MAX_CHANNELS + 1)
    assert not worth_looking_ahead(single, 2, MIN_LENGTH, 1)
    assert not worth_looking_ahead(torch.float64, 1, MIN_LENGTH, 1)
    assert not worth_looking_ahead(torch.complex64, 1, MIN_LENGTH, 1)


@pytest.mark.parametrize("nonlinearity", ["linear", "hardtanh"])
def test_other_recurrences_go_step_by_step(nonlinearity: str, used: list[bool]) -> None:
    x = torch.randn(1, LENGTH, 2)
    cofm.rnn_scan(x, torch.full((2,), 1e-6), nonlinearity=nonlinearity, solver="sequential", backend="numba")
    cofm.linear_scan(x, torch.ones(2), seq_starts=torch.tensor([0]), backend="numba")
    cofm.linear_scan(x, torch.ones(1, LENGTH, 2), backend="numba")
    assert not used

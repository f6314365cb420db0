"""Split time in the linear scan's kernels: launches are forced to split, and must compute what the whole computes."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest
import torch
from scan_cases import Case, device_of, linear_case, rounding_slack

from cofm_triton.evidence.tolerance import linear_scan_bounds
from cofm_triton.ops.backends import INSTALLED, interpreting
from cofm_triton.ops.dtypes import state_dtype

if not INSTALLED["triton"] or not (torch.cuda.is_available() or interpreting()):
    pytest.skip("triton cannot run here", allow_module_level=True)

from cofm_triton.kernels import launch, linear_scan

DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.complex64]


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains of two rows are long, carries above two are not folded: short sequences split as long ones do."""
    monkeypatch.setattr(launch, "MAX_CHAIN", 2)
    monkeypatch.setattr(launch, "CHUNK_STEP", 1)
    monkeypatch.setattr(launch, "_balanced", lambda rows: math.isqrt(8 * rows))  # and have carries enough
    fold(monkeypatch, 2)


def fold(monkeypatch: pytest.MonkeyPatch, carries: int) -> None:
    for module in (launch, linear_scan):
        monkeypatch.setattr(module, "FOLDED_CARRIES", carries)


def plan_of(case: Case, num_sms: int, streams: int = 2) -> tuple[launch.Channels, launch.Chunks]:
    batch, length, width = case.x.shape
    parts = 2 if case.x.is_complex() else 1
    size = case.x.element_size() // parts
    pair_lanes = launch.LANES if case.factor.is_complex() else 0
    return launch.layout(length, batch, parts * width, size, num_sms, streams=streams, pair_lanes=pair_lanes)


def run(case: Case, num_sms: int) -> dict[str, torch.Tensor]:
    """Forward and backward as the operator calls them."""
    device = device_of("triton")
    x, decay, h0, grad_h, grad_last = (
        None if t is None else t.to(device) for t in (case.x, case.factor, case.h0, case.grad_h, case.grad_last)
    )
    options: dict[str, Any] = dict(
        reverse=case.options["reverse"], state_dtype=state_dtype(case.x.dtype), num_sms=num_sms
    )
    state = options["state_dtype"]
    h, h_last = linear_scan.forward(x, decay, h0, None, **options)
    assert grad_last is not None
    grads = linear_scan.backward(grad_h, grad_last.to(state), decay, h, h0, None, **options)
    results = {"h": h, "h_last": h_last, **dict(zip(case.names, grads, strict=True))}
    return {name: result.cpu() for name, result in results.items()}


def check(case: Case, num_sms: int) -> None:
    bounds = case.bounds_of(case.x, case.factor, case.h0, case.grad_h, case.grad_last, **case.options)
    slack = rounding_slack("triton", case.x.dtype)
    ratios = {name: bounds[name].excess(value) / slack for name, value in run(case, num_sms).items()}
    missed = {name: ratio for name, ratio in ratios.items() if not ratio <= 1}
    assert not missed, f"error over bound: {missed}"


@pytest.mark.parametrize(
    ("batch", "length", "channels", "num_sms", "dtype"),
    [*((1, 13, 40, 8, dtype) for dtype in DTYPES), (2, 13, 3, 200, torch.float32)],
)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("folded", [2, 12])
def test_split_time(
    batch: int, length: int, channels: int, num_sms: int, dtype: torch.dtype, reverse: bool, gated: bool,
    folded: int, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Carries added up by the replay, and by launches of their own, in two levels."""
    fold(monkeypatch, folded)
    case = linear_case(batch, length, channels, dtype=dtype, gated=gated, reverse=reverse)
    streams = 3 if gated else 2
    carries = -(-length // plan_of(case, num_sms, streams)[1].length) - 1
    assert 2 < carries <= 12
    assert folded > 2 or launch.split_carries(carries) < carries
    check(case, num_sms)


@pytest.mark.parametrize(
    ("dtype", "part", "reverse", "gated"),
    [
        (torch.float32, 2, False, False),
        (torch.float32, 4, True, False),
        (torch.bfloat16, 2, True, False),
        (torch.bfloat16, 4, False, False),
        (torch.float32, 4, False, True),
        (torch.complex64, 2, False, False),
    ],
)
def test_narrow_blocks(dtype: torch.dtype, part: int, reverse: bool, gated: bool) -> None:
    """A device that only narrow blocks keep busy: several of them where one of full width would do."""
    case = linear_case(1, 75, 512 // dtype.itemsize, dtype=dtype, gated=gated, reverse=reverse)
    block, plan = plan_of(case, part)
    assert (block.part, block.num_blocks, plan) == (part, part, (75, 75))
    check(case, part)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("folded", [2, 12])
def test_split_time_of_pairs(folded: int, reverse: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    fold(monkeypatch, folded)
    case = linear_case(1, 13, 40, dtype=dtype, pairs=True, reverse=reverse)
    assert 2 < -(-13 // plan_of(case, 8)[1].length) - 1 <= 12
    check(case, 8)


@pytest.mark.parametrize("part", [2, 4])
def test_narrow_blocks_of_pairs(part: int) -> None:
    case = linear_case(1, 75, 256, dtype=torch.bfloat16, pairs=True)
    assert plan_of(case, part)[0].part == part
    check(case, part)


@pytest.mark.parametrize(("pairs", "dtype"), [(False, torch.complex64), (True, torch.float32), (True, torch.bfloat16)])
@pytest.mark.parametrize("num_sms", [1, 100])
def test_a_complex_gate_of_all_channels_is_that_of_each(num_sms: int, pairs: bool, dtype: torch.dtype) -> None:
    case = linear_case(2, 21, 32, dtype=dtype, gated=True, shared=True, pairs=pairs)
    copied = run(case.with_(factor=case.factor.repeat(1, 1, 16 if pairs else 32)), num_sms)
    shared = run(case, num_sms)
    assert all(torch.equal(shared[name], copied[name]) for name in copied)


@pytest.mark.parametrize("width", [16, 32])
@pytest.mark.parametrize("num_sms", [1, 100])
@pytest.mark.parametrize("gated", [False, True])
def test_rows_of_few_bytes(gated: bool, num_sms: int, width: int) -> None:
    """Aligned rows that fill less than the narrowest part of a block."""
    check(linear_case(1, 40, width, dtype=torch.bfloat16, gated=gated), num_sms)


def test_narrow_blocks_of_split_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of more than the 64 rows that the narrowest block has in flight, and of fewer."""
    monkeypatch.setattr(launch, "SPLIT_PROGRAMS", 1)
    case = linear_case(1, 200, 64)
    for num_sms, programs, shorter in ((6, 1, False), (60, 2, True)):
        monkeypatch.setattr(launch, "BUSY_PROGRAMS", programs)
        block, plan = plan_of(case, num_sms)
        assert block.part == 4 and (plan.length < 64) == shorter and plan.length < 200
        check(case, num_sms)


@pytest.mark.parametrize(
    ("dtype", "reverse", "gated"),
    [
        (torch.float32, False, False),
        (torch.float32, True, False),
        (torch.float32, False, True),
        (torch.complex64, True, True),
        (torch.complex64, True, False),
    ],
)
@pytest.mark.parametrize("many", [1, 4])
def test_segments(dtype: torch.dtype, reverse: bool, gated: bool, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three segments, each in chunks, as few segments are walked and as many are."""
    case = linear_case(1, 120, 3, dtype=dtype, gated=gated, reverse=reverse)
    streams = 3 if gated else 2
    monkeypatch.setattr(launch, "SEGMENT_BYTES", 42 * 3 * dtype.itemsize * streams)
    monkeypatch.setattr(launch, "MANY_SEGMENTS", many)
    monkeypatch.setattr(launch, "SHORT_CHUNK", 4)
    plan = plan_of(case, 200, streams)[1]
    assert 30 <= plan.segment <= 40 and plan.length < 20
    check(case, 200)


@pytest.mark.parametrize("length", range(17, 33))
def test_every_remainder(length: int) -> None:
    check(linear_case(1, length, 3, gated=length % 2 == 0), 100)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_split_repeats_are_bitwise_equal(dtype: torch.dtype, gated: bool) -> None:
    case = linear_case(1, 50, 40, dtype=dtype, gated=gated)
    first, second = run(case, 100), run(case, 100)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("length", "channels", "num_sms", "dtype", "reverse"),
    [
        (21, 3, 100, torch.float32, False),
        (21, 3, 100, torch.bfloat16, True),
        (5, 32, 1, torch.float32, True),
        (21, 32, 1, torch.float64, False),
        (21, 40, 1, torch.bfloat16, False),
    ],
)
def test_a_gate_of_all_channels_is_that_of_each(
    length: int, channels: int, num_sms: int, dtype: torch.dtype, reverse: bool
) -> None:
    """Read once a step where the broadcast of (B, T, 1) leaves it, and used as its copies would be."""
    case = linear_case(2, length, channels, dtype=dtype, gated=True, reverse=reverse)
    gates = case.factor[:, :, :1]
    copied = run(case.with_(factor=gates.repeat(1, 1, channels)), num_sms)
    shared = run(case.with_(factor=gates.expand(2, length, channels)), num_sms)
    assert all(torch.equal(shared[name], copied[name]) for name in copied)


@pytest.mark.parametrize("decay", [1.0, -1.0, 0.0])
def test_exact_decays_stay_exact_when_split(decay: float) -> None:
    """Small integers: no order of operations rounds."""
    case = linear_case(1, 40, 3)
    whole_numbers = (torch.arange(120) % 5 - 2.0).reshape(1, 40, 3)
    case = case.with_(x=whole_numbers, factor=torch.full((3,), decay), h0=torch.ones(1, 3), grad_h=whole_numbers)
    case = case.with_(grad_last=torch.ones(1, 3))
    split, whole = run(case, 100), run(case, 1)
    for name in split:
        assert torch.equal(split[name], whole[name]), name


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("decay", [1e-40, -1e-40, -0.9, 1 - 1e-6])
def test_decays_of_any_kind(decay: float, gated: bool) -> None:
    case = linear_case(1, 40, 3, gated=gated)
    check(case.with_(factor=torch.full_like(case.factor, decay)), 100)


@pytest.mark.parametrize("length", [1000, 2**20])
def test_powers_of_a_decay_are_not_rounded_on_the_way(length: int) -> None:
    """A slow decay's power over a chunk, as near to the exact one as float32 has room for; so is a turn's."""
    decay = torch.tensor([1 - 1e-6, 1 + 1e-6, -(1 - 2e-6), 1.0, 0.0])
    exact = [float(Decimal(number) ** length) for number in decay.tolist()]
    power = linear_scan._chunk_decay(decay, None, length, False)
    torch.testing.assert_close(power, torch.tensor(exact), rtol=2**-24 + 1e-13, atol=0)
    turn = torch.view_as_real(torch.polar(torch.tensor([1 - 1e-6, 1.0]), torch.tensor([0.3, -2.0]))).flatten()
    actual = torch.view_as_complex(linear_scan._chunk_decay(turn, None, length, True).unflatten(0, (2, 2)))
    number = torch.view_as_complex(turn.double().unflatten(0, (2, 2)))
    expected = torch.ones(2, dtype=torch.complex128)
    for bit in f"{length:b}":  # 21 squarings in float64 lose 2^21 roundings: 2e-10, where float32 has 6e-8
        expected = expected * expected * (number if bit == "1" else 1)
    assert ((actual - expected).abs() <= (2**-24 * 2**0.5 + 1e-9) * expected.abs()).all()


def test_slow_decay_over_long_time() -> None:
    """As close to float64 as any evaluation step by step is sure to be."""
    x, decay = linear_case(1, 2_000, 3).x, torch.full((3,), 1 - 1e-6)
    h, h_last = linear_scan.forward(
        x.to(device_of("triton")), decay.to(device_of("triton")), None, None, reverse=False,
        state_dtype=torch.float32, num_sms=20,
    )  # fmt: skip
    bounds = linear_scan_bounds(x, decay)
    assert bounds["h"].excess(h.cpu()) <= 1 and bounds["h_last"].excess(h_last.cpu()) <= 1


@pytest.mark.parametrize("gated", [False, True])
def test_infinity_crosses_chunks(gated: bool) -> None:
    case = linear_case(1, 40, 3, gated=gated)
    x = case.x.clone()
    x[0, 2, 0], x[0, 3, 1] = torch.inf, torch.nan
    split, whole = run(case.with_(x=x), 100)["h"], run(case.with_(x=x), 1)["h"]
    assert torch.equal(split.isnan(), whole.isnan())
    assert torch.equal(split.isinf(), whole.isinf())


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("folded", [2, 36])
@pytest.mark.parametrize("decay", [1e-30, -1e-30])
def test_infinity_outlives_the_smallest_product(
    decay: float, folded: int, gated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The product of a chunk's decays underflows; infinity times any of them is infinite all the same."""
    fold(monkeypatch, folded)
    monkeypatch.setattr(launch, "CHUNK_STEP", 3)
    case = linear_case(1, 36, 3, gated=gated)
    x = case.x.clone()
    x[0, 2, 0] = torch.inf
    case = case.with_(x=x, factor=torch.full_like(case.factor, decay))
    assert torch.equal(run(case, 10)["h"], run(case, 1)["h"])


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("folded", [2, 36])
def test_nothing_grows_out_of_nothing(folded: int, gated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The product of a chunk's decays overflows; the zero state in front of it stays zero."""
    fold(monkeypatch, folded)
    monkeypatch.setattr(launch, "CHUNK_STEP", 3)
    case = linear_case(1, 36, 3, gated=gated)
    zeros = torch.zeros_like(case.x)
    assert case.h0 is not None and case.grad_last is not None
    case = case.with_(x=zeros, h0=torch.zeros_like(case.h0), factor=torch.full_like(case.factor, 1e30))
    case = case.with_(grad_h=zeros, grad_last=torch.zeros_like(case.grad_last))
    assert all(not result.any() for result in run(case, 10).values())

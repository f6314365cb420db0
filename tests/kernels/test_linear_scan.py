"""Split time in the linear scan's kernels: launches are forced to split, and must compute what the whole computes."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest
import torch
from scan_cases import Problem, device_of, linear_problem, rounding_slack

from cofm_triton.evidence.tolerance import linear_scan_bounds
from cofm_triton.ops.backends import INSTALLED, interpreting
from cofm_triton.ops.dtypes import state_dtype

if not INSTALLED["triton"] or not (torch.cuda.is_available() or interpreting()):
    pytest.skip("triton cannot run here", allow_module_level=True)

from cofm_triton.kernels import launch, linear_scan
from cofm_triton.kernels.linear_scan_carry import chunk_decay

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


def plan_of(problem: Problem, num_sms: int, streams: int = 2) -> tuple[launch.Channels, launch.Chunks]:
    batch, length, width = problem.x.shape
    parts = 2 if problem.x.is_complex() else 1
    size = problem.x.element_size() // parts
    pair_lanes = launch.LANES if problem["decay"].is_complex() else 0
    return launch.layout(length, batch, parts * width, size, num_sms, streams=streams, pair_lanes=pair_lanes)


def run(problem: Problem, num_sms: int) -> dict[str, torch.Tensor]:
    """Forward and backward as the operator calls them."""
    device = device_of("triton")
    given = {name: tensor.to(device) for name, tensor in {**problem.tensors, **problem.pulls}.items()}
    x, decay, h0 = given["x"], given["decay"], given.get("h0")
    options: dict[str, Any] = dict(
        reverse=problem.options["reverse"], state_dtype=state_dtype(problem.x.dtype), num_sms=num_sms
    )
    state = options["state_dtype"]
    h, h_last = linear_scan.forward(x, decay, h0, None, **options)
    grads = linear_scan.backward(given["grad_h"], given["grad_last"].to(state), decay, h, h0, None, **options)
    results = {
        "h": h,
        "h_last": h_last,
        **{f"grad_{n}": grad for n, grad in zip(("x", "decay", "h0"), grads, strict=True)},
    }
    return {name: result.cpu() for name, result in results.items()}


def check(problem: Problem, num_sms: int) -> None:
    bounds = problem.bounds()
    slack = rounding_slack("triton", problem.x.dtype)
    ratios = {name: bounds[name].excess(value) / slack for name, value in run(problem, num_sms).items()}
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
    problem = linear_problem(batch, length, channels, dtype=dtype, gated=gated, reverse=reverse)
    streams = 3 if gated else 2
    carries = -(-length // plan_of(problem, num_sms, streams)[1].length) - 1
    assert 2 < carries <= 12
    assert folded > 2 or launch.split_carries(carries) < carries
    check(problem, num_sms)


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
    problem = linear_problem(1, 75, 512 // dtype.itemsize, dtype=dtype, gated=gated, reverse=reverse)
    block, plan = plan_of(problem, part)
    assert (block.part, block.num_blocks, plan) == (part, part, (75, 75))
    check(problem, part)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("folded", [2, 12])
def test_split_time_of_pairs(folded: int, reverse: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    fold(monkeypatch, folded)
    problem = linear_problem(1, 13, 40, dtype=dtype, pairs=True, reverse=reverse)
    assert 2 < -(-13 // plan_of(problem, 8)[1].length) - 1 <= 12
    check(problem, 8)


@pytest.mark.parametrize("part", [2, 4])
def test_narrow_blocks_of_pairs(part: int) -> None:
    problem = linear_problem(1, 75, 256, dtype=torch.bfloat16, pairs=True)
    assert plan_of(problem, part)[0].part == part
    check(problem, part)


@pytest.mark.parametrize(("pairs", "dtype"), [(False, torch.complex64), (True, torch.float32), (True, torch.bfloat16)])
@pytest.mark.parametrize("num_sms", [1, 100])
def test_a_complex_gate_of_all_channels_is_that_of_each(num_sms: int, pairs: bool, dtype: torch.dtype) -> None:
    problem = linear_problem(2, 9, 32, dtype=dtype, gated=True, shared=True, pairs=pairs)
    copied = run(problem.with_(decay=problem["decay"].repeat(1, 1, 16 if pairs else 32)), num_sms)
    shared = run(problem, num_sms)
    assert all(torch.equal(shared[name], copied[name]) for name in copied)


@pytest.mark.parametrize("width", [16, 32])
@pytest.mark.parametrize("num_sms", [1, 100])
@pytest.mark.parametrize("gated", [False, True])
def test_rows_of_few_bytes(gated: bool, num_sms: int, width: int) -> None:
    """Aligned rows that fill less than the narrowest part of a block."""
    check(linear_problem(1, 40, width, dtype=torch.bfloat16, gated=gated), num_sms)


@pytest.mark.slow
def test_narrow_blocks_of_split_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of more than the 64 rows that the narrowest block has in flight, and of fewer."""
    monkeypatch.setattr(launch, "SPLIT_PROGRAMS", 1)
    for length, num_sms, programs in ((200, 6, 1), (40, 60, 2)):
        problem = linear_problem(1, length, 64)
        monkeypatch.setattr(launch, "BUSY_PROGRAMS", programs)
        block, plan = plan_of(problem, num_sms)
        assert block.part == 4 and (plan.length < 64) == (length < 64) and plan.length < length
        check(problem, num_sms)


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
    problem = linear_problem(1, 120, 3, dtype=dtype, gated=gated, reverse=reverse)
    streams = 3 if gated else 2
    monkeypatch.setattr(launch, "SEGMENT_BYTES", 42 * 3 * dtype.itemsize * streams)
    monkeypatch.setattr(launch, "MANY_SEGMENTS", many)
    monkeypatch.setattr(launch, "SHORT_CHUNK", 4)
    plan = plan_of(problem, 200, streams)[1]
    assert 30 <= plan.segment <= 40 and plan.length < 20
    check(problem, 200)


@pytest.mark.parametrize("length", range(17, 33))
def test_every_remainder(length: int) -> None:
    check(linear_problem(1, length, 3, gated=length % 2 == 0), 100)


@pytest.mark.slow
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_split_repeats_are_bitwise_equal(dtype: torch.dtype, gated: bool) -> None:
    problem = linear_problem(1, 18, 40, dtype=dtype, gated=gated)
    first, second = run(problem, 100), run(problem, 100)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("length", "channels", "num_sms", "dtype", "reverse"),
    [
        (9, 3, 100, torch.float32, False),
        (9, 3, 100, torch.bfloat16, True),
        (5, 32, 1, torch.float32, True),
        (21, 32, 1, torch.float64, False),
        (21, 40, 1, torch.bfloat16, False),
    ],
)
def test_a_gate_of_all_channels_is_that_of_each(
    length: int, channels: int, num_sms: int, dtype: torch.dtype, reverse: bool
) -> None:
    """Read once a step where the broadcast of (B, T, 1) leaves it, and used as its copies would be."""
    problem = linear_problem(2, length, channels, dtype=dtype, gated=True, reverse=reverse)
    gates = problem["decay"][:, :, :1]
    copied = run(problem.with_(decay=gates.repeat(1, 1, channels)), num_sms)
    shared = run(problem.with_(decay=gates.expand(2, length, channels)), num_sms)
    assert all(torch.equal(shared[name], copied[name]) for name in copied)


@pytest.mark.parametrize("decay", [1.0, -1.0, 0.0])
def test_exact_decays_stay_exact_when_split(decay: float) -> None:
    """Small integers: no order of operations rounds."""
    problem = linear_problem(1, 18, 3)
    whole_numbers = (torch.arange(54) % 5 - 2.0).reshape(1, 18, 3)
    problem = problem.with_(x=whole_numbers, decay=torch.full((3,), decay), h0=torch.ones(1, 3), grad_h=whole_numbers)
    problem = problem.with_(grad_last=torch.ones(1, 3))
    split, whole = run(problem, 100), run(problem, 1)
    for name in split:
        assert torch.equal(split[name], whole[name]), name


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("decay", [1e-40, -1e-40, -0.9, 1 - 1e-6])
def test_decays_of_any_kind(decay: float, gated: bool) -> None:
    problem = linear_problem(1, 24, 3, gated=gated)
    check(problem.with_(decay=torch.full_like(problem["decay"], decay)), 100)


@pytest.mark.parametrize("length", [1000, 2**20])
def test_powers_of_a_decay_are_not_rounded_on_the_way(length: int) -> None:
    """A slow decay's power over a chunk, as near to the exact one as float32 has room for; so is a turn's."""
    decay = torch.tensor([1 - 1e-6, 1 + 1e-6, -(1 - 2e-6), 1.0, 0.0])
    exact = [float(Decimal(number) ** length) for number in decay.tolist()]
    power = chunk_decay(decay, length, is_complex=False)
    torch.testing.assert_close(power, torch.tensor(exact), rtol=2**-24 + 1e-13, atol=0)
    turn = torch.view_as_real(torch.polar(torch.tensor([1 - 1e-6, 1.0]), torch.tensor([0.3, -2.0]))).flatten()
    actual = torch.view_as_complex(chunk_decay(turn, length, is_complex=True).unflatten(0, (2, 2)))
    number = torch.view_as_complex(turn.double().unflatten(0, (2, 2)))
    expected = torch.ones(2, dtype=torch.complex128)
    for bit in f"{length:b}":  # 21 squarings in float64 lose 2^21 roundings: 2e-10, where float32 has 6e-8
        expected = expected * expected * (number if bit == "1" else 1)
    assert ((actual - expected).abs() <= (2**-24 * 2**0.5 + 1e-9) * expected.abs()).all()


def test_slow_decay_over_long_time() -> None:
    """As close to float64 as any evaluation step by step is sure to be."""
    x, decay = linear_problem(1, 2_000, 3).x, torch.full((3,), 1 - 1e-6)
    h, h_last = linear_scan.forward(
        x.to(device_of("triton")), decay.to(device_of("triton")), None, None, reverse=False,
        state_dtype=torch.float32, num_sms=20,
    )  # fmt: skip
    bounds = linear_scan_bounds(x, decay)
    assert bounds["h"].excess(h.cpu()) <= 1 and bounds["h_last"].excess(h_last.cpu()) <= 1


@pytest.mark.parametrize("gated", [False, True])
def test_infinity_crosses_chunks(gated: bool) -> None:
    problem = linear_problem(1, 18, 3, gated=gated)
    x = problem.x.clone()
    x[0, 2, 0], x[0, 3, 1] = torch.inf, torch.nan
    split, whole = run(problem.with_(x=x), 100)["h"], run(problem.with_(x=x), 1)["h"]
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
    problem = linear_problem(1, 36, 3, gated=gated)
    x = problem.x.clone()
    x[0, 2, 0] = torch.inf
    problem = problem.with_(x=x, decay=torch.full_like(problem["decay"], decay))
    assert torch.equal(run(problem, 10)["h"], run(problem, 1)["h"])


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("folded", [2, 36])
def test_nothing_grows_out_of_nothing(folded: int, gated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The product of a chunk's decays overflows; the zero state in front of it stays zero."""
    fold(monkeypatch, folded)
    monkeypatch.setattr(launch, "CHUNK_STEP", 3)
    problem = linear_problem(1, 36, 3, gated=gated)
    zeros = torch.zeros_like(problem.x)
    problem = problem.with_(x=zeros, h0=torch.zeros_like(problem["h0"]), decay=torch.full_like(problem["decay"], 1e30))
    problem = problem.with_(grad_h=zeros, grad_last=torch.zeros_like(problem["grad_last"]))
    assert all(not result.any() for result in run(problem, 10).values())

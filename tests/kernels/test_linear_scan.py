"""Split time in the linear scan's kernels: launches are forced to split, and must compute what the whole computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scan_cases import Case, device_of, linear_case, rounding_slack

from cofm_triton.ops.backends import INSTALLED, interpreting
from cofm_triton.ops.dtypes import state_dtype

if not INSTALLED["triton"] or not (torch.cuda.is_available() or interpreting()):
    pytest.skip("triton cannot run here", allow_module_level=True)

from cofm_triton.kernels import launch, linear_scan

DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.complex64]


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shortest chunks there are, and chains of two carries: short sequences split as long ones do."""
    monkeypatch.setattr(launch, "MIN_CHUNK_BYTES", 1)
    monkeypatch.setattr(launch, "MAX_CARRIES", 2)


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
    [*((1, 50, 40, 8, dtype) for dtype in DTYPES), (2, 50, 3, 200, torch.float32)],
)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_split_time(
    batch: int, length: int, channels: int, num_sms: int, dtype: torch.dtype, reverse: bool, gated: bool
) -> None:
    case = linear_case(batch, length, channels, dtype=dtype, gated=gated, reverse=reverse)
    size = case.x.element_size()
    assert launch.split(length, batch, batch * channels * size, size, num_sms).num_chunks > 1
    check(case, num_sms)


@pytest.mark.parametrize(
    ("dtype", "reverse", "gated"),
    [
        (torch.float32, False, False),
        (torch.bfloat16, True, False),
        (torch.float32, True, True),
        (torch.complex64, False, False),
    ],
)
def test_narrow_blocks(dtype: torch.dtype, reverse: bool, gated: bool) -> None:
    """A device that only narrow blocks keep busy: two of them where one of full width would do."""
    case = linear_case(1, 43, 512 // dtype.itemsize, dtype=dtype, gated=gated, reverse=reverse)
    real = 4 if dtype.is_complex else dtype.itemsize
    block, plan = launch.layout(43, 1, 512 // real, real, 4)
    assert (block.narrow, block.num_blocks, plan.num_chunks) == (True, 2, 1)
    check(case, 4)


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
def test_segments(dtype: torch.dtype, reverse: bool, gated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three segments, the last one partial, each in chunks, carries in two levels."""
    case = linear_case(1, 120, 3, dtype=dtype, gated=gated, reverse=reverse)
    size = case.x.element_size()
    monkeypatch.setattr(launch, "SEGMENT_BYTES", 50 * 3 * size)
    plan = launch.split(120, 1, 3 * size, size, 200)
    assert plan.segment == 50 and plan.num_chunks == 4
    assert launch.split_carries(4).num_chunks > 1
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
def test_infinity_crosses_chunks(gated: bool) -> None:
    case = linear_case(1, 40, 3, gated=gated)
    x = case.x.clone()
    x[0, 2, 0], x[0, 3, 1] = torch.inf, torch.nan
    split, whole = run(case.with_(x=x), 100)["h"], run(case.with_(x=x), 1)["h"]
    assert torch.equal(split.isnan(), whole.isnan())
    assert torch.equal(split.isinf(), whole.isinf())

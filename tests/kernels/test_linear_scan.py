"""Time shared out in the linear scan's kernels: to one warp, to segments, to chunks. All must compute the same scan."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
import torch
from scan_cases import Problem, device_of, linear_problem, rounding_slack

from cofm_triton.evidence.tolerance import linear_scan_bounds
from cofm_triton.ops.backends import INSTALLED, interpreting
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.ops.shapes import resets_against

if not INSTALLED["triton"] or not (torch.cuda.is_available() or interpreting()):
    pytest.skip("triton cannot run here", allow_module_level=True)

import triton
import triton.language as tl

from cofm_triton.kernels import launch, linear_scan
from cofm_triton.kernels.linear_scan_tile import _join_complex, _join_complex_cut, power

DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.complex64]
# Multiprocessors that make one program walk a sequence in segments, or in chunks.
TILES, CHUNKS = 8, 100


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences of two rows are long; tiles have one warp and short segments: few rows make several of them."""
    monkeypatch.setattr(launch, "SPLIT_ROWS", 2)
    monkeypatch.setattr(launch, "TILE_WARPS", 1)
    monkeypatch.setattr(launch, "MAX_SEGMENT", 4)


def plan_of(problem: Problem, num_sms: int) -> launch.Tiles:
    batch, length, width = problem.x.shape
    parts = 2 if problem.x.is_complex() else 1
    size, pairs = problem.x.element_size() // parts, problem["decay"].is_complex()
    return launch.layout(length, batch, parts * width, size, num_sms, pairs=pairs)


def run(problem: Problem, num_sms: int) -> dict[str, torch.Tensor]:
    """Forward and backward as the operator calls them."""
    device = device_of("triton")
    given = {name: tensor.to(device) for name, tensor in {**problem.tensors, **problem.pulls}.items()}
    x, decay, h0 = given["x"], given["decay"], given.get("h0")
    options: dict[str, Any] = dict(
        reverse=problem.options["reverse"], state_dtype=state_dtype(problem.x.dtype), num_sms=num_sms
    )
    state = options["state_dtype"]
    seq_starts, resets = problem.options["seq_starts"], problem.options["resets"]
    options["resets"] = resets_against(resets, seq_starts, True) if options["reverse"] else resets
    options["reset_to"] = problem.options["reset_to"]
    h, h_last = linear_scan.forward(x, decay, h0, seq_starts, **options)
    grads = linear_scan.backward(given["grad_h"], given["grad_last"].to(state), decay, h, h0, seq_starts, **options)
    results = {
        "h": h,
        "h_last": h_last,
        **{f"grad_{n}": grad for n, grad in zip(("x", "decay", "h0"), grads, strict=True)},
    }
    return {name: result.cpu() for name, result in results.items()}


def whole(problem: Problem) -> dict[str, torch.Tensor]:
    """As `run`, row after row: no multiprocessor wants more programs."""
    assert plan_of(problem, 0).segments == 1
    return run(problem, 0)


def check(problem: Problem, num_sms: int) -> None:
    bounds = problem.bounds()
    slack = rounding_slack("triton", problem.x.dtype)
    ratios = {name: bounds[name].excess(value) / slack for name, value in run(problem, num_sms).items()}
    missed = {name: ratio for name, ratio in ratios.items() if not ratio <= 1}
    assert not missed, f"error over bound: {missed}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("reset_to", [None, "h0", "zero"])
@pytest.mark.parametrize("num_sms", [TILES, CHUNKS])
@pytest.mark.parametrize(("batch", "length", "channels"), [(1, 40, 40), (2, 50, 3)])
def test_time_is_shared_out(
    batch: int, length: int, channels: int, num_sms: int, reset_to: str | None, dtype: torch.dtype, reverse: bool,
    gated: bool,
) -> None:  # fmt: skip
    """To segments, in whole tiles and what is left of one, and to chunks, with summaries of many."""
    problem = linear_problem(batch, length, channels, dtype=dtype, gated=gated, reverse=reverse, reset_to=reset_to)
    tiles = plan_of(problem, num_sms)
    assert tiles.segments > 1 and (tiles.num_chunks > 1) == (num_sms == CHUNKS)
    check(problem, num_sms)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("reset_to", [None, "h0", "zero"])
@pytest.mark.parametrize("num_sms", [TILES, CHUNKS])
def test_time_of_pairs_is_shared_out(
    num_sms: int, reset_to: str | None, gated: bool, reverse: bool, dtype: torch.dtype
) -> None:
    check(linear_problem(1, 40, 40, dtype=dtype, pairs=True, gated=gated, reverse=reverse, reset_to=reset_to), num_sms)


@pytest.mark.parametrize(("pairs", "dtype"), [(False, torch.float32), (False, torch.complex64), (True, torch.float32)])
def test_chunks_without_a_reset_hand_states_on(pairs: bool, dtype: torch.dtype) -> None:
    """Then the products of their decays count, of all segments of a chunk."""
    problem = linear_problem(1, 130, 4, dtype=dtype, pairs=pairs, reset_to="zero")
    resets = torch.zeros(1, 130, dtype=torch.bool)
    resets[0, 3] = True
    sparse = problem.with_(resets=resets)
    assert plan_of(sparse, CHUNKS).num_chunks > 2
    check(sparse, CHUNKS)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("reset_to", [None, "h0", "zero"])
def test_packed_sequences_in_segments(reset_to: str | None, gated: bool, reverse: bool) -> None:
    """A sequence of a few tiles, one of no row, and one that ends within a tile."""
    check(linear_problem(1, 40, 20, gated=gated, reverse=reverse, starts=[0, 25, 25, 28], reset_to=reset_to), TILES)


@pytest.mark.parametrize(("num_sms", "segments"), [(1, 1), (TILES, 2)])
def test_time_is_left_whole_where_channels_are_many(num_sms: int, segments: int) -> None:
    problem = linear_problem(2, 21, 40)
    assert plan_of(problem, num_sms).segments == segments
    check(problem, num_sms)


@pytest.mark.parametrize(("pairs", "dtype"), [(False, torch.complex64), (True, torch.float32), (True, torch.bfloat16)])
@pytest.mark.parametrize("num_sms", [1, TILES, CHUNKS])
def test_a_complex_gate_of_all_channels_is_that_of_each(num_sms: int, pairs: bool, dtype: torch.dtype) -> None:
    problem = linear_problem(2, 9, 32, dtype=dtype, gated=True, shared=True, pairs=pairs)
    copied = run(problem.with_(decay=problem["decay"].repeat(1, 1, 16 if pairs else 32)), num_sms)
    shared = run(problem, num_sms)
    assert all(torch.equal(shared[name], copied[name]) for name in ("h", "h_last"))
    # Backward, rows in flight differ, and with them which products are fused.
    bounds, slack = problem.bounds(), problem.slack("triton")
    for name in ("grad_x", "grad_h0"):
        assert max(bounds[name].excess(found[name]) for found in (copied, shared)) <= slack


@pytest.mark.parametrize("width", [16, 32])
@pytest.mark.parametrize("num_sms", [1, TILES, CHUNKS])
@pytest.mark.parametrize("gated", [False, True])
def test_rows_of_few_bytes(gated: bool, num_sms: int, width: int) -> None:
    """Aligned rows that fill less than the narrowest part of a block."""
    check(linear_problem(1, 40, width, dtype=torch.bfloat16, gated=gated), num_sms)


@pytest.mark.parametrize("length", range(17, 33))
def test_every_remainder(length: int) -> None:
    check(linear_problem(1, length, 3, gated=length % 2 == 0), CHUNKS if length % 4 < 2 else TILES)


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
    split, unsplit = run(problem, CHUNKS), whole(problem)
    for name in split:
        assert torch.equal(split[name], unsplit[name]), name


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("decay", [1e-40, -1e-40, -0.9, 1 - 1e-6])
def test_decays_of_any_kind(decay: float, gated: bool) -> None:
    problem = linear_problem(1, 24, 3, gated=gated)
    check(problem.with_(decay=torch.full_like(problem["decay"], decay)), 100)


def _power(decay_ptr: Any, power_ptr: Any, exponent: Any, COMPLEX: tl.constexpr, BLOCK_D: tl.constexpr) -> None:
    """`decay ** exponent` of BLOCK_D numbers."""
    d = tl.arange(0, BLOCK_D)[None, :]
    tl.store(power_ptr + d, power(tl.load(decay_ptr + d), exponent, COMPLEX=COMPLEX))


# Called rather than written above the function: the decorator carries no types.
power_kernel = triton.jit(_power)


@pytest.mark.parametrize("length", [1000, 2**20])
def test_powers_of_a_decay_are_not_rounded_on_the_way(length: int) -> None:
    """A slow decay's power over a chunk, as near to the exact one as float32 has room for; so is a turn's.

    Every squaring in float64 doubles the errors before it and adds one: less than `length` roundings of 2^-53.
    """
    roundings = 2**-24 + length * 2**-53

    def powers(numbers: torch.Tensor, is_complex: bool) -> torch.Tensor:
        numbers = numbers.to(device_of("triton"))
        result = torch.empty_like(numbers)
        power_kernel[(1,)](numbers, result, length, COMPLEX=is_complex, BLOCK_D=numbers.numel())
        return result.cpu()

    decay = torch.tensor([1 - 1e-6, 1 + 1e-6, -(1 - 2e-6), 1.0, 0.0, 0.5, -0.5, -1.0])
    exact = torch.tensor([float(Decimal(number) ** length) for number in decay.tolist()], dtype=torch.float64)
    smallest = 2.0**-149
    torch.testing.assert_close(powers(decay, False).double(), exact, rtol=roundings, atol=smallest)
    assert powers(decay[-3:-1].repeat(2), False).abs().min() == smallest  # never 0
    turn = torch.view_as_real(torch.polar(torch.tensor([1 - 1e-6, 1.0]), torch.tensor([0.3, -2.0]))).flatten()
    actual = torch.view_as_complex(powers(turn, True).unflatten(0, (2, 2)))
    number = torch.view_as_complex(turn.double().unflatten(0, (2, 2)))
    expected = torch.polar(number.abs().pow(length), number.angle() * length)
    # The argument times `length` is rounded, and so is the modulus before it is raised.
    slack = 2**0.5 * (roundings + 8 * length * 2**-53)
    assert ((actual - expected).abs() <= slack * expected.abs()).all()


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
    split, unsplit = run(problem.with_(x=x), CHUNKS)["h"], whole(problem.with_(x=x))["h"]
    assert torch.equal(split.isnan(), unsplit.isnan())
    assert torch.equal(split.isinf(), unsplit.isinf())


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("num_sms", [0, TILES, CHUNKS])
def test_nothing_crosses_a_reset(num_sms: int, dtype: torch.dtype) -> None:
    """Neither infinities nor NaN nor products that overflow, in both directions."""
    problem = linear_problem(1, 36, 3, gated=True, dtype=dtype, reset_to="h0")
    x, grad_h, resets = problem.x.clone(), problem["grad_h"].clone(), torch.zeros(1, 36, dtype=torch.bool)
    resets[0, 18] = True
    decay = torch.full_like(problem["decay"], 1e30)
    decay[0, 12:26] = problem["decay"][0, 12:26]
    x[0, 2, 0], x[0, 10, 1] = torch.inf, torch.nan
    grad_h[0, 26, 0], grad_h[0, 29, 1] = torch.inf, torch.nan
    found = run(problem.with_(x=x, decay=decay, grad_h=grad_h, resets=resets), num_sms)
    assert found["h"][0, 18:26].isfinite().all() and not found["h"][0, 17].isfinite().all()
    assert found["grad_x"][0, 12:18].isfinite().all() and not found["grad_x"][0, 18].isfinite().all()


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("num_sms", [TILES, CHUNKS])
@pytest.mark.parametrize("decay", [1e-30, -1e-30])
def test_infinity_outlives_the_smallest_product(decay: float, num_sms: int, gated: bool) -> None:
    """The product of a segment's decays underflows; infinity times any of them is infinite all the same."""
    problem = linear_problem(1, 36, 3, gated=gated)
    x = problem.x.clone()
    x[0, 2, 0] = torch.inf
    problem = problem.with_(x=x, decay=torch.full_like(problem["decay"], decay))
    assert torch.equal(run(problem, num_sms)["h"], whole(problem)["h"])


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("num_sms", [TILES, CHUNKS])
def test_nothing_grows_out_of_nothing(num_sms: int, gated: bool) -> None:
    """The product of a segment's decays overflows; the zero state in front of it stays zero."""
    problem = linear_problem(1, 36, 3, gated=gated)
    zeros = torch.zeros_like(problem.x)
    problem = problem.with_(x=zeros, h0=torch.zeros_like(problem["h0"]), decay=torch.full_like(problem["decay"], 1e30))
    problem = problem.with_(grad_h=zeros, grad_last=torch.zeros_like(problem["grad_last"]))
    assert all(not result.any() for result in run(problem, num_sms).values())


def _join(x_ptr: Any, out_ptr: Any, CUT: tl.constexpr) -> None:
    i = tl.arange(0, 2)
    x: Any = ()
    for k in tl.static_range(16):
        x = x + (tl.load(x_ptr + 2 * k + i),)  # noqa: RUF005 - Triton unpacks no tuples
    if CUT:
        joined = _join_complex_cut(
            x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], x[8], x[9], x[10], x[11], x[12], x[13], x[14], x[15]
        )
    else:
        joined = _join_complex(
            x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], x[8], x[9], x[10], x[11], x[12], x[13], x[14], x[15]
        )
    for k in tl.static_range(8):
        tl.store(out_ptr + 2 * k + i, joined[k])


join_kernel = triton.jit(_join)


@pytest.mark.parametrize("cut", [False, True])
def test_ranges_of_complex_segments_are_joined(cut: bool) -> None:
    """Any two of them, as a GPU does; Triton's interpreter appends one segment at a time. Cut, a product of 0 forgets
    what was lost before.
    """
    given = torch.randn(8, 2, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    if cut:
        given[[4, 6], 1], given[1, 1] = 0, torch.nan
    a, e, _, _, b, f, b_but, f_but = given
    expected = torch.stack((a * b, b * e + f, a * b_but, b_but * e + f_but))
    if cut:
        expected[:, 1] = torch.stack((b[1], f[1], b_but[1], f_but[1]))
    parts = torch.view_as_real(given).transpose(1, 2).reshape(16, 2).contiguous().to(device_of("triton"))
    found = parts.new_empty(8, 2)
    join_kernel[(1,)](parts, found, CUT=cut)
    torch.testing.assert_close(found.cpu(), torch.view_as_real(expected).transpose(1, 2).reshape(8, 2))

"""The linear scan on the CPU where size matters: long sequences, several threads, offsets beyond 32 bits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scan_cases import BACKENDS, CPU_BACKENDS, decays, device_of, linear_problem, normal, rnn_problem

from cofm_triton import reference
from cofm_triton.cpu.blocked.linear_scan import scan
from cofm_triton.functional import linear_scan
from cofm_triton.ops.backends import INSTALLED

needs_numba = pytest.mark.skipif(not INSTALLED["numba"], reason="numba is not installed")


@pytest.fixture
def threads() -> Iterator[None]:
    """PyTorch's number of threads, put back after the test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("drive", ["ones", "noise"])
@pytest.mark.parametrize("gated", [False, True])
def test_a_million_slow_steps(gated: bool, drive: str, backend: str) -> None:
    """As close to float64 as the sequential float32 recurrence, and to 1e-5 of the rms where that is closer."""
    length, decay = 1_000_000, torch.tensor([1 - 1e-6])
    x = torch.ones(1, length, 1) if drive == "ones" else normal(1, length, 1)
    a = decay.item()
    exact = np.fromiter(itertools.accumulate(x.flatten().tolist(), lambda h, v: a * h + v), np.float64, length)
    single = np.float32(a)
    sequential = np.fromiter(itertools.accumulate(x.flatten().numpy(), lambda h, v: single * h + v), np.float32, length)
    h, _ = linear_scan(x, decay.expand(x.shape) if gated else decay, backend=backend)
    ours = np.abs(h.flatten().double().numpy() - exact).max()
    theirs = np.abs(sequential.astype(np.float64) - exact).max()
    assert ours <= max(1.1 * theirs, 1e-5 * np.sqrt(np.mean(exact**2)))


@needs_numba
@pytest.mark.parametrize("shape", [(1, 3000, 40), (3, 1500, 40), (1, 1500, 72), (5, 700, 40)])
@pytest.mark.parametrize("kind", ["linear", "gated", "reverse", "rnn"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_do_not_change_states(
    dtype: torch.dtype, kind: str, shape: tuple[int, int, int], threads: None
) -> None:
    if kind == "rnn":
        problem = rnn_problem(*shape, dtype=dtype)
    else:
        problem = linear_problem(*shape, dtype=dtype, gated=kind == "gated", reverse=kind == "reverse")
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(problem.run("numba"))
        assert all(torch.equal(results[-1][name], value) for name, value in problem.run("numba").items())
    for other in results[1:]:
        for name, value in results[0].items():
            if name in ("grad_decay", "grad_rate") and kind != "gated":
                # Parts are summed by themselves first: another order, of T * B terms as near to equal as their sum.
                scale = value.abs().max() * unit_roundoff_of(value) * shape[0] * shape[1]
                assert (other[name] - value).abs().max() <= scale
            else:
                assert torch.equal(other[name], value), name


def unit_roundoff_of(tensor: torch.Tensor) -> float:
    return torch.finfo(tensor.dtype).eps / 2


@needs_numba
@pytest.mark.parametrize("starts", [[0, 1200], [0, 0, 100, 2999, 2999], [0, 600, 1200, 1800, 2400]], ids=str)
def test_packed_sequences_on_several_threads(starts: list[int], threads: None) -> None:
    problem = linear_problem(1, 3000, 40, starts=starts)
    torch.set_num_threads(1)
    alone = problem.run("numba")
    torch.set_num_threads(2)
    together = problem.run("numba")
    assert all(torch.equal(alone[name], together[name]) for name in ("h", "h_last", "grad_x", "grad_h0"))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_calls_from_several_threads(backend: str) -> None:
    flags = itertools.product((False, True), repeat=2)
    cases = [linear_problem(2, 1000, 40, gated=gated, reverse=reverse) for gated, reverse in flags]
    expected = [problem.run(backend) for problem in cases]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for results, wanted in zip(pool.map(lambda problem: problem.run(backend), cases), expected, strict=True):
                assert all(torch.equal(results[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_beyond_two_to_the_31(backend: str) -> None:
    """A view of a few rows, 2^30 numbers apart, of memory that is never touched in between."""
    if backend == "triton":
        if device_of(backend).type == "cpu":
            pytest.skip("Triton's interpreter takes a stride below 2^31 for 32 bits, declared tl.int64 or not")
        if torch.cuda.mem_get_info()[0] < 2**34:
            pytest.skip("needs 16 GB of GPU memory")
    stride = 2**30
    storage = torch.empty(4 * stride, dtype=torch.bfloat16, device=device_of(backend))
    x, gates = (storage[offset:].as_strided((1, 4, 3), (1, stride, 1)) for offset in (0, 64))
    x.copy_(normal(1, 4, 3))
    gates.copy_(decays(1, 4, 3))
    assert (3 * stride) > 2**31
    h, h_last = linear_scan(x, gates, backend=backend)
    wanted, wanted_last = linear_scan(x.contiguous(), gates.contiguous(), backend=backend)
    assert torch.equal(h, wanted)
    assert torch.equal(h_last, wanted_last)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 8, 9, 10, 15, 16, 17, 99, 100, 101])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_blocks_of_any_length(length: int, gated: bool, reverse: bool) -> None:
    linear_problem(2, length, 3, gated=gated, reverse=reverse, dtype=torch.float64).check("torch")


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_of_decays_beyond_the_range_of_their_dtype(dtype: torch.dtype, reverse: bool) -> None:
    """Over a block of 100 steps in which a state is 0, grows from tiny, shrinks from huge, or is forgotten."""
    block, tiny = 100, torch.finfo(dtype).tiny
    growth = tiny ** (-1 / 60)  # to the power of 100 beyond 1 / tiny, and tiny times that is not
    start = torch.tensor([[0.0, tiny, 1 / tiny, 0.5]], dtype=dtype)
    x = torch.zeros(1, block**2, 4, dtype=dtype)
    x[:, 90, 0] = 1.0
    decay = torch.full_like(x, 0.9)
    decay[:, :block] = torch.tensor([growth, growth, 1 / growth, growth], dtype=dtype)
    decay[:, 30, 3] = 0.0
    if reverse:
        x, decay = x.flip(1), decay.flip(1)
    h = scan(x, decay, start, reverse, dtype)
    wanted, _ = reference.linear_scan(x, decay, start, reverse=reverse)
    assert wanted.isfinite().all()
    # Two roundings a step, until a state is as small as rounding is
    torch.testing.assert_close(h, wanted, rtol=2 * block * torch.finfo(dtype).eps, atol=2 * block * tiny)


def test_an_infinite_state_stays_infinite_whatever_it_decays_by() -> None:
    x, decay = torch.zeros(1, 10_000, 2), torch.tensor([1e-30, 0.0])
    h = scan(x, decay, torch.full((1, 2), torch.inf), False, torch.float32)
    assert bool((h[..., 0] == torch.inf).all()) and bool(h[..., 1].isnan().all())


def test_blocked_scan_leaves_its_arguments_alone() -> None:
    x, decay, start = normal(2, 10, 3), decays(2, 10, 3), normal(2, 3, seed=2)
    copies = [t.clone() for t in (x, decay, start)]
    for reverse in (False, True):
        scan(x, decay, start, reverse, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip((x, decay, start), copies, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_backward_leaves_its_arguments_alone(backend: str) -> None:
    for problem in (
        linear_problem(2, 20, 3),
        linear_problem(2, 20, 3, gated=True, reverse=True),
        rnn_problem(2, 20, 3),
    ):
        tensors = [*problem.tensors.values(), *problem.pulls.values()]
        copies = [t.clone() for t in tensors]
        problem.run(backend)
        assert all(torch.equal(a, b) for a, b in zip(tensors, copies, strict=True))


@needs_numba
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("shape", [(2, 9, 1), (1, 9, 1), (1, 9, 6), (2, 1, 6)], ids=str)
def test_gates_are_read_where_they_are(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    from cofm_triton.cpu.jit.rows import gate_rows

    gates = decays(*shape, dtype=dtype)
    rows = gate_rows(gates, (2, 9, 6))
    assert rows.base == gates.data_ptr()
    assert rows.sample.ndim == (0 if shape[2] == 1 else 1)
    assert gate_rows(gates.expand(2, 9, 6), (2, 9, 6)).base == gates.data_ptr()


@needs_numba
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_pairs_are_read_where_they_are(dtype: torch.dtype) -> None:
    from cofm_triton.cpu.jit.rows import as_numbers, as_pairs

    x = normal(2, 9, 8, dtype=dtype)
    rows = x[:, ::2, 2:6]
    assert as_pairs(rows).data_ptr() == rows.data_ptr()
    for apart in (x[..., 1:5], x.transpose(1, 2)[..., :8], normal(2, 9, 5, dtype=dtype)[..., :4]):
        assert torch.equal(as_numbers(as_pairs(apart), dtype), apart)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_non_finite_numbers_in_pairs(value: float, backend: str) -> None:
    """Of sixteen bits, rounded two at a time."""
    x = torch.zeros(1, 3, 4, dtype=torch.bfloat16)
    x[0, 1, 1], x[0, 1, 2] = value, value
    h, _ = linear_scan(x, torch.zeros(2, dtype=torch.complex64), backend=backend)
    torch.testing.assert_close(h[:, :2], x[:, :2], rtol=0, atol=0, equal_nan=True)
    assert h[0, 2].isnan().all()


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("width", [3, 70])  # a row in registers; blocks of 32 channels and what they leave
def test_empty_sequences_touch_no_row(width: int, gated: bool, backend: str) -> None:
    linear_problem(1, 30, width, gated=gated, starts=[0, 0, 7, 7, 30]).check(backend)

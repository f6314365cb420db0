"""The recurrences on every backend against their definitions: values and gradients, within the derived bounds."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_cases import (
    BACKENDS,
    COMPLEX,
    COMPLEX_BACKENDS,
    CPU_BACKENDS,
    REAL,
    SEQUENTIAL_BACKENDS,
    TRITON,
    Problem,
    decays,
    dense_problem,
    device_of,
    for_backends,
    linear_problem,
    normal,
    paired_problem,
    rnn_problem,
)
from torch import Tensor

import cofm_triton as cofm
from cofm_triton import reference
from cofm_triton.functional import dense_rnn, linear_scan, rnn_scan
from cofm_triton.ops.backends import INSTALLED
from cofm_triton.ops.checks import RESET_TO
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.step.activations import NONLINEARITIES

SHAPES = (
    *itertools.product((2,), (0, 1, 2, 7, 8, 33), (1, 3, 40, 129)),
    *itertools.product((2,), (3, 4, 5, 6, 9), (3,)),
    (1, 300, 3),
    (2, 300, 129),
    (0, 4, 2),
)
# Triton's interpreter does about ten thousand rows a second: there, every remainder of a block, and every width once.
FEW_SHAPES = (*((2, length, 3) for length in range(10)), (2, 33, 40), (1, 33, 1), (1, 17, 129), (1, 300, 3), (0, 4, 2))
SHAPES_BY_BACKEND = for_backends(CPU_BACKENDS, SHAPES) + for_backends(TRITON, FEW_SHAPES)


def nonlinear(shapes: Sequence[Any]) -> list[tuple[Any, str]]:
    """A step's rule does not see the width: code for every width is compiled for one nonlinearity."""
    return [(s, act) for s, act in itertools.product(shapes, NONLINEARITIES) if act == "tanh" or s[2] in (3, 129)]


NONLINEAR = for_backends(CPU_BACKENDS, nonlinear(SHAPES)) + for_backends(TRITON, nonlinear(FEW_SHAPES))
# Ordinary, single-step and empty sequences, at both ends too.
STARTS = ([0], [0, 7, 19, 27, 93], [0, 0, 3, 3, 10], [0, 1, 2, 50, 100, 100])


def equal(a: Tensor, b: Tensor) -> bool:
    """The same numbers in the same dtype, NaN where the other has NaN."""
    return a.dtype == b.dtype and bool(((a == b) | (a.isnan() & b.isnan())).all())


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    different = [name for name in a if not equal(a[name], b[name])]
    assert not different


# Shapes, dtypes, strides


@pytest.mark.parametrize(("backend", "shape"), SHAPES_BY_BACKEND)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_linear_scan_of_any_shape(shape: tuple[int, int, int], reverse: bool, gated: bool, backend: str) -> None:
    linear_problem(*shape, gated=gated, reverse=reverse).check(backend)


@pytest.mark.parametrize(("backend", "case"), NONLINEAR)
def test_rnn_scan_of_any_shape(case: tuple[tuple[int, int, int], str], backend: str) -> None:
    shape, nonlinearity = case
    rnn_problem(*shape, nonlinearity=nonlinearity).check(backend)


@pytest.mark.parametrize(("backend", "dtype"), for_backends(BACKENDS, REAL) + for_backends(COMPLEX_BACKENDS, COMPLEX))
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_linear_scan_of_any_dtype(dtype: torch.dtype, backend: str, gated: bool, states: bool, reverse: bool) -> None:
    linear_problem(2, 33, 40, dtype=dtype, gated=gated, states=states, reverse=reverse).check(backend)


@pytest.mark.parametrize(("backend", "dtype"), for_backends(BACKENDS, REAL))
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("states", [False, True])
def test_rnn_scan_of_any_dtype(dtype: torch.dtype, backend: str, nonlinearity: str, states: bool) -> None:
    rnn_problem(2, 33, 40, dtype=dtype, nonlinearity=nonlinearity, states=states).check(backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gated", [False, True])
def test_companions_in_either_dtype(gated: bool, dtype: torch.dtype, backend: str) -> None:
    problem = linear_problem(2, 9, 40, dtype=dtype, gated=gated)
    other = state_dtype(dtype) if gated else dtype  # gates in float32, a decay in 16 bits
    problem.with_(decay=problem["decay"].to(other)).check(backend)
    problem.with_(h0=problem["h0"].to(dtype), grad_last=problem["grad_last"].to(dtype)).check(backend)
    nonlinear = rnn_problem(2, 9, 40, dtype=dtype)
    nonlinear.with_(h0=nonlinear["h0"].to(dtype), grad_last=nonlinear["grad_last"].to(dtype)).check(backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sixteen_bit_states_do_not_stall(backend: str) -> None:
    # A bfloat16 state of ones stalls at 256.
    x = torch.ones(1, 700, 1, dtype=torch.bfloat16, device=device_of(backend))
    h, h_last = linear_scan(x, torch.ones(1, device=x.device), torch.zeros(1, 1, device=x.device), backend=backend)
    assert h_last.item() == 700
    assert abs(h[0, -1, 0].item() - 700) <= 4
    _, h_last = rnn_scan(
        x, torch.zeros(1, device=x.device), torch.zeros(1, 1, device=x.device), nonlinearity="relu", backend=backend
    )
    assert h_last.item() == 700


LAYOUTS = {
    "time first": lambda b, t, d, dtype, seed: normal(t, b, d, dtype=dtype, seed=seed).transpose(0, 1),
    "channels first": lambda b, t, d, dtype, seed: normal(b, d, t, dtype=dtype, seed=seed).transpose(1, 2),
    "batch last": lambda b, t, d, dtype, seed: normal(d, t, b, dtype=dtype, seed=seed).permute(2, 1, 0),
    "sliced": lambda b, t, d, dtype, seed: normal(2 * b, 3 * t, 2 * d + 1, dtype=dtype, seed=seed)[1::2, ::3, 1::2],
    "rows apart": lambda b, t, d, dtype, seed: normal(b, t, 2 * d, dtype=dtype, seed=seed)[:, :, d:],
    "one sequence": lambda b, t, d, dtype, seed: normal(1, t, d, dtype=dtype, seed=seed).expand(b, t, d),
    "one step": lambda b, t, d, dtype, seed: normal(b, 1, d, dtype=dtype, seed=seed).expand(b, t, d),
    "one channel": lambda b, t, d, dtype, seed: normal(b, t, 1, dtype=dtype, seed=seed).expand(b, t, d),
    "one number": lambda b, t, d, dtype, seed: normal(1, 1, 1, dtype=dtype, seed=seed).expand(b, t, d),
}


@pytest.mark.parametrize(
    ("backend", "dtype"),
    for_backends(BACKENDS, [torch.float32]) + for_backends(CPU_BACKENDS, [torch.bfloat16]),
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides(layout: str, dtype: torch.dtype, backend: str) -> None:
    make, shape = LAYOUTS[layout], (2, 17, 3)
    states = normal(3, 2, seed=2).t()
    for problem in (
        linear_problem(*shape, dtype=dtype, gated=True),
        rnn_problem(*shape, dtype=dtype, nonlinearity="tanh"),
    ):
        strided = problem.with_(x=make(*shape, dtype, 0), grad_h=make(*shape, dtype, 3), h0=states, grad_last=states)
        if problem.operator.name == "linear_scan":
            strided = strided.with_(decay=make(*shape, dtype, 1).clamp(-1, 1))
        else:
            strided = strided.with_(rate=torch.rand(6, generator=torch.Generator().manual_seed(7))[::2])
        dense = strided.with_(
            **{name: tensor.contiguous() for name, tensor in {**strided.tensors, **strided.pulls}.items()}
        )
        ours, theirs = strided.run(backend), dense.run(backend)
        if backend == "torch" and problem.operator.name != "linear_scan":  # PyTorch sums strided terms in another order
            strided.check(backend)
            del ours["grad_rate"]
        assert_same(ours, theirs)


@pytest.mark.parametrize("backend", COMPLEX_BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_complex_numbers_of_any_strides(layout: str, backend: str) -> None:
    make, shape = LAYOUTS[layout], (2, 17, 3)
    given = {name: make(*shape, torch.complex64, seed) for seed, name in enumerate(("x", "decay", "grad_h"))}
    linear_problem(*shape, dtype=torch.complex64, gated=True).with_(**given).check(backend)


@pytest.mark.parametrize("backend", COMPLEX_BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("step", [0, 2])
def test_time_invariant_decay_of_any_stride(step: int, dtype: torch.dtype, backend: str) -> None:
    decay = decays(1, dtype=dtype).expand(3) if step == 0 else decays(6, dtype=dtype)[::step]
    problem = linear_problem(2, 9, 3, dtype=dtype).with_(decay=decay)
    assert_same(problem.run(backend), problem.with_(decay=decay.contiguous()).run(backend))
    problem.check(backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_packed_starts_of_any_stride(backend: str) -> None:
    for problem in (linear_problem(1, 20, 3, starts=[0, 4, 9]), rnn_problem(1, 20, 3, starts=[0, 4, 9])):
        apart = torch.tensor([0, 77, 4, 77, 9])[::2]
        strided = problem.with_(seq_starts=apart)
        assert_same(strided.run(backend), problem.run(backend))


@pytest.mark.parametrize("backend", COMPLEX_BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_lazily_conjugated_tensors(reverse: bool, backend: str) -> None:
    problem = linear_problem(2, 9, 3, dtype=torch.complex128, gated=True, reverse=reverse)
    lazy = problem.with_(**{name: problem[name].conj() for name in ("x", "decay", "h0", "grad_h")})
    dense = lazy.with_(**{name: lazy[name].resolve_conj() for name in ("x", "decay", "h0", "grad_h")})
    assert_same(lazy.run(backend), dense.run(backend))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "shape",
    [(), (1,), (3,), (1, 3), (9, 1), (9, 3), *itertools.product((1, 2), (1, 9), (1, 3))],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decay_broadcasts(shape: tuple[int, ...], dtype: torch.dtype, backend: str) -> None:
    problem = linear_problem(2, 9, 3, dtype=dtype).with_(decay=decays(*shape, dtype=dtype))
    results = problem.run(backend)
    assert results["grad_decay"].shape == shape
    problem.check(backend)


@pytest.mark.parametrize("backend", COMPLEX_BACKENDS)
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("shape", [(), (1, 2), (9, 1), (9, 2), (2, 9, 1), (1, 9, 2), (2, 1, 2), (2, 1, 1)], ids=str)
def test_complex_decay_broadcasts(shape: tuple[int, ...], pairs: bool, backend: str) -> None:
    problem = (
        linear_problem(2, 9, 4, dtype=torch.bfloat16, pairs=True)
        if pairs
        else linear_problem(2, 9, 2, dtype=COMPLEX[1])
    )
    problem = problem.with_(decay=decays(*shape, dtype=COMPLEX[1]))
    assert problem.run(backend)["grad_decay"].shape == shape
    problem.check(backend)


@pytest.mark.parametrize(
    ("backend", "dtype"),
    for_backends(CPU_BACKENDS, [torch.float32, torch.bfloat16, torch.complex64])
    + for_backends(TRITON, [torch.complex64]),
)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("channels", [6, 70])
def test_gates_shared_by_all_channels(channels: int, batch: int, dtype: torch.dtype, backend: str) -> None:
    """Rows of one vector, and of blocks and a rest; gates of one sequence or of all of them."""
    problem = linear_problem(2, 9, channels, dtype=dtype, gated=True, shared=True)
    problem = problem.with_(decay=problem["decay"][:batch])
    problem.check(backend)
    first, second = problem.run(backend), problem.run(backend)
    assert_same(first, second)
    # An expanded tensor is read where it is, too, and its gradient is not summed.
    whole = problem.with_(decay=problem["decay"].expand(2, 9, channels))
    assert torch.equal(whole.run(backend)["h"], first["h"])
    assert whole.run(backend)["grad_decay"].shape == (2, 9, channels)
    whole.check(backend)


# Pairs of channels


@pytest.mark.parametrize(
    ("backend", "shape"),
    for_backends(CPU_BACKENDS, [(2, 0, 2), (2, 1, 2), (2, 33, 6), (2, 20, 140), (1, 300, 2), (0, 4, 2)])
    + for_backends(TRITON, [(2, 0, 2), (2, 3, 2), (2, 17, 6), (1, 20, 140)]),
)
@pytest.mark.parametrize("reverse", [False, True])
def test_pairs_of_any_shape(shape: tuple[int, int, int], reverse: bool, backend: str) -> None:
    linear_problem(*shape, dtype=torch.bfloat16, pairs=True, reverse=reverse).check(backend)


@pytest.mark.parametrize(("backend", "dtype"), for_backends(BACKENDS, REAL))
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("states", [False, True])
def test_pairs_of_any_dtype(dtype: torch.dtype, backend: str, gated: bool, states: bool) -> None:
    problem = linear_problem(2, 20, 6, dtype=dtype, pairs=True, gated=gated, states=states)
    problem.check(backend)
    problem.with_(h0=problem["h0"].to(dtype) if states else None, grad_last=normal(2, 6, dtype=dtype)).check(backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("starts", STARTS[1:3], ids=str)
def test_packed_pairs(starts: list[int], dtype: torch.dtype, backend: str) -> None:
    linear_problem(1, 100, 4, dtype=dtype, pairs=True, starts=starts).check(backend)


@pytest.mark.parametrize(
    ("backend", "dtype"), for_backends(BACKENDS, [torch.bfloat16]) + for_backends(CPU_BACKENDS, [torch.float32])
)
@pytest.mark.parametrize("layout", [*LAYOUTS, "between pairs", "odd rows"])
def test_pairs_of_any_strides(layout: str, dtype: torch.dtype, backend: str) -> None:
    def make(seed: int) -> Tensor:
        if layout == "between pairs":  # no pair lies where a complex number could
            return normal(2, 17, 6, dtype=dtype, seed=seed)[..., 1:5]
        if layout == "odd rows":
            return normal(2, 17, 5, dtype=dtype, seed=seed)[..., :4]
        return LAYOUTS[layout](2, 17, 4, dtype, seed)

    states = normal(4, 2, seed=2).t()
    problem = linear_problem(2, 17, 4, dtype=dtype, pairs=True)
    strided = problem.with_(x=make(0), grad_h=make(3), h0=states, grad_last=states)
    dense = strided.with_(x=make(0).contiguous(), grad_h=make(3).contiguous(), h0=states.contiguous())
    assert_same(strided.run(backend), dense.run(backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_pairs_are_complex_channels(backend: str) -> None:
    """The same numbers as the scan of a complex tensor, in place of it."""
    problem = linear_problem(2, 33, 6, pairs=True)
    complexes = (problem.x, problem["h0"], problem["grad_h"], problem["grad_last"])
    x, h0, grad_h, grad_last = (torch.view_as_complex(t.unflatten(-1, (-1, 2))) for t in complexes)
    ours = problem.run(backend)
    theirs = problem.with_(x=x, h0=h0, grad_h=grad_h, grad_last=grad_last).run(backend)
    of_pairs = {k: v if k == "grad_decay" else torch.view_as_real(v).flatten(-2) for k, v in theirs.items()}
    assert_same(ours, of_pairs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("part", ["grad_h", "grad_last"])
def test_gradient_through_one_result_only(part: str, backend: str) -> None:
    for problem in (linear_problem(2, 9, 3), linear_problem(2, 9, 3, gated=True, reverse=True), rnn_problem(2, 9, 3)):
        problem.with_(**{part: None}).check(backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wanted", ["x", "factor", "h0"])
def test_gradient_of_one_argument_only(wanted: str, backend: str) -> None:
    for problem in (linear_problem(2, 9, 3), linear_problem(2, 9, 3, gated=True), rnn_problem(2, 9, 3)):
        everything = problem.run(backend)
        arguments = {n: tensor.to(device_of(backend)) for n, tensor in problem.tensors.items()}
        name = wanted if wanted in arguments else next(n for n in ("decay", "rate") if n in arguments)
        leaf = arguments[name].requires_grad_()
        h, h_last = problem.operator.function(*arguments.values(), **problem.options, backend=backend)
        weights = [problem["grad_h"].to(h.device), problem["grad_last"].to(h.device)]
        (grad,) = torch.autograd.grad((h, h_last), leaf, weights)
        assert equal(grad.cpu(), everything[f"grad_{name}"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_steps_return_the_initial_state(backend: str) -> None:
    for problem in (linear_problem(2, 0, 3), linear_problem(2, 0, 3, gated=True), rnn_problem(2, 0, 3)):
        results = problem.run(backend)
        assert results["h"].shape == (2, 0, 3)
        assert equal(results["h_last"], problem["h0"])
        assert equal(results["grad_h0"], problem["grad_last"])
    assert not linear_problem(2, 0, 3, states=False).run(backend)["h_last"].any()


# Packed sequences


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("starts", STARTS, ids=str)
def test_packed_linear_scan(starts: list[int], states: bool, reverse: bool, gated: bool, backend: str) -> None:
    linear_problem(1, 100, 3, gated=gated, reverse=reverse, states=states, starts=starts).check(backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("nonlinearity", ["tanh", "hardtanh"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("reset_to", [None, "h0", "zero"])
@pytest.mark.parametrize("starts", STARTS, ids=str)
def test_packed_rnn_scan(starts: list[int], reset_to: str | None, gated: bool, nonlinearity: str, backend: str) -> None:
    rnn_problem(1, 100, 3, nonlinearity=nonlinearity, starts=starts, reset_to=reset_to, gated=gated).check(backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("kind", ["gated", "h0", "pairs zero", "exact gated h0"])
@pytest.mark.parametrize("states", [False, True])
def test_rates_that_vary_and_resets(states: bool, kind: str, dtype: torch.dtype, backend: str) -> None:
    reset_to = next((word for word in ("h0", "zero") if word in kind), None)
    options: dict[str, Any] = dict(dtype=dtype, nonlinearity="tanh", states=states, reset_to=reset_to)
    if "exact" in kind:
        options.update(parameterization="softplus", discretization="exact")
    wide = kind == "gated" and dtype == torch.float32
    shape = (2, 9, 131) if wide else (2, 37, 3)
    if "pairs" in kind:
        problem = paired_problem(*shape, **options)
    else:
        problem = rnn_problem(*shape, gated="gated" in kind, **options)
    (problem if states else problem.strided()).check(backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_every_raw_rate_of_every_step_keeps_the_state_bounded(nonlinearity: str, backend: str) -> None:
    """h[t] lies between h[t-1] and x[t] / rate[t], up to the roundings of a step."""
    device = device_of(backend)
    w, x = 20 * normal(1, 60, 8, dtype=torch.float64, seed=1), 3 * normal(1, 60, 8, dtype=torch.float64)
    h, _ = rnn_scan(
        x.to(device), w.to(device), nonlinearity=nonlinearity, parameterization="softplus", discretization="exact",
        dt=0.5, backend=backend,
    )  # fmt: skip
    h, rate = h.cpu(), reference.effective_rate(reference.parameterization("softplus").rate(w), 0.5, "exact")
    before = torch.cat((torch.zeros_like(h[:, :1]), h[:, :-1]), 1)
    limit = torch.maximum(before.abs(), (x / rate).abs())
    assert bool((h.abs() <= limit * (1 + 16 * torch.finfo(h.dtype).eps)).all())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("starts", [[0], [0, 0, 0]], ids=str)
def test_packed_sequences_without_steps(starts: list[int], backend: str) -> None:
    for problem in (linear_problem(1, 0, 3, starts=starts), rnn_problem(1, 0, 3, starts=starts)):
        results = problem.run(backend)
        assert equal(results["h_last"], problem["h0"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_packed_starts_of_either_integer(backend: str) -> None:
    problem = linear_problem(1, 100, 3, starts=STARTS[1])
    narrow = problem.with_(seq_starts=problem.options["seq_starts"].int())
    assert_same(problem.run(backend), narrow.run(backend))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["linear", "gated", "reverse", "rnn"])
def test_nothing_passes_a_boundary(kind: str, backend: str) -> None:
    # NaN in one sequence, in values and in gradients, would show anywhere it got to.
    starts, length = [0, 7, 7, 19, 27], 40
    if kind == "rnn":
        problem = rnn_problem(1, length, 3, starts=starts)
    else:
        problem = linear_problem(1, length, 3, starts=starts, gated=kind == "gated", reverse=kind == "reverse")
    clean = problem.run(backend)
    poisoned = {name: problem[name].clone() for name in ("x", "h0", "grad_h", "grad_last")}
    poisoned["x"][:, 7:19] = poisoned["grad_h"][:, 7:19] = torch.nan
    poisoned["h0"][2] = poisoned["grad_last"][2] = torch.nan
    if kind == "gated":
        gates = problem["decay"].clone()
        gates[:, 7:19] = torch.nan
        problem = problem.with_(decay=gates)
    dirty = problem.with_(**poisoned).run(backend)
    for name in ("h", "grad_x"):
        assert dirty[name][:, 7:19].isnan().all()
        assert torch.equal(dirty[name][:, :7], clean[name][:, :7])
        assert torch.equal(dirty[name][:, 19:], clean[name][:, 19:])
    for name in ("h_last", "grad_h0"):
        assert dirty[name][2].isnan().all()
        assert torch.equal(dirty[name][[0, 1, 3, 4]], clean[name][[0, 1, 3, 4]])
    if kind == "gated":
        assert torch.equal(dirty["grad_decay"][:, 19:], clean["grad_decay"][:, 19:])


@pytest.mark.parametrize("backend", SEQUENTIAL_BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_packed_is_one_by_one(gated: bool, reverse: bool, backend: str) -> None:
    starts, length = [0, 7, 7, 19, 27], 40
    problem = linear_problem(1, length, 3, gated=gated, reverse=reverse, starts=starts)
    packed = problem.run(backend)
    for i, (a, b) in enumerate(itertools.pairwise([*starts, length])):
        alone = problem.with_(
            x=problem.x[:, a:b],
            decay=problem["decay"][:, a:b] if gated else problem["decay"],
            h0=problem["h0"][i : i + 1],
            grad_h=problem["grad_h"][:, a:b],
            grad_last=problem["grad_last"][i : i + 1],
            seq_starts=None,
        ).run(backend)
        for name in ("h", "grad_x"):
            assert torch.equal(packed[name][:, a:b], alone[name])
        for name in ("h_last", "grad_h0"):
            assert torch.equal(packed[name][i : i + 1], alone[name])


# The state is all that passes from one call to the next


def in_two_calls(problem: Problem, cut: int, backend: str) -> dict[str, Tensor]:
    """The case as two calls, the second one from the state of the first, gradients included."""
    device = device_of(backend)
    x, factor, h0 = (tensor.to(device).detach().requires_grad_() for tensor in problem.tensors.values())
    parts = [slice(0, cut), slice(cut, x.shape[1])]
    if problem.options.get("reverse"):
        parts.reverse()
    state, pieces = h0, {}
    for part in parts:
        here = factor[:, part] if factor.dim() == 3 else factor
        pieces[part.start], state = problem.operator.function(
            x[:, part], here, state, **problem.options, backend=backend
        )
    h = torch.cat([pieces[start] for start in sorted(pieces)], 1)
    weights = [problem["grad_h"].to(device), problem["grad_last"].to(device)]
    grads = torch.autograd.grad((h, state), (x, factor, h0), weights)
    return {"h": h, "h_last": state, **{f"grad_{n}": grad for n, grad in zip(problem.tensors, grads, strict=True)}}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cut", [1, 20])
@pytest.mark.parametrize("kind", ["linear", "gated", "reverse", "tanh", "hardtanh"])
def test_chunk_by_chunk_is_the_whole(kind: str, cut: int, dtype: torch.dtype, backend: str) -> None:
    if kind in NONLINEARITIES and kind != "linear":
        problem = rnn_problem(2, 33, 3, dtype=dtype, nonlinearity=kind)
    else:
        problem = linear_problem(2, 33, 3, dtype=dtype, gated=kind == "gated", reverse=kind == "reverse")
    whole, parts = problem.run(backend), in_two_calls(problem, cut, backend)
    sequential = backend in ("numba", "triton")
    rounded = dtype != torch.float32
    for name in whole:
        summed = name == "grad_rate" or (name == "grad_decay" and kind != "gated")
        # Stored states are rounded to 16 bits, but the state at the cut is handed over in float32, which is closer:
        # gradients that are formed from stored states differ there.
        restored = rounded and (name == "grad_decay" or (kind in ("tanh", "hardtanh") and name.startswith("grad")))
        if sequential and not summed and not restored:
            assert torch.equal(parts[name].cpu(), whole[name]), name
    bounds = problem.bounds()
    # Parts round once more what they sum, and what passes between them in 16 bits not at all: h_last is float32.
    for name, bound in bounds.items():
        assert bound.excess(parts[name].detach().cpu()) <= 2, name


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@settings(max_examples=40)
@given(data=st.data())
def test_linear_scan_of_drawn_arguments(backend: str, data: st.DataObject) -> None:
    batch, length = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 40))
    channels = data.draw(st.sampled_from([1, 3, 40]))  # the compiler is called once per small width
    starts = None
    if data.draw(st.booleans()):
        batch = 1
        starts = [0, *sorted(data.draw(st.lists(st.integers(0, length), max_size=5)))]
    problem = linear_problem(
        batch,
        length,
        channels,
        dtype=data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.complex64])),
        gated=data.draw(st.booleans()),
        states=data.draw(st.booleans()),
        reverse=data.draw(st.booleans()),
        starts=starts,
    )
    problem.check(backend)


# The dense recurrence


@pytest.mark.parametrize(
    ("backend", "nonlinearity"), for_backends(CPU_BACKENDS, NONLINEARITIES) + for_backends(TRITON, NONLINEARITIES)
)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 17, 5), (5, 9, 40)])
def test_dense_rnn_of_any_shape(shape: tuple[int, int, int], nonlinearity: str, backend: str) -> None:
    if backend != "triton" or shape[0] != 5 or nonlinearity == "tanh":
        dense_problem(*shape, nonlinearity=nonlinearity).check(backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("reset_to", [None, *RESET_TO])
def test_dense_rnn_of_any_dtype(reset_to: str | None, states: bool, dtype: torch.dtype, backend: str) -> None:
    problem = dense_problem(2, 9, 20, dtype=dtype, nonlinearity="tanh", states=states, reset_to=reset_to)
    problem.check(backend)
    if dtype.itemsize == 2:  # a weight as narrow as x
        problem.with_(weight=problem["weight"].to(dtype)).check(backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_dense_rnn_of_any_strides(backend: str) -> None:
    problem = dense_problem(3, 6, 5, nonlinearity="tanh", reset_to="h0")
    strided = problem.with_(
        resets=problem.options["resets"].T.contiguous().T,
        x=problem.x.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        weight=problem["weight"].T.contiguous().T,
        h0=problem["h0"].T.contiguous().T,
        grad_h=problem["grad_h"].transpose(0, 1).contiguous().transpose(0, 1),
    )
    strided.check(backend)
    first = problem.run(backend)
    assert_same(problem.run(backend), first)  # repeats are equal bit for bit
    h, h_last = dense_rnn(problem.x[:, :0], problem["weight"], problem["h0"], backend="torch")
    assert h.shape == (3, 0, 5) and torch.equal(h_last, problem["h0"])


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
@pytest.mark.parametrize("reset_to", RESET_TO)
def test_resets_of_dense_rnn_cut_a_sequence_in_pieces(reset_to: str, backend: str) -> None:
    """To the bit, gradients of x and h0 too; also a first step that is a reset, and two resets in a row."""
    device = device_of(backend)
    problem = dense_problem(1, 8, 5, nonlinearity="tanh")
    resets, bounds = torch.zeros(1, 8, dtype=torch.bool, device=device), [0, 3, 4, 8]
    resets[0, bounds[:-1]] = True
    x, h0 = (problem[name].to(device).requires_grad_() for name in ("x", "h0"))
    options: dict[str, Any] = dict(weight=problem["weight"].to(device), nonlinearity="tanh", backend=backend)
    whole = dense_rnn(x, h0=h0, resets=resets, reset_to=reset_to, **options)
    start = h0 if reset_to == "h0" else 0 * h0
    pieces = [dense_rnn(x[:, a:b], h0=start, **options) for a, b in pairwise(bounds)]
    cut = torch.cat([h for h, _ in pieces], 1), pieces[-1][1]
    pulls = [problem[name].to(device) for name in ("grad_h", "grad_last")]
    ours, theirs = (torch.autograd.grad(results, (x, h0), pulls) for results in (whole, cut))
    for a, b in zip((*whole, *ours), (*cut, *theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0 if a.dim() == 3 else 3 * torch.finfo(b.dtype).eps)


# Determinism


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_repeats_are_bitwise_equal(dtype: torch.dtype, backend: str) -> None:
    for problem in (
        linear_problem(2, 33, 40, dtype=dtype),
        linear_problem(2, 33, 40, dtype=dtype, gated=True),
        rnn_problem(2, 33, 40, dtype=dtype),
    ):
        first = problem.run(backend)
        for _ in range(2):
            assert_same(problem.run(backend), first)


# Special values: exact in any order of the same operations, so the definition in the same dtype is met bit for bit

SPECIAL_DECAYS = ((1.0, 0.0, -0.0), (-1.0, 0.5, -0.5), (2.0, 1e-40, 1e-20))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("decays", SPECIAL_DECAYS, ids=str)
def test_special_decays(decays: tuple[float, ...], reverse: bool, gated: bool, backend: str) -> None:
    # Small integers at every other step: nothing is rounded on the way.
    x, h0 = torch.zeros(1, 19, 3), torch.full((1, 3), 3.0)
    x[:, ::4], x[:, 2::4] = 1, -2
    decay = torch.tensor(decays)
    decay = decay.expand(x.shape) if gated else decay
    expected = reference.linear_scan(x, decay, h0, reverse=reverse)
    device = device_of(backend)
    actual = linear_scan(x.to(device), decay.to(device), h0.to(device), reverse=reverse, backend=backend)
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours.cpu(), theirs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("step", [0, 5, 17, 39])
@pytest.mark.parametrize("gated", [False, True])
def test_non_finite_inputs(gated: bool, step: int, value: float, backend: str) -> None:
    device = device_of(backend)
    # Blocks would multiply an infinite state by a power that has underflowed.
    tiny = () if backend == "torch" else (1e-20,)
    for decay in (0.5, -1.0, 0.0, *tiny):
        x, factor = torch.ones(1, 40, 3), torch.full((3,), decay)
        x[0, step, 0] = value
        factor = factor.expand(x.shape) if gated else factor
        expected = reference.linear_scan(x, factor)[0]
        actual = linear_scan(x.to(device), factor.to(device), backend=backend)[0].cpu()
        finite = expected.isfinite()
        assert torch.equal(actual.isnan(), expected.isnan()), decay
        assert torch.equal(actual[~finite].nan_to_num(7.0), expected[~finite].nan_to_num(7.0)), decay
        torch.testing.assert_close(actual[finite], expected[finite], rtol=1e-6, atol=0)


@pytest.mark.parametrize("backend", (*SEQUENTIAL_BACKENDS, *TRITON))
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_non_finite_decays(value: float, backend: str) -> None:
    """Where time lies over lanes, products of infinite decays are NaN where the walk has infinity."""
    device = device_of(backend)
    x, h0 = torch.ones(1, 9, 3), torch.tensor([[1.0, -2.0, 0.0]])
    gates = torch.full((1, 9, 3), 0.5)
    gates[0, 4] = value
    for decay in (torch.tensor([0.5, value, value]), gates):
        expected = reference.linear_scan(x, decay, h0)[0]
        actual = linear_scan(x.to(device), decay.to(device), h0.to(device), backend=backend)[0].cpu()
        if backend != "triton":
            assert equal(actual, expected)
        finite = expected.isfinite()
        assert torch.equal(actual.isfinite(), finite) and torch.equal(actual[finite], expected[finite])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_non_finite_inputs_of_a_nonlinear_scan(nonlinearity: str, backend: str) -> None:
    device = device_of(backend)
    x = torch.zeros(1, 9, 3)
    x[0, 4] = torch.tensor([torch.inf, -torch.inf, torch.nan])
    rate = torch.full((3,), 0.5)
    expected = reference.rnn_scan(x, rate, nonlinearity=nonlinearity)[0]
    actual = rnn_scan(x.to(device), rate.to(device), nonlinearity=nonlinearity, backend=backend)[0].cpu()
    assert torch.equal(actual.isnan(), expected.isnan())
    torch.testing.assert_close(actual, expected, equal_nan=True, rtol=1e-6, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_at_the_kinks_is_zero(backend: str) -> None:
    device = device_of(backend)
    for nonlinearity, kinks in (("hardtanh", [-1.0, 1.0]), ("relu", [0.0])):
        x = torch.tensor(kinks, device=device).reshape(-1, 1, 1).requires_grad_()
        h, _ = rnn_scan(x, torch.zeros(1, device=device), nonlinearity=nonlinearity, backend=backend)
        (slope,) = torch.autograd.grad(h.sum(), x)
        assert not slope.any()


# Arguments

X = torch.zeros(2, 5, 3)
DECAY = torch.zeros(3)
BAD: dict[str, tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = {
    "no tensor": (([1.0], DECAY), {}, TypeError, r"x must be a torch\.Tensor, got list"),
    "no decay": ((X, 0.5), {}, TypeError, r"decay must be a torch\.Tensor, got float"),
    "x of two axes": ((X[0], DECAY), {}, ValueError, r"x must have shape \(B, T, D\) .*got \(5, 3\)"),
    "no channels": ((X[..., :0], DECAY[:0]), {}, ValueError, r"x must have .* D >= 1, got \(2, 5, 0\)"),
    "integers": ((X.int(), DECAY), {}, TypeError, r"x must have one of the dtypes .*got torch\.int32"),
    "decay too short": ((X, DECAY[:2]), {}, ValueError, r"decay must have shape \(D,\).*got \(2,\)"),
    "decay of four axes": ((X, X[None]), {}, ValueError, r"decay must have shape.*got \(1, 2, 5, 3\)"),
    "decay over batch": ((X, X[:, :, :1].expand(2, 5, 1).repeat(2, 1, 1)), {}, ValueError, r"decay .*got \(4, 5, 1\)"),
    "decay dtype": ((X, DECAY.double()), {}, TypeError, r"decay must have the dtype .*got torch\.float64"),
    "decay of a complex x": ((X.to(torch.complex64), DECAY), {}, TypeError, r"decay must .*got torch\.float32"),
    "decay of odd pairs": ((X, DECAY.to(torch.complex64)), {}, ValueError, r"x must have an even .* got D = 3"),
    "decay of wide pairs": (
        (X[..., :2], DECAY[:1].to(torch.complex128)),
        {},
        TypeError,
        r"complex decay must .*complex64 .*complex128",
    ),
    "decay for each of a pair": (
        (X[..., :2], DECAY[:2].to(torch.complex64)),
        {},
        ValueError,
        r"decay .*\(D // 2,\) .*= \(2, 5, 1\), got \(2,\)",
    ),
    "h0 shape": ((X, DECAY, X[0]), {}, ValueError, r"h0 must have shape \(B, D\) = \(2, 3\), got \(5, 3\)"),
    "h0 dtype": ((X, DECAY, X[:, 0].double()), {}, TypeError, r"h0 must have the dtype .*got torch\.float64"),
    "h0 device": ((X, DECAY, X[:, 0].to("meta")), {}, ValueError, r"h0 must be on the device of x, cpu, got meta"),
    "decay device": ((X, DECAY.to("meta")), {}, ValueError, r"decay must be on the device of x, cpu, got meta"),
    "backend": ((X, DECAY), {"backend": "cuda"}, ValueError, r"backend must be None or one of .*got 'cuda'"),
    "packed batch": ((X, DECAY), {"seq_starts": torch.tensor([0])}, ValueError, r"x must have B = 1, got B = 2"),
    "packed list": ((X[:1], DECAY), {"seq_starts": [0]}, TypeError, r"seq_starts must be a torch\.Tensor, got list"),
    "packed dtype": ((X[:1], DECAY), {"seq_starts": torch.tensor([0.0])}, TypeError, r"starts .*got torch\.float32"),
    "packed axes": ((X[:1], DECAY), {"seq_starts": torch.tensor(0)}, ValueError, r"seq_starts must have shape \(S,\)"),
    "packed nothing": ((X[:1], DECAY), {"seq_starts": torch.tensor([]).int()}, ValueError, r"seq_starts .*S >= 1"),
    "packed late": ((X[:1], DECAY), {"seq_starts": torch.tensor([1])}, ValueError, r"seq_starts must start with 0"),
    "packed back": ((X[:1], DECAY), {"seq_starts": torch.tensor([0, 3, 2])}, ValueError, r"not decrease .*\[0, 3, 2\]"),
    "packed beyond": ((X[:1], DECAY), {"seq_starts": torch.tensor([0, 6])}, ValueError, r"up to T = 5, got \[0, 6\]"),
    "packed h0": (
        (X[:1], DECAY, X[:1, 0]),
        {"seq_starts": torch.tensor([0, 2])},
        ValueError,
        r"h0 .*\(S, D\) = \(2, 3\)",
    ),
}


PAIRED = torch.zeros(2, 5, 4)


@pytest.mark.parametrize("name", BAD)
def test_linear_scan_refuses(name: str) -> None:
    arguments, options, error, message = BAD[name]
    with pytest.raises(error, match=message):
        linear_scan(*arguments, **options)


@pytest.mark.parametrize("name", [n for n in BAD if not n.startswith(("decay", "no decay"))])
def test_rnn_scan_refuses(name: str) -> None:
    arguments, options, error, message = BAD[name]
    with pytest.raises(error, match=message):
        rnn_scan(*arguments, **options)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X, DECAY[:2]), {}, ValueError, r"rate must have shape \(D,\) = \(3,\) or .*got \(2,\)"),
        ((X, X[:1]), {}, ValueError, r"rate must have shape \(D,\) = \(3,\) or \(B, T, D\) = .*got \(1, 5, 3\)"),
        ((X, DECAY), {"resets": X[..., 0]}, TypeError, r"resets must have dtype torch\.bool"),
        ((X, DECAY), {"reset_to": "mean"}, ValueError, r"reset_to must be one of .*got 'mean'"),
        ((PAIRED, PAIRED), {"frequency": DECAY[:2]}, ValueError, r"rate must have shape \(D // 2,\)"),
        ((X.to(torch.complex64), DECAY), {}, TypeError, r"x must have one of the dtypes .*got torch\.complex64"),
        ((X, DECAY), {"nonlinearity": "ReLU"}, ValueError, r"nonlinearity must be one of .*got 'ReLU'"),
        ((X, DECAY), {"solver": "parallel"}, ValueError, r"solver must be one of .*got 'parallel'"),
        ((X, DECAY), {"dt": 0.0}, ValueError, r"dt must be finite and positive, got 0\.0"),
        ((X, DECAY), {"dt": float("nan")}, ValueError, r"dt must be finite and positive, got nan"),
        ((X, DECAY), {"dt": "1"}, TypeError, r"dt must be a number, got str"),
        ((X, DECAY), {"dt": True}, TypeError, r"dt must be a number, got bool"),
        ((X, DECAY), {"frequency": DECAY[:1]}, ValueError, r"x must have an even number .*got \(2, 5, 3\)"),
        ((PAIRED, DECAY), {"frequency": DECAY[:2]}, ValueError, r"rate must have shape \(D // 2,\) = .*got \(3,\)"),
        ((PAIRED, DECAY[:2]), {"frequency": DECAY}, ValueError, r"frequency must have shape \(D // 2,\) = \(2,\), "),
        ((PAIRED, DECAY[:2]), {"frequency": 1.0}, TypeError, r"frequency must be a torch.Tensor, got float"),
        ((PAIRED, DECAY[:2]), {"frequency": DECAY[:2].long()}, TypeError, r"frequency must have the dtype of x"),
        ((X, DECAY), {"solver": "newton"}, ValueError, r"solver must be one of .*got 'newton'; 'auto' is parallel"),
    ],
)
def test_rnn_scan_refuses_its_own(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        rnn_scan(*arguments, **options)


WEIGHT = torch.zeros(3, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X[0], WEIGHT), {}, ValueError, r"x must have shape \(B, T, D\) .*got \(5, 3\)"),
        ((X.to(torch.complex64), WEIGHT), {}, TypeError, r"x must have one of the dtypes .*got torch\.complex64"),
        ((X, WEIGHT[:2]), {}, ValueError, r"weight must have shape \(D, D\) = \(3, 3\), got \(2, 3\)"),
        ((X, DECAY), {}, ValueError, r"weight must have shape \(D, D\) = \(3, 3\), got \(3,\)"),
        ((X, WEIGHT.double()), {}, TypeError, r"weight must have the dtype .*got torch\.float64"),
        ((X, WEIGHT.to("meta")), {}, ValueError, r"weight must be on the device of x, cpu, got meta"),
        ((X, [[0.0]]), {}, TypeError, r"weight must be a torch\.Tensor, got list"),
        ((X, WEIGHT, X[0]), {}, ValueError, r"h0 must have shape \(B, D\) = \(2, 3\), got \(5, 3\)"),
        ((X, WEIGHT), {"nonlinearity": "ReLU"}, ValueError, r"nonlinearity must be one of .*got 'ReLU'"),
        ((X, WEIGHT), {"precision": "tf32"}, ValueError, r"precision must be one of \('ieee', 'tf32x3'\), got 'tf32'"),
        ((X, WEIGHT), {"dt": -1}, ValueError, r"dt must be finite and positive, got -1"),
        (
            (X, WEIGHT),
            {"resets": torch.zeros(2, 5)},
            TypeError,
            r"resets must have dtype torch\.bool.*got torch\.float32",
        ),
        ((X, WEIGHT), {"reset_to": "hx"}, ValueError, r"reset_to must be one of \('h0', 'zero'\), got 'hx'"),
        ((X, WEIGHT), {"backend": "gpu"}, ValueError, r"backend must be None or one of .*got 'gpu'"),
    ],
)
def test_dense_rnn_refuses(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        dense_rnn(*arguments, **options)


def test_every_backend_refuses_alike() -> None:
    for backend in ("torch", "reference", *(["numba"] if INSTALLED["numba"] else [])):
        with pytest.raises(ValueError, match=re.escape("h0 must have shape (B, D) = (2, 3), got (1, 3)")):
            linear_scan(X, DECAY, X[:1, 0], backend=backend)


def test_reference_backend_is_the_definition() -> None:
    problem = linear_problem(2, 9, 3)
    assert equal(linear_scan(problem.x, problem["decay"], problem["h0"], backend="reference")[0],
                 reference.linear_scan(problem.x, problem["decay"], problem["h0"])[0])  # fmt: skip
    problem = rnn_problem(2, 9, 3)
    assert equal(rnn_scan(problem.x, problem["rate"], dt=0.5, backend="reference")[0],
                 reference.rnn_scan(problem.x, problem["rate"], dt=0.5)[0])  # fmt: skip
    problem = dense_problem(2, 9, 3)
    assert equal(dense_rnn(problem.x, problem["weight"], dt=0.5, backend="reference")[0],
                 reference.dense_rnn(problem.x, problem["weight"], dt=0.5)[0])  # fmt: skip


@pytest.mark.parametrize("length", [0, 3])
def test_the_definition_keeps_the_digits_of_the_state(length: int) -> None:
    """h_last in h0's dtype, whatever that of x."""
    x, h0, ones = torch.randn(2, length, 3).bfloat16(), torch.randn(2, 3), torch.full((3,), 0.3)
    for run in (
        lambda backend: linear_scan(x, ones, h0, backend=backend),
        lambda backend: rnn_scan(x, ones, h0, backend=backend),
        lambda backend: dense_rnn(x, torch.diag(ones), h0, backend=backend),
    ):
        defined, ours = run("reference")[1], run("torch")[1]
        assert defined.dtype == torch.float32
        torch.testing.assert_close(defined, ours)


def test_nothing_stays_nothing_however_fast_it_would_grow() -> None:
    """Products of decays over many steps overflow, zero states times them do not."""
    x = torch.zeros(1, 20_000, 1)
    x[:, -5:] = 1
    for backend in ("torch", None):
        assert linear_scan(x, torch.tensor([2.0]), backend=backend)[1].item() == 31


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
@pytest.mark.parametrize("paired", [False, True])
def test_numbers_of_a_parameterization(backend: str, paired: bool) -> None:
    """Values and gradients are those of the rates themselves."""
    kind = cofm.parameterization("inverse", a=2.0, b=0.6)
    x, w = torch.randn(2, 7, 4, dtype=torch.float64), torch.randn(2 if paired else 4, dtype=torch.float64)
    options: dict[str, Any] = dict(frequency=torch.rand_like(w)) if paired else {}
    results = []
    for rate, name in ((w.clone().requires_grad_(), kind), (w.clone().requires_grad_(), None)):
        given = rate if name else kind.rate(rate)
        named: dict[str, Any] = dict(parameterization=name) if name else {}
        h, _ = rnn_scan(x, given, discretization="exact", nonlinearity="tanh", backend=backend, **named, **options)
        results.append((h.detach(), *torch.autograd.grad(h.square().sum(), rate)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)

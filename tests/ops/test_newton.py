"""Newton's method on the trajectory: accuracy, iterations, and what happens where it does not converge."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scan_cases import BACKENDS, CPU_BACKENDS, TRITON, Case, device_of, normal, rnn_case
from torch import Tensor
from torch.library import opcheck

from cofm_triton.functional import rnn_scan
from cofm_triton.ops import newton
from cofm_triton.ops import rnn_scan as operator
from cofm_triton.ops.newton import ACCEPTED, MAX_CHANNELS, MAX_ITERATIONS, MIN_STEPS, newton_scan, pays
from cofm_triton.step.nonlinearity import NONLINEARITIES


def solve(case: Case, backend: str = "torch") -> Any:
    options = case.options
    return newton_scan(
        case.x, case.factor, case.h0, options["seq_starts"],
        dt=options["dt"], nonlinearity=options["nonlinearity"], backend=backend,
    )  # fmt: skip


def with_newton(case: Case) -> Case:
    return case.with_(call=partial(rnn_scan, solver="newton"))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_as_accurate_as_the_sequential_kernel(dtype: torch.dtype, nonlinearity: str, backend: str) -> None:
    for shape, starts in (((2, 300, 3), None), ((1, 60, 3), [0, 7, 7, 41, 60])):
        case = rnn_case(*shape, dtype=dtype, nonlinearity=nonlinearity, starts=starts)
        assert solve(case, backend).h is not None
        missed = {name: ratio for name, ratio in with_newton(case).deviations(backend).items() if not ratio <= ACCEPTED}
        assert not missed, f"error over bound: {missed}"


@pytest.mark.parametrize("backend", TRITON)
def test_on_kernels(backend: str) -> None:
    case = rnn_case(1, 9, 3, nonlinearity="tanh")
    assert max(with_newton(case).deviations(backend).values()) <= ACCEPTED


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("size", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("step", [0.01, 0.3, 1.0])
def test_iterations(step: float, size: float, nonlinearity: str) -> None:
    """No more than steps, a handful while units forget slowly, and one for a linear recurrence."""
    rate = torch.full((3,), step, dtype=torch.float64)
    for length in (1, 2, 3, 2000):
        x = size * normal(1, length, 3, dtype=torch.float64)
        h, iterations = newton_scan(x, rate, None, None, dt=1.0, nonlinearity=nonlinearity, backend="torch")
        assert iterations <= length
        if step < 1 or nonlinearity in ("linear", "tanh"):
            assert h is not None
            assert iterations <= {"linear": 1, "relu": 12}.get(nonlinearity, 8 if step < 1 else MAX_ITERATIONS)


def test_quadratic_convergence() -> None:
    """Every iteration of tanh squares the error: from 1e-1 to rounding in 5."""
    x, rate = normal(1, 1000, 3, dtype=torch.float64), torch.full((3,), 0.1, dtype=torch.float64)
    h, iterations = newton_scan(x, rate, None, None, dt=1.0, nonlinearity="tanh", backend="torch")
    assert h is not None
    assert iterations <= 5


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize(("step", "size"), [(1.9, 1.0), (2.5, 0.1), (2.5, 10.0)])
def test_the_sequential_kernel_takes_over(step: float, size: float, nonlinearity: str, backend: str) -> None:
    """Oscillating and diverging recurrences: whatever Newton's method does, the answer is the sequential one."""
    x, rate = size * normal(2, 500, 3), torch.full((3,), step)
    expected = rnn_scan(x, rate, nonlinearity=nonlinearity, solver="sequential", backend=backend)
    results = rnn_scan(x, rate, nonlinearity=nonlinearity, solver="newton", backend=backend)
    if nonlinearity == "linear" and step > 2:
        assert not expected[0].isfinite().all()
    h, _ = newton_scan(x, rate, None, None, dt=1.0, nonlinearity=nonlinearity, backend=backend)
    if h is None:
        for result, exact in zip(results, expected, strict=True):
            torch.testing.assert_close(result, exact, rtol=0, atol=0, equal_nan=True)
    else:
        torch.testing.assert_close(results[0], expected[0], rtol=1e-3, atol=1e-3)
    if nonlinearity in ("tanh", "hardtanh") and step > 2:
        assert h is None


def test_not_a_number_stays_where_it_is() -> None:
    x = normal(1, 20, 2)
    x[0, 10, 0] = torch.nan
    expected, _ = rnn_scan(x, torch.tensor([0.5, 0.5]), solver="sequential")
    h, _ = rnn_scan(x, torch.tensor([0.5, 0.5]), solver="newton")
    torch.testing.assert_close(h, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_operator_keeps_pytorchs_rules(backend: str) -> None:
    x, rate = normal(1, 5, 3).to(device_of(backend)), torch.full((3,), 0.5, device=device_of(backend))
    inputs = (x.requires_grad_(), rate.requires_grad_(), None, None, 0.5, "tanh", backend, "newton")
    opcheck(torch.ops.cofm_triton.rnn_scan.default, inputs)


def test_auto_is_sequential_on_the_cpu_and_for_short_or_wide_tensors() -> None:
    long = torch.empty(1, MIN_STEPS, MAX_CHANNELS, device="meta")
    assert not any(pays(long, None, backend) for backend in ("torch", "numba", "triton"))
    if torch.cuda.is_available():
        assert pays(torch.empty_like(long, device="cuda"), None, "triton")


@pytest.mark.parametrize(
    ("shape", "changes", "expected"),
    [
        ((1, MIN_STEPS, MAX_CHANNELS), {}, True),
        ((2, MIN_STEPS, MAX_CHANNELS // 2), {}, True),
        ((MAX_CHANNELS, MIN_STEPS, 1), {}, True),
        ((1, MIN_STEPS + 1, 1), {}, True),
        ((1, MIN_STEPS - 1, 1), {}, False),
        ((1, MIN_STEPS, MAX_CHANNELS + 1), {}, False),
        ((2, MIN_STEPS, MAX_CHANNELS // 2 + 1), {}, False),
        ((2, MIN_STEPS // 2, 1), {}, False),
        ((1, MIN_STEPS, 1), {"seq_starts": torch.zeros(1, dtype=torch.int64)}, False),
        ((1, MIN_STEPS, 1), {"backend": "torch"}, False),
        ((1, MIN_STEPS, 1), {"device": "cpu"}, False),
        ((1, MIN_STEPS, 1), {"capturing": True}, False),
    ],
)
def test_auto_pays_for_long_sequences_of_few_channels_alone(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], changes: dict[str, Any], expected: bool
) -> None:
    """On a GPU that need not be there, outside of a graph that is being captured."""
    options: dict[str, Any] = {"seq_starts": None, "backend": "triton", "device": "cuda", "capturing": False, **changes}
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: options["capturing"])
    x: Any = SimpleNamespace(shape=torch.Size(shape), device=torch.device(options["device"]))
    assert pays(x, options["seq_starts"], options["backend"]) is expected


@pytest.mark.parametrize(("steps", "accepted"), [(10, True), (11, False), (-9, True), (-11, False)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_residual_of_two_roundings_is_accepted_and_no_more(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, steps: int, accepted: bool
) -> None:
    """One step from 0 to act(1) = 1, of 9 roundings and that of h = 1, so that 2 * 10 * eps / 2 is the largest."""
    h = torch.full((1, 1, 1), 1 + steps * torch.finfo(dtype).eps, dtype=dtype)

    def forward(drive: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, None]:
        return next(results, drive), None

    results = iter([h])
    monkeypatch.setattr(newton, "implementation", lambda backend, name: SimpleNamespace(forward=forward))
    one = torch.ones(1, 1, 1, dtype=dtype)
    found, iterations = newton_scan(one, one[0, 0], None, None, dt=1.0, nonlinearity="linear", backend="torch")
    assert iterations == (0 if accepted else 1)
    assert found is not None and found.item() == (h.item() if accepted else 1)


@pytest.mark.parametrize("backend", TRITON)
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_adjoint_split_in_time(nonlinearity: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator, "MIN_SPLIT_STEPS", 1)
    rnn_case(2, 9, 3, nonlinearity=nonlinearity).check(backend)
    rnn_case(2, 9, 3, nonlinearity=nonlinearity, states=False).check(backend)

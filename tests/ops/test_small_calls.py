"""Small calls on the CPU: the second call of a signature gives what the first one gave, and whoever watches sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from scan_cases import normal, rnn_problem
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import profile

pytest.importorskip("numba")

import cofm_triton as cofm
from cofm_triton import functional
from cofm_triton.ops import small_calls
from cofm_triton.ops.small_calls import Kept, signature_of
from cofm_triton.step.discretization import DISCRETIZATIONS
from cofm_triton.step.parameterization import PARAMETERIZATIONS

Scan = Callable[..., tuple[Tensor, Tensor]]
SCANS: dict[str, Scan] = {
    "linear": cofm.linear_scan,
    "reverse": lambda x, a, h0=None, **options: cofm.linear_scan(x, a, h0, reverse=True, **options),
    "tanh": lambda x, a, h0=None, **options: cofm.rnn_scan(x, a, h0, nonlinearity="tanh", dt=0.5, **options),
    "exp": lambda x, a, h0=None, **options: cofm.rnn_scan(x, a, h0, parameterization="exp", **options),
}


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("_LINEAR", "_RNN"):
        monkeypatch.setattr(functional, name, Kept())
    yield


def _kept() -> list[Any]:
    """What computes small calls that have been seen."""
    return [call for kept in (functional._LINEAR, functional._RNN) for call in kept.calls.values() if call is not None]


def _tensors(started: bool) -> list[Tensor]:
    x, a = normal(2, 5, 4), 0.5 * normal(4).abs()
    return [tensor.requires_grad_() for tensor in ([x, a, normal(2, 4)] if started else [x, a])]


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("asked", ["h", "last", "both"])
def test_results_and_derivatives(asked: str, started: bool, scan: str) -> None:
    """Of first and second order. The first call has passed every check, the following ones none."""

    def found() -> list[Tensor]:
        tensors = _tensors(started)
        h, last = SCANS[scan](*tensors)
        results = {"h": [h], "last": [last], "both": [h, last]}[asked]
        loss = torch.stack([result.square().sum() for result in results])
        slopes = torch.autograd.grad(loss.sum(), tensors, retain_graph=True)
        again = torch.autograd.grad(loss.sum(), tensors, create_graph=True)
        curved = torch.autograd.grad(torch.stack([slope.square().sum() for slope in again]).sum(), tensors)
        with torch.no_grad():
            plain = SCANS[scan](*tensors)
        return [h, last, *slopes, *again, *curved, *plain]

    first = found()
    assert len(_kept()) == 1
    for results in (found(), found()):
        assert all(map(torch.equal, results, first))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_what_rates_are_made_of(parameterization: str, discretization: str, gated: bool) -> None:
    """A call that is kept forms them as the first one did, of every step too; within bounds each time."""
    problem = rnn_problem(
        2, 5, 4, gated=gated, parameterization=parameterization, discretization=discretization, dt=0.3
    )
    first, again = problem.run("numba"), problem.run("numba")
    problem.check("numba", again)
    assert all(map(torch.equal, first.values(), again.values()))


@pytest.mark.parametrize("scan", SCANS)
def test_layouts_that_come_later(scan: str) -> None:
    """Strides, bits that negate on demand, gradients of any layout, and tensors that hooks bring back."""
    x, a = _tensors(False)
    with torch.no_grad():
        expected = SCANS[scan](x, a, backend="torch")[0]
        for other in (x, x, x.mT.contiguous().mT, torch._neg_view(-x), x.double().float()):
            torch.testing.assert_close(SCANS[scan](other, a)[0], expected)
    right = torch.autograd.grad(SCANS[scan](x, a, backend="torch")[0].sum(), (x, a))
    for weights in (torch.ones(2, 5, 4), torch.ones(()).expand(2, 5, 4), torch._neg_view(-torch.ones(2, 5, 4))):
        torch.testing.assert_close(torch.autograd.grad(SCANS[scan](x, a)[0], (x, a), weights), right)
    with saved_tensors_hooks(lambda t: t, lambda t: t.mT.contiguous().mT if t.dim() == 3 else t):
        h = SCANS[scan](x, a)[0]
    torch.testing.assert_close(torch.autograd.grad(h, (x, a), torch.ones(2, 5, 4)), right)
    batched = torch.autograd.grad(SCANS[scan](x, a)[0], (x, a), torch.ones(3, 2, 5, 4), is_grads_batched=True)
    torch.testing.assert_close([grad[0] for grad in batched], list(right))


def test_who_watches_is_let_in() -> None:
    x, a = torch.ones(2, 5, 4), torch.ones(4)
    for _ in range(2):
        cofm.linear_scan(x, a)
    with profile() as seen:
        cofm.linear_scan(x, a)
    assert any("cofm_triton::linear_scan" in event.key for event in seen.key_averages())
    mapped = torch.func.vmap(cofm.linear_scan, (0, None))(x.expand(3, 2, 5, 4), a)[0]
    assert torch.equal(mapped[0], cofm.linear_scan(x, a)[0])
    tangents = torch.func.jvp(lambda x: cofm.linear_scan(x, a)[0], (x,), (x,))[1]
    assert torch.equal(tangents, cofm.linear_scan(x, a)[0])


def test_checks_are_passed_by_what_has_passed_them() -> None:
    """Equal options of other types, or what cannot be looked up, meet the checks."""
    x, a = torch.ones(2, 5, 4), torch.ones(4)
    for _ in range(2):
        cofm.linear_scan(x, a, reverse=True)
        cofm.rnn_scan(x, a, dt=1.0)
    for call in (
        lambda: cofm.linear_scan(x, a, reverse=1.5),  # type: ignore[arg-type]  # wrong on purpose
        lambda: cofm.linear_scan(x, a, reverse=[True]),  # type: ignore[arg-type]  # wrong on purpose
        lambda: cofm.linear_scan(x, a[:3], reverse=True),
        lambda: cofm.linear_scan(x, a.double(), reverse=True),
        lambda: cofm.rnn_scan(x, a, dt=[1.0]),  # type: ignore[arg-type]  # wrong on purpose
        lambda: cofm.rnn_scan(x, a, dt=-1.0),
        lambda: cofm.rnn_scan(x, a, dt=1.0, resets=torch.zeros(2, 4, dtype=torch.bool)),
        lambda: cofm.rnn_scan(None, a, dt=1.0),  # type: ignore[arg-type]  # wrong on purpose
    ):
        with pytest.raises((TypeError, ValueError)):
            call()
    assert signature_of((x, a), (1,)) != signature_of((x, a), (True,))


def test_no_more_is_kept_than_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_calls, "MAX_CALLS", 3)
    for length in range(1, 8):
        cofm.linear_scan(torch.ones(1, length, 4), torch.ones(4))
        assert len(functional._LINEAR.calls) <= 3

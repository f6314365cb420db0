"""When an operator may be called without the wrapper that offers derivatives, and when past the dispatcher."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scan_cases import normal
from torch import Tensor
from torch.autograd.forward_ad import dual_level, make_dual
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

import cofm_triton as cofm
from cofm_triton.ops.derivatives import directly, exporting, keeps, observed, signed, wanted


def test_plain_tensors_want_none() -> None:
    assert not wanted(torch.ones(2), None)


def test_gradients() -> None:
    leaf = torch.ones(2, requires_grad=True)
    assert wanted(torch.ones(2), leaf)
    with torch.no_grad():
        assert not wanted(leaf)
    assert not wanted(leaf.detach())


def test_tangents() -> None:
    with dual_level():
        assert wanted(None, make_dual(torch.ones(2), torch.ones(2)))
    assert not wanted(torch.ones(2))


def test_transforms() -> None:
    seen: list[bool] = []

    def record(x: Tensor) -> Tensor:
        seen.append(wanted(x))
        return x.sum()

    torch.func.grad(record)(torch.ones(2))
    torch.func.vmap(record)(torch.ones(2, 2))
    torch.func.jvp(record, (torch.ones(2),), (torch.ones(2),))
    assert seen == [True, True, True]


def test_plain_calls_are_seen_by_nobody() -> None:
    assert not observed((torch.ones(2), None, 1.0, "numba"))
    assert observed((torch.ones(2), torch.ones(2, requires_grad=True)))
    assert observed((torch.ones(2).as_subclass(type("Own", (Tensor,), {})),))
    assert observed((torch.ones(2, dtype=torch.complex64).conj(),))
    assert observed((torch.ones(2, device="meta"),))


def test_gradients_in_batches_see_the_operator() -> None:
    """They are computed under another `vmap` than that of `torch.func`."""
    x, decay = torch.randn(1, 4, 2, requires_grad=True), torch.rand(2, requires_grad=True)
    h, _ = cofm.linear_scan(x, decay)
    weights = torch.randn(3, *h.shape)
    batched = torch.autograd.grad(h, (x, decay), weights, retain_graph=True, is_grads_batched=True)
    one_by_one = zip(*(torch.autograd.grad(h, (x, decay), w, retain_graph=True) for w in weights), strict=True)
    for together, alone in zip(batched, one_by_one, strict=True):
        torch.testing.assert_close(together, torch.stack(alone))


def test_modes_and_profilers_see_the_operator() -> None:
    operator, seen = torch.ops.cofm_triton.linear_scan.default, []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    x, decay = torch.ones(1, 3, 2), torch.full((2,), 0.5)
    with Watch():
        watched = cofm.linear_scan(x, decay)
    assert operator in seen
    with torch.profiler.profile() as profile:
        profiled = cofm.linear_scan(x, decay)
    assert "cofm_triton::linear_scan" in {event.key for event in profile.key_averages()}
    for results in (watched, profiled):
        assert all(torch.equal(one, other) for one, other in zip(results, cofm.linear_scan(x, decay), strict=True))


def test_tracing_sees_the_operator() -> None:
    def scan(x: Tensor) -> Tensor:
        return cofm.linear_scan(x, torch.full((2,), 0.5))[0]

    graph = make_fx(scan)(torch.ones(1, 3, 2)).graph
    assert torch.ops.cofm_triton.linear_scan.default in {node.target for node in graph.nodes}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*:DeprecationWarning")
def test_jit_tracing_sees_the_operator() -> None:
    x, decay = torch.randn(1, 3, 2), torch.full((2,), 0.5)
    traced = torch.jit.trace(lambda x: cofm.linear_scan(x, decay)[0], x)
    for length in (3, 5):
        x = torch.randn(1, length, 2)
        assert torch.equal(traced(x), cofm.linear_scan(x, decay)[0])


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_exported_and_traced_graphs_hold_operators_and_keep_nothing() -> None:
    seen: list[tuple[bool, bool, bool]] = []

    class Record(torch.nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((exporting(), directly(self.weight), keeps(self.weight)))
            return super().forward(x)

    module, x = Record(2, 2), torch.ones(1, 2)
    module(x)
    torch.export.export(module, (x,))
    torch.jit.trace(module, x, check_trace=False)
    assert seen[0] == (False, False, True)
    assert set(seen[1:]) == {(True, True, False)}


def test_a_signature_is_kept() -> None:
    def forward(*inputs: Any) -> None: ...

    expected = inspect.signature(forward)
    assert inspect.signature(signed(forward)) is vars(forward)["__signature__"] == expected


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("starts", [None, [0, 3, 3]], ids=str)
@pytest.mark.parametrize("scan", [cofm.linear_scan, cofm.rnn_scan])
def test_tangents_wider_than_their_tensors(
    scan: Callable[..., tuple[Tensor, Tensor]], starts: list[int] | None, backend: str
) -> None:
    """PyTorch gives a float32 sum that a number multiplies a float64 tangent, and the gradient one along with it."""
    packed = None if starts is None else torch.tensor(starts)

    def loss(x: Tensor, decay: Tensor, h0: Tensor) -> Tensor:
        h, last = scan(x, decay, h0, seq_starts=packed, backend=backend)
        return torch.exp(0.01 * (h.sum() + last.sum()))

    def product(dtype: torch.dtype) -> tuple[Tensor, ...]:
        inputs = (normal(1, 7, 2, dtype=dtype), normal(2, dtype=dtype, seed=2).sigmoid())
        inputs = (*inputs, normal(1 if starts is None else 3, 2, dtype=dtype, seed=3))  # type: ignore[assignment]
        return torch.func.jvp(torch.func.grad(loss, argnums=(0, 1, 2)), inputs, inputs)[1]

    for narrow, wide in zip(product(torch.float32), product(torch.float64), strict=True):
        # 7 steps of 3 roundings, in numbers of the size of the sum
        torch.testing.assert_close(narrow.double(), wide, rtol=0, atol=21 * 2**-24 * wide.abs().sum().item())

"""Pairs of channels that turn, as PyTorch sees them: derivatives to any order, batching, compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from derivatives import check_alike, check_by_differences
from scan_cases import BACKENDS, CPU_BACKENDS, TRITON, Problem, device_of, for_backends, paired_problem
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, vmap
from torch.library import opcheck

from cofm_triton.functional import rnn_scan
from cofm_triton.step.activations import NONLINEARITIES

STARTS = [0, 2, 2, 5]
OPTIONS: dict[str, Any] = dict(dt=0.7, parameterization="softplus", discretization="exact")


KINDS = ("", "packed", "h0")  # h0 and zero: what resets mean


def problem_of(kind: str, nonlinearity: str, length: int) -> Problem:
    packed, reset_to = "packed" in kind, next((word for word in ("h0", "zero") if word in kind), None)
    return paired_problem(
        1 if packed else 2, length, 2, dtype=torch.float64, nonlinearity=nonlinearity, parameterization="softplus",
        starts=STARTS if packed else None, reset_to=reset_to,
    )  # fmt: skip


def arguments(backend: str, nonlinearity: str, kind: str = "", length: int = 6) -> tuple[Tensor, ...]:
    """x, raw rates, frequencies and h0 in float64, away from kinks."""
    tensors = problem_of(kind, nonlinearity, length).tensors
    return tuple(t.to(device_of(backend)).requires_grad_() for t in tensors.values())


def scan(backend: str, nonlinearity: str, kind: str = "", length: int = 6) -> Callable[..., tuple[Tensor, Tensor]]:
    device, options = device_of(backend), problem_of(kind, nonlinearity, length).options
    options = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in options.items()}

    def run(x: Tensor, rate: Tensor, frequency: Tensor, h0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return rnn_scan(x, rate, h0, frequency=frequency, backend=backend, **options)

    return run


def loss(h_and_last: tuple[Tensor, Tensor]) -> Tensor:
    h, h_last = h_and_last
    return h.square().sum() + h_last.sin().sum()


@pytest.mark.parametrize(
    ("backend", "nonlinearity"), for_backends(CPU_BACKENDS, NONLINEARITIES) + for_backends(TRITON, ["tanh"])
)
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives(kind: str, nonlinearity: str, backend: str) -> None:
    run, inputs = scan(backend, nonlinearity, kind), arguments(backend, nonlinearity, kind)
    if backend == "torch":
        check_by_differences(run, inputs)
    else:
        check_alike(run, scan("torch", nonlinearity, kind), inputs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("length", [0, 1, 6])
def test_results_and_derivatives_are_those_of_the_definition(length: int, nonlinearity: str, backend: str) -> None:
    """Of the fused backward pass, and of the composition that is differentiated once more."""
    inputs = arguments(backend, nonlinearity, length=length)
    runs = [scan(name, nonlinearity) for name in (backend, "reference")]
    torch.testing.assert_close(*(run(*inputs) for run in runs))
    fused = [torch.autograd.grad(loss(run(*inputs)), inputs) for run in runs]
    torch.testing.assert_close(*fused)
    pair = []
    for run in runs:
        first = torch.autograd.grad(loss(run(*inputs)), inputs, create_graph=True)
        squares = torch.stack([g.square().sum() for g in first]).sum()
        pair.append((first, torch.autograd.grad(squares, inputs)))
    torch.testing.assert_close(*pair)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("argument", [0, 1, 2, 3])
def test_forward_and_reverse_mode_agree(argument: int, backend: str) -> None:
    inputs = tuple(t.detach() for t in arguments(backend, "tanh", length=2))
    run = scan(backend, "tanh", length=2)

    def alone(value: Tensor) -> tuple[Tensor, Tensor]:
        return run(*inputs[:argument], value, *inputs[argument + 1 :])

    torch.testing.assert_close(jacfwd(alone)(inputs[argument]), jacrev(alone)(inputs[argument]))


@pytest.mark.parametrize(
    ("backend", "dims"),
    for_backends(CPU_BACKENDS, [(0, None, None, None), (None, 0, None, None), (None, None, 0, None), (1, 1, 1, 1)])
    + for_backends(TRITON, [(None, 0, 0, 0)]),
)
@pytest.mark.parametrize("kind", KINDS)
def test_vmap(kind: str, dims: tuple[int | None, ...], backend: str) -> None:
    size, run = 3, scan(backend, "tanh", kind)
    inputs = [t.detach() for t in arguments(backend, "tanh", kind)]
    mapped = tuple(
        tensor if dim is None else torch.stack([tensor * (1 - 0.1 * i) for i in range(size)], dim)
        for tensor, dim in zip(inputs, dims, strict=True)
    )

    def one(i: int) -> tuple[Tensor, ...]:
        return tuple(t if dim is None else t.select(dim, i) for t, dim in zip(mapped, dims, strict=True))

    gradient = grad(lambda *args: loss(run(*args)), argnums=(0, 1, 2, 3))
    for function in (run, gradient):
        results = vmap(function, in_dims=dims)(*mapped)
        for actual, expected in zip(results, zip(*(function(*one(i)) for i in range(size)), strict=True), strict=True):
            torch.testing.assert_close(actual, torch.stack(expected))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("differentiated", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_operator_keeps_pytorchs_rules(packed: bool, differentiated: bool, backend: str) -> None:
    tensors = [t.detach().float().requires_grad_(differentiated) for t in arguments(backend, "tanh", "packed" * packed)]
    starts = torch.tensor(STARTS) if packed else None
    opcheck(torch.ops.cofm_triton.paired_rnn_scan.default, (*tensors, starts, None, 0.5, "hardtanh", "h0", backend))
    opcheck(
        torch.ops.cofm_triton.paired_rnn_scan.default, (*tensors[:3], None, starts, None, 0.5, "tanh", "h0", backend)
    )


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("length", [0, 6])
def test_backward_operator_keeps_pytorchs_rules(length: int, backend: str) -> None:
    x, alpha, omega, h0 = (t.detach() for t in arguments(backend, "tanh", length=length))
    for last, start in ((h0, h0), (None, None)):
        inputs = (x, last, x, alpha, omega, x, start, None, None, 0.5, "tanh", "h0", backend)
        opcheck(torch.ops.cofm_triton.paired_rnn_scan_backward.default, inputs)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_compiles_as_one_graph(backend: str) -> None:
    def step(x: Tensor, rate: Tensor, frequency: Tensor, h0: Tensor) -> Tensor:
        h, h_last = rnn_scan(x, rate, h0, frequency=frequency, nonlinearity="tanh", backend=backend, **OPTIONS)
        return h.sum() + h_last.square().sum()

    torch._dynamo.reset()
    compiled, inputs = torch.compile(step, fullgraph=True, backend="aot_eager"), arguments(backend, "tanh")
    torch.testing.assert_close(compiled(*inputs), step(*inputs))
    torch.testing.assert_close(
        torch.autograd.grad(compiled(*inputs), inputs), torch.autograd.grad(step(*inputs), inputs)
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_last_state_is_asked_for(backend: str) -> None:
    inputs = arguments(backend, "tanh")
    ours, expected = (
        torch.autograd.grad(scan(name, "tanh")(*inputs)[1].sum(), inputs) for name in (backend, "reference")
    )
    torch.testing.assert_close(ours, expected)

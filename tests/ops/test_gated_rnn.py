"""Gated linear recurrences as PyTorch sees them: derivatives to any order, batching, compilation; errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from derivatives import check_alike, check_by_differences
from scan_cases import BACKENDS, CPU_BACKENDS, TRITON, device_of, for_backends, gated_problem
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, vmap
from torch.library import opcheck

from cofm_triton import gated_rnn
from cofm_triton.evidence.problem import Problem
from cofm_triton.step.gates import GATES

STARTS = [0, 2, 2, 5]


def small(
    gates: str, turning: bool = False, packed: bool = False, length: int = 6, reset_to: str | None = None
) -> Problem:
    """Two channels in float64."""
    return gated_problem(
        1 if packed else 2, length, 2, dtype=torch.float64, gates=gates, turning=turning,
        starts=STARTS if packed else None, reset_to=reset_to,
    )  # fmt: skip


def call(problem: Problem, backend: str) -> tuple[Callable[..., tuple[Tensor, Tensor]], tuple[Tensor, ...]]:
    """A function of the problem's tensors, and these."""
    device = device_of(backend)
    options: dict[str, Any] = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in problem.options.items()}

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        named: dict[str, Any] = dict(zip(problem.tensors, tensors, strict=True))
        return gated_rnn(**named, **options, backend=backend)

    return run, tuple(t.to(device).requires_grad_() for t in problem.tensors.values())


def loss(h_and_last: tuple[Tensor, Tensor]) -> Tensor:
    h, h_last = h_and_last
    return h.square().sum() + h_last.sin().sum()


# Compiled code of each row takes seconds to make, and `tests/cpu` holds every row to its bounds.
@pytest.mark.parametrize(
    ("backend", "gates"), for_backends(["torch"], GATES) + for_backends((CPU_BACKENDS[0], *TRITON), ["rg_lru"])
)
@pytest.mark.parametrize("turning", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("reset_to", [None, "h0", "zero"])
def test_derivatives(reset_to: str | None, packed: bool, turning: bool, gates: str, backend: str) -> None:
    problem = small(gates, turning, packed, reset_to=reset_to)
    run, inputs = call(problem, backend)
    if backend == "torch":
        check_by_differences(run, inputs, fast=True)
    else:
        check_alike(run, call(problem, "torch")[0], inputs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("turning", [False, True])
@pytest.mark.parametrize("length", [0, 1, 6])
@pytest.mark.parametrize("reset_to", [None, "h0", "zero"])
def test_results_and_derivatives_are_those_of_the_definition(
    reset_to: str | None, length: int, turning: bool, gates: str, backend: str
) -> None:
    """Of the fused backward pass, and of the composition that is differentiated once more."""
    problem = small(gates, turning, length=length, reset_to=reset_to)
    (run, inputs), (expected, _) = call(problem, backend), call(problem, "reference")
    runs = [run, expected]
    torch.testing.assert_close(*(one(*inputs) for one in runs))
    options: Any = dict(materialize_grads=True)
    torch.testing.assert_close(*[torch.autograd.grad(loss(one(*inputs)), inputs, **options) for one in runs])
    pair = []
    for one in runs:
        first = torch.autograd.grad(loss(one(*inputs)), inputs, create_graph=True, **options)
        squares = torch.stack([g.square().sum() for g in first]).sum()
        pair.append((first, torch.autograd.grad(squares, inputs, **options)))
    torch.testing.assert_close(*pair)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("packed", [False, True])
def test_vmap(packed: bool, backend: str) -> None:
    """Over some of the arguments: results, gradients, and forward mode against reverse mode."""
    run, inputs = call(small("rg_lru", True, packed, length=5, reset_to="zero"), backend)
    x, *others = (t.detach() for t in inputs)
    mapped, dims = torch.stack([x, 2 * x, -x], 1), (1, *[None] * len(others))
    gradient = grad(lambda *args: loss(run(*args)), argnums=tuple(range(len(inputs))))
    for function in (run, gradient):
        results = vmap(function, in_dims=dims)(mapped, *others)
        alone = [function(mapped[:, i], *others) for i in range(3)]
        for actual, expected in zip(results, zip(*alone, strict=True), strict=True):
            torch.testing.assert_close(actual, torch.stack(expected))
    torch.testing.assert_close(jacfwd(run)(x, *others), jacrev(run)(x, *others))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("differentiated", [False, True])
@pytest.mark.parametrize("gates", ["rg_lru", "mingru"])
def test_operators_keep_pytorchs_rules(gates: str, differentiated: bool, backend: str) -> None:
    problem = small(gates, turning=gates == "rg_lru", reset_to="h0" if gates == "rg_lru" else None)
    given = [t.float().requires_grad_(differentiated) for t in problem.tensors.values()]
    named = dict(zip(problem.tensors, given, strict=True))
    x, p, q, rate, angle, h0 = (
        named.get(name) for name in ("x", "rate_logit", "input_logit", "rate", "angle", "h0")
    )  # fmt: skip
    rest = (None, problem.options["resets"], gates, "h0", backend)
    opcheck(torch.ops.cofm_triton.gated_rnn.default, (x, p, q, rate, angle, h0, *rest))
    if not differentiated:
        backward = torch.ops.cofm_triton.gated_rnn_backward.default
        opcheck(backward, (x, h0, x, p, q, rate, angle, x, h0, *rest))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_compiles_as_one_graph(backend: str) -> None:
    run, inputs = call(small("rg_lru", turning=True), backend)

    def step(*tensors: Tensor) -> Tensor:
        return loss(run(*tensors))

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), step(*inputs))
    torch.testing.assert_close(
        torch.autograd.grad(compiled(*inputs), inputs), torch.autograd.grad(step(*inputs), inputs)
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_last_state_is_asked_for(backend: str) -> None:
    problem = small("minlstm")
    (run, inputs), (expected, _) = call(problem, backend), call(problem, "reference")
    torch.testing.assert_close(*(torch.autograd.grad(one(*inputs)[1].sum(), inputs) for one in (run, expected)))


def test_errors_name_the_argument() -> None:
    x, rate = torch.zeros(1, 2, 4), torch.ones(4)
    cases: list[tuple[str, dict[str, Any]]] = [
        ("gates must be one of", dict(gates="gru")),
        ("input_logit must be a torch.Tensor", dict(gates="minlstm")),
        ("input_logit must be None", dict(gates="s6", input_logit=x)),
        ("rate_logit must have the shape", dict(gates="s6", rate_logit=x[..., :1])),
        ("rate must have shape", dict(gates="s6", rate=rate[:1])),
        ("angle must have shape", dict(gates="s6", angle=rate)),
        ("h0 must have shape", dict(gates="s6", h0=x)),
        ("resets must have dtype", dict(gates="s6", resets=x[..., 0])),
    ]
    for message, changes in cases:
        with pytest.raises((TypeError, ValueError), match=message):
            gated_rnn(**{"x": x, "rate": rate, "rate_logit": x} | changes)

"""The nonlinear scan as PyTorch sees it: derivatives to any order, batching and compilation, on every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from derivatives import check_alike, check_by_differences
from scan_cases import BACKENDS, CPU_BACKENDS, TRITON, Problem, device_of, for_backends, normal, rnn_problem
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, vmap
from torch.library import opcheck

from cofm_triton import reference
from cofm_triton.functional import rnn_scan
from cofm_triton.ops.rnn_scan import traffic
from cofm_triton.step.activations import NONLINEARITIES

STARTS = [0, 2, 2, 5]
# Words: packed; gated, rates vary in time; h0 and zero, what resets mean.
KINDS = ("", "packed", "gated h0", "packed zero")


def problem_of(kind: str, nonlinearity: str, length: int) -> Problem:
    packed, reset_to = "packed" in kind, next((word for word in ("h0", "zero") if word in kind), None)
    return rnn_problem(
        1 if packed else 2, length, 3, dtype=torch.float64, nonlinearity=nonlinearity,
        starts=STARTS if packed else None, gated="gated" in kind, reset_to=reset_to,
    )  # fmt: skip


def arguments(backend: str, nonlinearity: str, kind: str = "", length: int = 6) -> tuple[Tensor, ...]:
    """x, rate, h0 in float64, away from kinks."""
    problem = problem_of(kind, nonlinearity, length)
    return tuple(t.to(device_of(backend)).requires_grad_() for t in (problem.x, problem["rate"], problem["h0"]))


def scan(backend: str, nonlinearity: str, kind: str = "", length: int = 6) -> Callable[..., tuple[Tensor, Tensor]]:
    device, options = device_of(backend), problem_of(kind, nonlinearity, length).options
    options = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in options.items()}

    def run(x: Tensor, rate: Tensor, h0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return rnn_scan(x, rate, h0, backend=backend, **options)

    return run


def definition(nonlinearity: str) -> Callable[..., tuple[Tensor, Tensor]]:
    def run(x: Tensor, rate: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
        return reference.rnn_scan(x, rate, h0, dt=0.7, nonlinearity=nonlinearity)

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
def test_second_derivatives_are_those_of_the_definition(nonlinearity: str, backend: str) -> None:
    inputs = arguments(backend, nonlinearity)
    pair = []
    for run in (scan(backend, nonlinearity), definition(nonlinearity)):
        first = torch.autograd.grad(loss(run(*inputs)), inputs, create_graph=True)
        squares = torch.stack([g.square().sum() for g in first]).sum()
        pair.append((first, torch.autograd.grad(squares, inputs)))
    torch.testing.assert_close(*pair)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("nonlinearity", ["tanh", "hardtanh"])
@pytest.mark.parametrize("argument", [0, 1, 2])
def test_forward_and_reverse_mode_agree(argument: int, nonlinearity: str, backend: str) -> None:
    inputs = tuple(t.detach() for t in arguments(backend, nonlinearity, length=3))
    run = scan(backend, nonlinearity, length=3)

    def alone(value: Tensor) -> tuple[Tensor, Tensor]:
        return run(*inputs[:argument], value, *inputs[argument + 1 :])

    torch.testing.assert_close(jacfwd(alone)(inputs[argument]), jacrev(alone)(inputs[argument]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("argument", [0, 1, 2])
def test_hessian(argument: int, backend: str) -> None:
    inputs = tuple(t.detach() for t in arguments(backend, "tanh", length=3))
    ours, theirs = (
        hessian(lambda *args, run=run: loss(run(*args)), argnums=argument)(*inputs)
        for run in (scan(backend, "tanh"), definition("tanh"))
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("backend", "dims"),
    for_backends(CPU_BACKENDS, [(0, None, None), (None, 0, None), (None, None, 0), (0, 0, 0), (1, 1, 1)])
    + for_backends(TRITON, [(0, None, None), (None, 0, 0)]),
)
@pytest.mark.parametrize("kind", ["", "packed", "gated h0"])
def test_vmap(kind: str, dims: tuple[int | None, ...], backend: str) -> None:
    size, run = 3, scan(backend, "tanh", kind)
    inputs = [t.detach() for t in arguments(backend, "tanh", kind)]
    mapped = tuple(
        tensor if dim is None else torch.stack([tensor * (1 - 0.1 * i) for i in range(size)], dim)
        for tensor, dim in zip(inputs, dims, strict=True)
    )

    def one(i: int) -> tuple[Tensor, ...]:
        return tuple(t if dim is None else t.select(dim, i) for t, dim in zip(mapped, dims, strict=True))

    gradient = grad(lambda *args: loss(run(*args)), argnums=(0, 1, 2))
    for function in (run, gradient):
        results = vmap(function, in_dims=dims)(*mapped)
        for actual, expected in zip(results, zip(*(function(*one(i)) for i in range(size)), strict=True), strict=True):
            torch.testing.assert_close(actual, torch.stack(expected))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("dims", [(0, None, None, 0), (0, 0, None, 1), (None, None, None, 0)])
def test_vmap_of_resets(dims: tuple[int | None, ...], backend: str) -> None:
    x, rate, h0 = (t.detach() for t in arguments(backend, "tanh"))
    given = (x, rate, h0, torch.arange(12).view(2, 6) % 5 == 0)
    mapped = tuple(
        t if dim is None else torch.stack([t, t.roll(1, 0)], dim) for t, dim in zip(given, dims, strict=True)
    )

    def run(x: Tensor, rate: Tensor, h0: Tensor, resets: Tensor) -> tuple[Tensor, Tensor]:
        return rnn_scan(x, rate, h0, resets=resets, nonlinearity="tanh", backend=backend)

    gradient = grad(lambda *args: loss(run(*args)), argnums=(0, 1, 2))
    for function in (run, gradient):
        results = vmap(function, in_dims=dims)(*mapped)
        one = [
            function(*(t if dim is None else t.select(dim, i) for t, dim in zip(mapped, dims, strict=True)))
            for i in range(2)
        ]
        for actual, expected in zip(results, zip(*one, strict=True), strict=True):
            torch.testing.assert_close(actual, torch.stack(expected))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("differentiated", [False, True])
@pytest.mark.parametrize("kind", ["", "gated packed h0"])
def test_operator_keeps_pytorchs_rules(kind: str, differentiated: bool, backend: str) -> None:
    tensors = [t.detach().float().requires_grad_(differentiated) for t in arguments(backend, "tanh", kind)]
    given = problem_of(kind, "tanh", 6).options
    starts, resets = (None if t is None else t.to(tensors[0].device) for t in (given["seq_starts"], given["resets"]))
    options: tuple[Any, ...] = (starts, resets, 0.5, "hardtanh", "h0", backend)
    opcheck(torch.ops.cofm_triton.rnn_scan.default, (*tensors, *options))
    opcheck(torch.ops.cofm_triton.rnn_scan.default, (*tensors[:2], None, *options))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("length", "kind"), [(0, ""), (6, ""), (6, "gated")])
def test_backward_operator_keeps_pytorchs_rules(length: int, kind: str, backend: str) -> None:
    x, rate, h0 = (t.detach() for t in arguments(backend, "tanh", kind, length))
    for last, start in ((h0, h0), (None, None)):
        inputs = (x, last, x, rate, x, start, None, None, 0.5, "tanh", "h0", backend)
        opcheck(torch.ops.cofm_triton.rnn_scan_backward.default, inputs)


@pytest.mark.parametrize("w", [1.0, 3.0, 5.0])
@pytest.mark.parametrize("parameterization", ["exp", "lru", "softplus"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_fast_exact_rates_keep_their_digits(parameterization: str, w: float, backend: str) -> None:
    """d a / d w has exp(-dt f(w)), down to 1e-45 here, which a difference from 1 would make 0."""
    problem = rnn_problem(
        2, 9, 3, nonlinearity="tanh", parameterization=parameterization, discretization="exact", dtype=torch.float32
    )
    problem.with_(rate=torch.full_like(problem["rate"], w)).check(backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_as_one_graph(backend: str) -> None:
    def step(x: Tensor, rate: Tensor, h0: Tensor) -> Tensor:
        h, h_last = rnn_scan(x, rate, h0, nonlinearity="tanh", backend=backend)
        h, h_last = rnn_scan(h.sin(), rate, h_last, dt=0.5, nonlinearity="relu", backend=backend)
        return h.sum() + h_last.square().sum()

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for length in (6, 9):
        inputs = arguments(backend, "tanh", length=length)
        torch.testing.assert_close(compiled(*inputs), step(*inputs))
        torch.testing.assert_close(
            torch.autograd.grad(compiled(*inputs), inputs), torch.autograd.grad(step(*inputs), inputs)
        )


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_graph_of_the_gradient_agrees_with_the_fused_one(dtype: torch.dtype, nonlinearity: str, backend: str) -> None:
    problem = rnn_problem(2, 33, 3, dtype=dtype, nonlinearity=nonlinearity)
    leaves = [t.detach().requires_grad_() for t in (problem.x, problem["rate"], problem["h0"])]
    results = rnn_scan(*leaves, dt=0.7, nonlinearity=nonlinearity, backend=backend)
    grads = torch.autograd.grad(results, leaves, [problem["grad_h"], problem["grad_last"]], create_graph=True)
    bounds = problem.bounds()
    for name, gradient in zip(problem.tensors, grads, strict=True):
        # The first state enters rounded to 16 bits, like all others.
        assert bounds[f"grad_{name}"].excess(gradient) <= 1.5, name


@pytest.mark.parametrize(("gated", "backward", "elements"), [(0, 0, 2), (0, 1, 3), (1, 0, 3), (1, 1, 5)])
def test_traffic(gated: bool, backward: bool, elements: int) -> None:
    assert traffic(8, 4096, 256, 4, gated=gated, backward=backward) == elements * 8 * 4096 * 256 * 4


def test_rates_scale_the_state() -> None:
    # One step from h0 = 1 without input: h = 1 - dt * rate.
    rate = normal(3, dtype=torch.float64).abs()
    _, h_last = rnn_scan(torch.zeros(1, 1, 3, dtype=torch.float64), rate, torch.ones(1, 3, dtype=torch.float64),
                         dt=0.5, nonlinearity="linear")  # fmt: skip
    torch.testing.assert_close(h_last[0], 1 - 0.5 * rate)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_see_every_digit_of_the_start(create_graph: bool, backend: str) -> None:
    """float32 states beside 16-bit inputs: the first of them is no 16-bit number."""
    device = device_of(backend)
    x = torch.zeros(1, 1, 1, dtype=torch.bfloat16, device=device)
    h0, rate = torch.tensor([[1.003]], device=device), torch.tensor([0.5], device=device, requires_grad=True)
    _, last = rnn_scan(x, rate, h0, nonlinearity="linear", backend=backend)
    (gradient,) = torch.autograd.grad(last.sum(), rate, create_graph=create_graph)
    assert gradient.item() == -h0.item()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zeros_have_the_signs_of_the_definition(dtype: torch.dtype, backend: str) -> None:
    """Every sign of input and state, at every width of the compiled loops' vectors."""
    zeros = torch.tensor([0.0, -0.0], dtype=dtype)
    x, h0 = torch.cartesian_prod(zeros, zeros).T.repeat(1, 9)
    call = (x.expand(1, 3, -1), torch.full_like(x, 0.5), h0[None])
    expected = rnn_scan(*call, nonlinearity="tanh", backend="reference")
    device = device_of(backend)
    found = rnn_scan(*(value.to(device) for value in call), nonlinearity="tanh", backend=backend)
    for value, wanted in zip(found, expected, strict=True):
        assert torch.equal(value.cpu(), wanted) and torch.equal(value.cpu().signbit(), wanted.signbit())

"""The dense recurrence as PyTorch sees it: derivatives to any order, batching and compilation, on every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from derivatives import check_alike, check_by_differences
from scan_cases import BACKENDS, CPU_BACKENDS, TRITON, dense_problem, device_of, for_backends
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.library import opcheck

from cofm_triton import reference
from cofm_triton.functional import dense_rnn
from cofm_triton.ops.dense_rnn import step_traffic, traffic, work
from cofm_triton.step.activations import NONLINEARITIES


def arguments(backend: str, nonlinearity: str, length: int = 4) -> tuple[Tensor, ...]:
    """x, weight, h0 in float64, away from kinks."""
    problem = dense_problem(2, length, 3, dtype=torch.float64, nonlinearity=nonlinearity)
    return tuple(t.to(device_of(backend)).requires_grad_() for t in (problem.x, problem["weight"], problem["h0"]))


def recurrence(backend: str, nonlinearity: str, **episodes: Any) -> Callable[..., tuple[Tensor, Tensor]]:
    def run(x: Tensor, weight: Tensor, h0: Tensor | None = None, resets: Tensor | None = None) -> tuple[Tensor, Tensor]:
        options = episodes if resets is None else {**episodes, "resets": resets}
        return dense_rnn(x, weight, h0, dt=0.7, nonlinearity=nonlinearity, backend=backend, **options)

    return run


def episodes(backend: str, reset_to: str | None, length: int = 4) -> dict[str, Any]:
    """Options of `recurrence`: two sequences, cut at different steps, one before its first."""
    if reset_to is None:
        return {}
    resets = torch.zeros(2, length, dtype=torch.bool, device=device_of(backend))
    resets[0, 2] = resets[1, :2] = True
    return dict(resets=resets, reset_to=reset_to)


def loss(h_and_last: tuple[Tensor, Tensor]) -> Tensor:
    h, h_last = h_and_last
    return h.square().sum() + h_last.sin().sum()


@pytest.mark.parametrize(
    ("backend", "nonlinearity"), for_backends(CPU_BACKENDS, NONLINEARITIES) + for_backends(TRITON, ["tanh"])
)
def test_derivatives(nonlinearity: str, backend: str) -> None:
    reset_to = {"linear": "zero", "tanh": "h0"}.get(nonlinearity)
    run, inputs = recurrence(backend, nonlinearity, **episodes(backend, reset_to)), arguments(backend, nonlinearity)
    if backend == "torch":
        check_by_differences(run, inputs)
    else:
        check_alike(run, recurrence("torch", nonlinearity, **episodes("torch", reset_to)), inputs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("argument", "reset_to"), [(0, None), (1, "h0"), (2, "h0"), (2, "zero")])
def test_derivatives_in_every_mode(argument: int, reset_to: str | None, backend: str) -> None:
    inputs = tuple(t.detach() for t in arguments(backend, "tanh", length=3))
    options = episodes(backend, reset_to, length=3)

    def alone(value: Tensor) -> tuple[Tensor, Tensor]:
        return recurrence(backend, "tanh", **options)(*inputs[:argument], value, *inputs[argument + 1 :])

    def definition(value: Tensor) -> tuple[Tensor, Tensor]:
        given = (*inputs[:argument], value, *inputs[argument + 1 :])
        return reference.dense_rnn(*given, dt=0.7, nonlinearity="tanh", **options)

    value = inputs[argument]
    torch.testing.assert_close(jacfwd(alone)(value), jacrev(alone)(value))
    ours, theirs = (hessian(lambda v, run=run: loss(run(v)))(value) for run in (alone, definition))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("backend", "dims"),
    for_backends(CPU_BACKENDS, [(0, None, None), (None, 0, None, None), (None, None, 0, 1), (1, 1, 1, 0)])
    + for_backends(TRITON, [(0, None, None, None), (None, 0, 0)]),
)
def test_vmap(dims: tuple[int | None, ...], backend: str) -> None:
    size, run = 3, recurrence(backend, "tanh")
    inputs = [t.detach() for t in arguments(backend, "tanh")] + [*episodes(backend, "h0").values()][:1]
    mapped = tuple(
        tensor if dim is None else torch.stack([_changed(tensor, i) for i in range(size)], dim)
        for tensor, dim in zip(inputs, dims, strict=False)
    )

    def one(i: int) -> tuple[Tensor, ...]:
        return tuple(t if dim is None else t.select(dim, i) for t, dim in zip(mapped, dims, strict=True))

    gradient = grad(lambda *args: loss(run(*args)), argnums=(0, 1, 2))
    for function in (run, gradient):
        results = vmap(function, in_dims=dims)(*mapped)
        for actual, expected in zip(results, zip(*(function(*one(i)) for i in range(size)), strict=True), strict=True):
            torch.testing.assert_close(actual, torch.stack(expected))


def _changed(tensor: Tensor, i: int) -> Tensor:
    return tensor.roll(i, 1) if tensor.dtype == torch.bool else tensor * (1 - 0.1 * i)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("length", [0, 3])
def test_operators_keep_pytorchs_rules(length: int, keep: bool, backend: str) -> None:
    tensors = [t.detach().float().requires_grad_(keep) for t in arguments(backend, "tanh", length=length)]
    options = (0.5, "tanh", "ieee", backend, keep)
    x, weight, h0 = (t.detach() for t in tensors)
    resets = x[..., 0] > 0
    opcheck(torch.ops.cofm_triton.dense_rnn.default, (*tensors, resets, "h0", *options))
    opcheck(torch.ops.cofm_triton.dense_rnn.default, (*tensors[:2], None, None, "h0", *options))
    for last, start, cuts in ((h0, h0, resets), (None, None, None)):
        inputs = (x, last, x.sigmoid(), weight, x, start, cuts, "zero", 0.5, "ieee", backend)
        opcheck(torch.ops.cofm_triton.dense_rnn_backward.default, inputs)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_compiles_as_one_graph(backend: str) -> None:
    def step(x: Tensor, weight: Tensor, h0: Tensor) -> Tensor:
        h, h_last = dense_rnn(x, weight, h0, nonlinearity="tanh", backend=backend)
        h, h_last = dense_rnn(h.sin(), weight, h_last, dt=0.5, nonlinearity="relu", backend=backend)
        return h.sum() + h_last.square().sum()

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for length in (4, 6):
        inputs = arguments(backend, "tanh", length=length)
        torch.testing.assert_close(compiled(*inputs), step(*inputs))
        torch.testing.assert_close(
            torch.autograd.grad(compiled(*inputs), inputs), torch.autograd.grad(step(*inputs), inputs)
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_of_16_bits(backend: str) -> None:
    problem = dense_problem(2, 5, 3, dtype=torch.bfloat16, wide=False, nonlinearity="tanh")
    assert problem["weight"].dtype == torch.bfloat16
    problem.check(backend)

    def run(x: Tensor, weight: Tensor) -> Tensor:
        return dense_rnn(x, weight, dt=0.7, nonlinearity="tanh", backend=backend)[0]

    inputs = (problem.x.to(device_of(backend)), problem["weight"].to(device_of(backend)))
    _, tangent = jvp(run, inputs, inputs)  # type: ignore[misc]
    _, expected = jvp(run, *([tuple(t.double() for t in inputs)] * 2))  # type: ignore[misc]
    assert tangent.dtype == torch.bfloat16
    error = (tangent.double() - expected).abs().max()  # states are stored, and read again, in 16 bits
    assert error <= torch.finfo(torch.bfloat16).eps * expected.abs().max()


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_slopes_that_were_not_kept_are_formed_again(nonlinearity: str, dtype: torch.dtype, backend: str) -> None:
    """A graph of the gradient, and a backward pass through a forward pass that kept nothing, as within the bounds."""
    reset_to = "h0" if nonlinearity == "tanh" else None
    problem = dense_problem(2, 9, 3, dtype=dtype, nonlinearity=nonlinearity, wide=False, reset_to=reset_to)
    leaves = [t.detach().requires_grad_() for t in (problem.x, problem["weight"], problem["h0"])]
    bounds = problem.bounds()
    weights = [problem["grad_h"], problem["grad_last"]]
    results = dense_rnn(*leaves, **problem.options, backend=backend)
    with_graph = torch.autograd.grad(results, leaves, weights, create_graph=True)
    resets = problem.options.get("resets")
    bare = torch.ops.cofm_triton.dense_rnn(*leaves, resets, "h0", 0.7, nonlinearity, "ieee", backend, False)
    assert bare[2].shape == (2, 0, 3)
    for grads in (with_graph, torch.autograd.grad(bare[:2], leaves, weights)):
        for name, gradient in zip(problem.tensors, grads, strict=True):
            assert bounds[f"grad_{name}"].excess(gradient) <= 1, name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_see_every_digit_of_the_start(create_graph: bool, backend: str) -> None:
    """float32 states beside 16-bit inputs: the first of them is no 16-bit number."""
    device = device_of(backend)
    x = torch.zeros(1, 1, 1, dtype=torch.bfloat16, device=device)
    h0, weight = torch.tensor([[1.003]], device=device), torch.tensor([[0.5]], device=device, requires_grad=True)
    _, last = dense_rnn(x, weight, h0, nonlinearity="linear", backend=backend)
    (gradient,) = torch.autograd.grad(last.sum(), weight, create_graph=create_graph)
    assert gradient.item() == -h0.item()


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_gradients_of_batches_of_models(backend: str) -> None:
    x, weights = torch.randn(2, 5, 3), (0.2 * torch.randn(4, 3, 3)).requires_grad_()

    def run(weight: Tensor) -> Tensor:
        return dense_rnn(x, weight, nonlinearity="tanh", backend=backend)[0].square().mean()

    (together,) = torch.autograd.grad(vmap(run)(weights).sum(), weights)
    copies = [weight.detach().requires_grad_() for weight in weights]
    alone = torch.stack([torch.autograd.grad(run(weight), weight)[0] for weight in copies])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_other_steps_of_a_compiled_function(backend: str) -> None:
    x, weight = torch.randn(1, 4, 3), 0.2 * torch.randn(3, 3)
    compiled = torch.compile(
        lambda dt: dense_rnn(x, weight, dt=dt, nonlinearity="tanh", backend=backend)[0],
        fullgraph=True, backend="aot_eager", dynamic=True,
    )  # fmt: skip
    for dt in (0.5, 0.25, 0.125):
        torch.testing.assert_close(compiled(dt), dense_rnn(x, weight, dt=dt, nonlinearity="tanh", backend=backend)[0])
    torch._dynamo.reset()


def test_models_of_traffic_and_work() -> None:
    states = 8 * 512 * 64
    assert traffic(8, 512, 64, 4, backward=False, keep=False) == 2 * 4 * states
    assert traffic(8, 512, 64, 4, backward=False) == traffic(8, 512, 64, 4, backward=True) == 3 * 4 * states
    assert traffic(8, 512, 64, 2, backward=True) == (2 + 4 + 4) * states
    assert work(8, 512, 64, backward=False) == 64 * states
    assert work(8, 512, 64, backward=True) == 2 * 64 * states


def test_traffic_of_a_step_by_itself() -> None:
    """The weight comes again in every step: nearly all that moves where sequences are few."""
    weight, rows = 4 * 640 * 640, 4 * 640
    assert step_traffic(4, 640, 4, backward=False, keep=False) == weight + 4 * 4 * rows
    assert step_traffic(4, 640, 4, backward=False) == weight + 5 * 4 * rows
    assert step_traffic(4, 640, 2, backward=True) == weight + (2 + 5 * 4) * rows

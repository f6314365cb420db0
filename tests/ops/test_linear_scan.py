"""The linear scan as PyTorch sees it: closed under differentiation, batching and compilation, on every backend.

The independent oracle is PyTorch's generic `associative_scan` over pairs (decay, x), differentiated by autograd.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from derivatives import check_alike, check_by_differences
from scan_cases import (
    BACKENDS,
    COMPLEX_BACKENDS,
    CPU_BACKENDS,
    TRITON,
    decays,
    device_of,
    for_backends,
    linear_problem,
    normal,
)
from torch import Tensor
from torch._higher_order_ops.associative_scan import associative_scan
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.library import opcheck

from cofm_triton.evidence.draws import resets
from cofm_triton.functional import linear_scan
from cofm_triton.ops.linear_scan import traffic

STARTS = (0, 2, 2, 5)


def by_associative_scan(x: Tensor, decay: Tensor, h0: Tensor, reverse: bool = False) -> tuple[Tensor, Tensor]:
    """`(h, h_last)` by a parallel scan over pairs, the initial state folded into the first step."""
    start = x.shape[1] - 1 if reverse else 0
    first = (torch.arange(x.shape[1], device=x.device) == start)[:, None]
    decay = decay.expand(x.shape)
    x = x + torch.where(first, decay * h0[:, None], torch.zeros_like(x))

    def combine(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return left[0] * right[0], right[0] * left[1] + right[1]

    pairs = (decay.contiguous(), x.contiguous())
    h: Tensor = associative_scan(combine, pairs, dim=1, reverse=reverse, combine_mode="generic")[1]
    return h, h[:, 0 if reverse else -1]


def arguments(
    backend: str, dtype: torch.dtype, gated: bool, packed: bool = False, length: int = 6
) -> tuple[Tensor, Tensor, Tensor]:
    batch, states = (1, len(STARTS)) if packed else (2, 2)
    shape = (batch, length, 3)
    tensors = (
        normal(*shape, dtype=dtype),
        decays(*(shape if gated else (3,)), dtype=dtype),
        normal(states, 3, dtype=dtype, seed=2),
    )
    x, decay, h0 = (tensor.to(device_of(backend)).requires_grad_() for tensor in tensors)
    return x, decay, h0


def scan(
    backend: str, reverse: bool = False, packed: bool = False, reset_to: str | None = None
) -> Callable[..., tuple[Tensor, Tensor]]:
    starts = torch.tensor(STARTS, device=device_of(backend)) if packed else None

    cuts: dict[str, Any] = dict(resets=None)
    if reset_to is not None:
        cuts = dict(resets=resets(1 if packed else 2, 6, 0).to(device_of(backend)), reset_to=reset_to)

    def run(x: Tensor, decay: Tensor, h0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return linear_scan(x, decay, h0, reverse=reverse, seq_starts=starts, backend=backend, **cuts)

    return run


# (packed, reverse, gated, reset_to).
Flags = tuple[bool, bool, bool, str | None]
FLAGS: list[Flags] = [(a, b, c, None) for a, b, c in itertools.product((False, True), repeat=3)]
FLAGS += [
    (False, False, False, "h0"),
    (True, False, True, "zero"),
    (False, True, True, "zero"),
    (True, True, False, "h0"),
]
TRITON_FLAGS: list[Flags] = [(False, False, False, None), (True, True, True, "h0")]
REAL_FLAGS = for_backends(CPU_BACKENDS, FLAGS) + for_backends(TRITON, TRITON_FLAGS)
COMPLEX_FLAGS = for_backends(CPU_BACKENDS, FLAGS) + for_backends(TRITON, [(False, True, True, "zero")])


@pytest.mark.parametrize(("backend", "flags"), REAL_FLAGS)
def test_derivatives(flags: Flags, backend: str) -> None:
    check_derivatives(backend, torch.float64, *flags)


@pytest.mark.parametrize(("backend", "flags"), COMPLEX_FLAGS)
def test_complex_derivatives(flags: Flags, backend: str) -> None:
    check_derivatives(backend, torch.complex128, *flags)


def check_derivatives(
    backend: str, dtype: torch.dtype, packed: bool, reverse: bool, gated: bool, reset_to: str | None
) -> None:
    """Against finite differences, to second order, in reverse and forward mode, one by one and batched."""
    run, inputs = scan(backend, reverse, packed, reset_to), arguments(backend, dtype, gated, packed)
    if backend == "torch":
        check_by_differences(run, inputs, fast=dtype.is_complex, check_batched_forward_grad=not packed)
    else:
        check_alike(run, scan("torch", reverse, packed, reset_to), inputs)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
class TestAgainstAssociativeScan:
    """Values, first and second derivatives, tangents, batched gradients: the same as through PyTorch's own scan."""

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_real(self, backend: str, reverse: bool, gated: bool) -> None:
        self.check(backend, torch.float64, reverse, gated)

    @pytest.mark.parametrize("backend", COMPLEX_BACKENDS)
    def test_complex(self, backend: str, reverse: bool, gated: bool) -> None:
        self.check(backend, torch.complex128, reverse, gated)

    def check(self, backend: str, dtype: torch.dtype, reverse: bool, gated: bool) -> None:
        run, inputs = scan(backend, reverse), arguments(backend, dtype, gated)
        weights = tuple(normal(*shape, dtype=dtype, seed=7).to(inputs[0].device) for shape in ((2, 6, 3), (2, 3)))

        def oracle(x: Tensor, decay: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
            return by_associative_scan(x, decay, h0, reverse)

        ours, theirs = run(*inputs), oracle(*inputs)
        close(ours, theirs)
        first, expected = (torch.autograd.grad(r, inputs, weights, create_graph=True) for r in (ours, theirs))
        close(first, expected)
        squares = [torch.stack([(g * g.conj()).real.sum() for g in gs]).sum() for gs in (first, expected)]
        close(*(torch.autograd.grad(square, inputs) for square in squares))


def close(ours: Any, theirs: Any) -> None:
    """float64 and a few steps: the defaults of PyTorch (relative 1e-7) leave no room for a wrong term."""
    torch.testing.assert_close(tuple(ours), tuple(theirs))


def over_reals(run: Callable[..., tuple[Tensor, Tensor]], dtype: torch.dtype) -> Callable[..., tuple[Tensor, Tensor]]:
    """`run` as a function of real and imaginary parts: its Jacobian is a real matrix."""
    if not dtype.is_complex:
        return run

    def of_parts(*parts: Tensor) -> tuple[Tensor, Tensor]:
        h, h_last = run(*(torch.view_as_complex(part) for part in parts))
        return torch.view_as_real(h), torch.view_as_real(h_last)

    return of_parts


def parts_of(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What `over_reals` takes."""
    return tuple(torch.view_as_real(t.detach()) if t.is_complex() else t.detach() for t in tensors)


def loss(h_and_last: tuple[Tensor, Tensor]) -> Tensor:
    h, h_last = h_and_last
    return (h * h.conj()).real.sum() + h_last.real.sin().sum()


DTYPES = [torch.float64, torch.complex128]


@pytest.mark.parametrize("backend", COMPLEX_BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reverse", [False, True])
def test_tangents(reverse: bool, dtype: torch.dtype, backend: str) -> None:
    run = over_reals(scan(backend, reverse), dtype)
    oracle = over_reals(partial(by_associative_scan, reverse=reverse), dtype)
    for gated in (False, True):
        inputs = parts_of(arguments(backend, dtype, gated))
        tangents = tuple(normal(*t.shape, dtype=t.dtype, seed=8).to(t.device) for t in inputs)
        actual = jvp(run, inputs, tangents)[1]
        rows = jacrev(oracle, argnums=(0, 1, 2))(*inputs)
        for result, expected_rows in zip(actual, rows, strict=True):
            expected = sum(
                torch.tensordot(jacobian, tangent, tangent.dim())
                for jacobian, tangent in zip(expected_rows, tangents, strict=True)
            )
            torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("argument", [0, 1, 2])
def test_tangent_of_one_argument(argument: int, backend: str) -> None:
    inputs = tuple(t.detach() for t in arguments(backend, torch.float64, False))
    run = scan(backend)

    def alone(value: Tensor) -> tuple[Tensor, Tensor]:
        return run(*inputs[:argument], value, *inputs[argument + 1 :])

    forward, backward = jacfwd(alone)(inputs[argument]), jacrev(alone)(inputs[argument])
    close(forward, backward)


@pytest.mark.parametrize("backend", COMPLEX_BACKENDS)
@pytest.mark.parametrize("argument", [0, 1, 2])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_hessian(dtype: torch.dtype, gated: bool, argument: int, backend: str) -> None:
    inputs = parts_of(arguments(backend, dtype, gated, length=3))
    run, oracle = over_reals(scan(backend), dtype), over_reals(by_associative_scan, dtype)
    ours = hessian(lambda *args: loss(run(*args)), argnums=argument)(*inputs)
    theirs = jacrev(jacrev(lambda *args: loss(oracle(*args)), argnums=argument), argnums=argument)(*inputs)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("backend", COMPLEX_BACKENDS)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_batched_gradients_are_those_of_the_associative_scan(dtype: torch.dtype, gated: bool, backend: str) -> None:
    inputs = tuple(t.detach() for t in arguments(backend, dtype, gated))
    several = tuple(torch.stack([t, 0.9 * t]) for t in inputs)
    ours = vmap(grad(lambda *args: loss(scan(backend)(*args)), argnums=(0, 1, 2)))(*several)
    for i in range(2):
        leaves = [t[i].clone().requires_grad_() for t in several]
        close([gradient[i] for gradient in ours], torch.autograd.grad(loss(by_associative_scan(*leaves)), leaves))  # type: ignore[arg-type]


MAPPED = [dims for dims in itertools.product((None, 0), repeat=3) if any(d is not None for d in dims)]
MAPPED_BY_BACKEND = for_backends(CPU_BACKENDS, [*MAPPED, (1, 1, 1), (2, 0, None)])
MAPPED_BY_BACKEND += for_backends(TRITON, [(0, None, None), (None, 0, 0)])


@pytest.mark.parametrize(("backend", "dims"), MAPPED_BY_BACKEND)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_vmap(packed: bool, gated: bool, dims: tuple[int | None, ...], backend: str) -> None:
    size, run = 3, scan(backend, packed=packed)
    inputs = [t.detach() for t in arguments(backend, torch.float64, gated, packed)]
    mapped = tuple(
        tensor if dim is None else torch.stack([tensor * (1 - 0.1 * i) for i in range(size)], dim)
        for tensor, dim in zip(inputs, dims, strict=True)
    )

    def one(i: int) -> tuple[Tensor, ...]:
        return tuple(t if dim is None else t.select(dim, i) for t, dim in zip(mapped, dims, strict=True))

    values = vmap(run, in_dims=dims)(*mapped)
    for actual, expected in zip(values, zip(*(run(*one(i)) for i in range(size)), strict=True), strict=True):
        torch.testing.assert_close(actual, torch.stack(expected))
    gradient = grad(lambda *args: loss(run(*args)), argnums=(0, 1, 2))
    grads = vmap(gradient, in_dims=dims)(*mapped)
    for actual, expected in zip(grads, zip(*(gradient(*one(i)) for i in range(size)), strict=True), strict=True):
        torch.testing.assert_close(actual, torch.stack(expected))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("differentiated", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_operator_keeps_pytorchs_rules(packed: bool, gated: bool, differentiated: bool, backend: str) -> None:
    x, decay, h0 = (t.detach().float() for t in arguments(backend, torch.float64, gated, packed))
    tensors = [t.requires_grad_(differentiated) for t in (x, decay, h0)]
    starts = torch.tensor(STARTS, device=x.device) if packed else None
    for reverse, cuts in ((False, None), (True, resets(x.shape[0], x.shape[1], 0).to(x.device))):
        rest = (starts, cuts, reverse, "zero" if packed else "h0", backend)
        opcheck(torch.ops.cofm_triton.linear_scan.default, (*tensors, *rest))
        opcheck(torch.ops.cofm_triton.linear_scan.default, (*tensors[:2], None, *rest))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("length", [0, 6])
def test_backward_operator_keeps_pytorchs_rules(length: int, gated: bool, backend: str) -> None:
    x, decay, h0 = (t.detach() for t in arguments(backend, torch.float64, gated, length=length))
    for last, start, cuts in ((h0, h0, resets(2, length, 0).to(x.device)), (None, None, None)):
        rest = (start, None, cuts, False, "h0", backend)
        opcheck(torch.ops.cofm_triton.linear_scan_backward.default, (x, last, decay, x, *rest))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gated", [False, True])
def test_backward_operator_takes_states_of_any_stride(gated: bool, backend: str) -> None:
    # Eager code saves them as they were written; a compiler may choose another layout.
    x, decay, h0 = (t.detach() for t in arguments(backend, torch.float64, gated))
    run = torch.ops.cofm_triton.linear_scan_backward.default
    apart = x.transpose(0, 1).contiguous().transpose(0, 1)
    rest = (h0, None, None, False, "h0", backend)
    close(run(x, h0, decay, apart, *rest), run(x, h0, decay, x, *rest))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_as_one_graph(dynamic: bool, backend: str) -> None:
    def step(x: Tensor, decay: Tensor, h0: Tensor) -> Tensor:
        cuts = x[..., 0].detach() > 0.5
        h, h_last = linear_scan(x, decay, h0, resets=cuts, backend=backend)
        h, h_last = linear_scan(h.sin(), x.sigmoid(), h_last, reverse=True, resets=cuts, backend=backend)
        return h.sum() + h_last.square().sum()

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for length in (6, 9):
        inputs = arguments(backend, torch.float32, False, length=length)
        torch.testing.assert_close(compiled(*inputs), step(*inputs))
        torch.testing.assert_close(
            torch.autograd.grad(compiled(*inputs), inputs), torch.autograd.grad(step(*inputs), inputs)
        )


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_graph_of_the_gradient_agrees_with_the_fused_one(dtype: torch.dtype, gated: bool, backend: str) -> None:
    # With create_graph the adjoint is written in terms of scans; both are held to the same bounds.
    problem = linear_problem(2, 33, 3, dtype=dtype, gated=gated)
    leaves = [t.detach().requires_grad_() for t in (problem.x, problem["decay"], problem["h0"])]
    results = linear_scan(*leaves, backend=backend)
    grads = torch.autograd.grad(results, leaves, [problem["grad_h"], problem["grad_last"]], create_graph=True)
    bounds = problem.bounds()
    for name, gradient in zip(problem.tensors, grads, strict=True):
        # Its own scan stores mu in the state's dtype; the first state enters grad_decay rounded like all others.
        assert bounds[f"grad_{name}"].excess(gradient) <= 1.5, name


def paired_arguments(backend: str, gates: tuple[int, ...] = (2,), batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """x (batch, 4, 4) and h0 real, decays complex."""
    tensors = (
        normal(batch, 4, 4, dtype=torch.float64), decays(*gates, dtype=torch.complex128),
        normal(len(STARTS) if batch == 1 else batch, 4, dtype=torch.float64, seed=2),
    )  # fmt: skip
    x, decay, h0 = (tensor.to(device_of(backend)).requires_grad_() for tensor in tensors)
    return x, decay, h0


# Time-invariant, and one decay for all channels of a step and both sequences.
PAIRED_GATES = [(2,), (4, 1)]


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("gates", PAIRED_GATES, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_derivatives_of_pairs(reverse: bool, gates: tuple[int, ...], backend: str) -> None:
    run, inputs = scan(backend, reverse), paired_arguments(backend, gates)
    assert gradcheck(run, inputs, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("backend", COMPLEX_BACKENDS)
@pytest.mark.parametrize("gates", PAIRED_GATES, ids=str)
def test_second_derivatives_of_pairs_are_those_of_complex_channels(gates: tuple[int, ...], backend: str) -> None:
    inputs, run = paired_arguments(backend, gates), scan(backend)

    def oracle(x: Tensor, decay: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
        z, z0 = (torch.view_as_complex(t.unflatten(-1, (-1, 2))) for t in (x, h0))
        h, last = by_associative_scan(z, decay, z0)
        return torch.view_as_real(h).flatten(-2), torch.view_as_real(last).flatten(-2)

    first, expected = (
        torch.autograd.grad(torch.stack([r.square().sum() for r in f(*inputs)]).sum(), inputs, create_graph=True)
        for f in (run, oracle)
    )
    close(first, expected)
    squares = [torch.stack([(g * g.conj()).real.sum() for g in gs]).sum() for gs in (first, expected)]
    close(*(torch.autograd.grad(square, inputs) for square in squares))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("gates", [*PAIRED_GATES, (2, 4, 2)], ids=str)
@pytest.mark.parametrize("dims", [(0, 0, 0), (None, 0, None), (0, None, None)], ids=str)
def test_vmap_of_pairs(dims: tuple[int | None, ...], gates: tuple[int, ...], backend: str) -> None:
    run, inputs = scan(backend), [t.detach() for t in paired_arguments(backend, gates)]
    check_mapped(run, inputs, dims)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize(("decay_dim", "reset_dim"), [(0, None), (None, 1), (0, 1)])
def test_vmap_of_resets(decay_dim: int | None, reset_dim: int | None, backend: str) -> None:
    """Mapped or not, beside a decay that is or is not: its gradient is of each entry alone."""
    x, decay, h0 = (t.detach() for t in arguments(backend, torch.float64, False))
    several = torch.stack([decay, decay / 2]) if decay_dim == 0 else decay
    cuts = torch.stack([resets(2, 6, 1), resets(2, 6, 2)], 1) if reset_dim == 1 else resets(2, 6, 1)

    def run(decay: Tensor, cuts: Tensor) -> Tensor:
        return loss(linear_scan(x, decay, h0, resets=cuts, backend=backend))

    gradient = grad(run)
    alone = [
        gradient(several if decay_dim is None else several[i], cuts if reset_dim is None else cuts[:, i])
        for i in (0, 1)
    ]
    close([vmap(gradient, in_dims=(decay_dim, reset_dim))(several, cuts)], [torch.stack(alone)])


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("gates", [(2, 6, 1), (1, 6, 3), (1, 6, 1), (2, 1, 3)], ids=str)
@pytest.mark.parametrize("dims", [(0, 0, 0), (None, 0, None), (0, None, None)], ids=str)
def test_vmap_of_gates_that_broadcast(dims: tuple[int | None, ...], gates: tuple[int, ...], backend: str) -> None:
    x, _, h0 = (t.detach() for t in arguments(backend, torch.float64, False))
    check_mapped(scan(backend), [x, decays(*gates, dtype=torch.float64), h0], dims)


def check_mapped(run: Callable[..., tuple[Tensor, Tensor]], inputs: list[Tensor], dims: tuple[int | None, ...]) -> None:
    """Values and gradients of three entries, each beside those of the entry alone."""
    mapped = tuple(
        tensor if dim is None else torch.stack([tensor * (1 - 0.1 * i) for i in range(3)], dim)
        for tensor, dim in zip(inputs, dims, strict=True)
    )
    gradient = grad(lambda *args: sum(r.square().sum() for r in run(*args)), argnums=(0, 1, 2))
    for function in (run, gradient):
        alone = [
            function(*(t if dim is None else t.select(dim, i) for t, dim in zip(mapped, dims, strict=True)))
            for i in range(3)
        ]
        close(vmap(function, in_dims=dims)(*mapped), map(torch.stack, zip(*alone, strict=True)))


@pytest.mark.parametrize("backend", COMPLEX_BACKENDS)
@pytest.mark.parametrize("gates", [(2,), (1, 4, 1)], ids=str)
@pytest.mark.parametrize("packed", [False, True])
def test_operator_of_pairs_keeps_pytorchs_rules(packed: bool, gates: tuple[int, ...], backend: str) -> None:
    x, decay, h0 = paired_arguments(backend, gates, batch=1 if packed else 2)
    starts = torch.tensor((*STARTS[:2], 4, 4), device=x.device) if packed else None
    narrow = (x.detach().bfloat16().requires_grad_(), decay.detach().to(torch.complex64).requires_grad_(), h0.float())
    for tensors in ((x, decay, h0), narrow):
        opcheck(torch.ops.cofm_triton.linear_scan.default, (*tensors, starts, None, False, "h0", backend))
    x, decay, h0 = (t.detach() for t in (x, decay, h0))
    rest = (h0, starts, None, True, "h0", backend)
    opcheck(torch.ops.cofm_triton.linear_scan_backward.default, (x, h0, decay, x, *rest))


def test_pairs_compile_as_one_graph() -> None:
    torch._dynamo.reset()
    run, inputs = scan("torch"), paired_arguments("torch")
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    close(compiled(*inputs), run(*inputs))
    ours, theirs = (torch.autograd.grad(f(*inputs)[0].sum(), inputs[:2]) for f in (compiled, run))
    close(ours, theirs)


@pytest.mark.parametrize(
    ("gated", "backward", "elements"), [(False, False, 2), (True, False, 3), (False, True, 3), (True, True, 5)]
)
def test_traffic(gated: bool, backward: bool, elements: int) -> None:
    assert traffic(8, 4096, 256, 4, gated=gated, backward=backward) == elements * 8 * 4096 * 256 * 4

"""Encoder, recurrence and read-out in one operator: values, gradients, PyTorch's rules and memory, on every backend."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from derivatives import check_alike, check_by_differences
from scan_cases import BACKENDS, CPU_BACKENDS, TRITON, device_of, for_backends, normal
from torch import Tensor
from torch.func import grad, hessian, vmap
from torch.library import opcheck

from cofm_triton import reference
from cofm_triton.evidence.tolerance import rnn_readout_bounds
from cofm_triton.ops.rnn_readout import (
    MAX_FEATURES,
    apply_rnn_readout,
    chunk_count,
    chunk_length,
    is_fused,
    memory,
    traffic,
)
from cofm_triton.step.activation import activation

DT = 0.7
NAMES = ("x", "weight", "bias", "rate", "readout", "offset", "turn")
ACTS = [("tanh", "linear"), ("hardtanh", "linear"), ("relu", "linear"), ("linear", "linear"), ("linear", "tanh")]


def arguments(
    backend: str, batch: int, length: int, width: int, inputs: int = 1, outputs: int = 1,
    dtype: torch.dtype = torch.float64, paired: bool = False,
) -> tuple[Tensor, ...]:  # fmt: skip
    """x, weight, bias, rate, readout, offset, and turn of pairs; steps that do not exist would act, since act(bias) is
    not 0.
    """
    modes = width // 2 if paired else width
    tensors = (
        normal(batch, length, inputs, dtype=dtype, seed=1),
        normal(width, inputs, dtype=dtype, seed=2),
        0.5 + normal(width, dtype=dtype, seed=3),
        normal(modes, dtype=dtype, seed=4).abs(),
        normal(outputs, width, dtype=dtype, seed=5),
        normal(outputs, dtype=dtype, seed=6),
        *([normal(modes, dtype=dtype, seed=8) / 2] if paired else []),
    )
    return tuple(tensor.to(device_of(backend)).requires_grad_() for tensor in tensors)


def fused(backend: str, acts: tuple[str, str]) -> Callable[..., Tensor]:
    return lambda *tensors: apply_rnn_readout(*tensors[:6], DT, *acts, backend, *tensors[6:])  # type: ignore[call-arg]


def definition(acts: tuple[str, str]) -> Callable[..., Tensor]:
    def run(
        x: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor, offset: Tensor,
        turn: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        h, _ = reference.rnn_scan(x @ weight.T + bias, rate, dt=DT, nonlinearity=acts[0], frequency=turn)
        return activation(acts[1])(h) @ readout.T + offset

    return run


def check(backend: str, acts: tuple[str, str], inputs: tuple[Tensor, ...]) -> None:
    y, expected = fused(backend, acts)(*inputs), definition(acts)(*inputs)
    rtol = 1e-10
    torch.testing.assert_close(y, expected, rtol=rtol, atol=rtol)
    pull = normal(*y.shape, dtype=y.dtype, seed=7).to(y.device)
    pair = [torch.autograd.grad(result, inputs, pull) for result in (y, expected)]
    for name, ours, theirs in zip(NAMES[: len(inputs)], *pair, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol * float(theirs.abs().max()), msg=name)
        assert ours.is_contiguous(), name


# Lengths around blocks and chunks of 16 steps, batches around 16 lanes, widths around a program of 32 to 128 units.
@pytest.mark.parametrize("shape", [(1, 1, 1), (17, 16, 3), (3, 300, 2), (130, 17, 5)])
@pytest.mark.parametrize("acts", ACTS)
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_values_and_gradients(backend: str, acts: tuple[str, str], shape: tuple[int, int, int]) -> None:
    check(backend, acts, arguments(backend, *shape))


# Pairs in tasks of an odd number of units each, and the last unit of a block.
@pytest.mark.parametrize("shape", [(1, 1, 2), (17, 16, 4), (3, 300, 2), (130, 17, 6)])
@pytest.mark.parametrize("acts", [("tanh", "linear"), ("relu", "linear"), ("linear", "tanh")])
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_values_and_gradients_of_pairs(backend: str, acts: tuple[str, str], shape: tuple[int, int, int]) -> None:
    check(backend, acts, arguments(backend, *shape, 2, 3, paired=True))


@pytest.mark.parametrize(
    ("backend", "features"), for_backends(CPU_BACKENDS, [(3, 1), (1, 4), (2, 2), (15, 1), (1, 15)])
)
def test_many_features(backend: str, features: tuple[int, int]) -> None:
    check(backend, ("tanh", "linear"), arguments(backend, 9, 33, 5, *features))


@pytest.mark.parametrize("backend", TRITON)
@pytest.mark.parametrize("acts", ACTS)
@pytest.mark.parametrize(("width", "paired"), [(3, False), (4, True)])
def test_values_and_gradients_of_kernels(backend: str, acts: tuple[str, str], width: int, paired: bool) -> None:
    check(backend, acts, arguments(backend, 2, 19, width, paired=paired))


@pytest.mark.parametrize("backend", TRITON)
@pytest.mark.parametrize(
    ("shape", "features"), [((2, 17, 140), (1, 1)), ((1, 18, 70), (3, 2)), ((1, 5, 3), (8, 8)), ((1, 290, 1), (1, 1))]
)
def test_blocks_of_kernels(backend: str, shape: tuple[int, int, int], features: tuple[int, int]) -> None:
    check(backend, ("tanh", "linear"), arguments(backend, *shape, *features))


@pytest.mark.parametrize("backend", TRITON)
@pytest.mark.parametrize(("shape", "features"), [((1, 17, 142), (1, 1)), ((1, 18, 66), (3, 2))])
def test_blocks_of_kernels_of_pairs(backend: str, shape: tuple[int, int, int], features: tuple[int, int]) -> None:
    check(backend, ("tanh", "linear"), arguments(backend, *shape, *features, paired=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("paired", [False, True])
def test_parameters_alone(backend: str, paired: bool) -> None:
    # x needs no gradient: the same gradients of the rest, bit for bit, and again in a second run.
    inputs = arguments(backend, 3, 18, 4, paired=paired)
    run = fused(backend, ("tanh", "linear"))
    runs = [(inputs, inputs[1:]), ((inputs[0].detach(), *inputs[1:]), inputs[1:])] * 2
    first, *others = [torch.autograd.grad(run(*tensors).square().sum(), wanted) for tensors, wanted in runs]
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(("backend", "acts"), for_backends(BACKENDS, [("tanh", "linear"), ("linear", "tanh")]))
@pytest.mark.parametrize("paired", [False, True])
def test_single_precision_stays_within_derived_bounds(paired: bool, backend: str, acts: tuple[str, str]) -> None:
    inputs = arguments(backend, 3, 40, 6, dtype=torch.float32, paired=paired)
    y = fused(backend, acts)(*inputs)
    pull = normal(*y.shape, dtype=y.dtype, seed=7).to(y.device)
    found = {
        "y": y,
        **dict(zip((f"grad_{n}" for n in NAMES[: len(inputs)]), torch.autograd.grad(y, inputs, pull), strict=True)),
    }
    given = [tensor.detach().cpu() for tensor in inputs]
    bounds = rnn_readout_bounds(given, pull.cpu(), dt=DT, act_in=acts[0], act_out=acts[1])
    assert bounds.keys() == found.keys()
    for name, bound in bounds.items():
        error = (found[name].detach().cpu().double() - bound.exact).abs()
        assert (error <= bound.error).all(), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_sixteen_bits_outside_only(backend: str, dtype: torch.dtype) -> None:
    inputs = arguments(backend, 9, 64, 5, dtype=dtype)
    inputs = (*inputs[:3], inputs[3].detach().float().requires_grad_(), *inputs[4:])
    y = fused(backend, ("tanh", "linear"))(*inputs)
    wide = [tensor.detach().float().requires_grad_() for tensor in inputs]
    expected = fused(backend, ("tanh", "linear"))(*wide)
    assert y.dtype == dtype
    assert torch.equal(y, expected.to(dtype))
    grads = torch.autograd.grad(y.sum(), inputs)
    assert [g.dtype for g in grads] == [tensor.dtype for tensor in inputs]


@pytest.mark.parametrize("backend", BACKENDS)
def test_diverging_states_diverge_as_the_definition_does(backend: str) -> None:
    inputs = [tensor.detach() for tensor in arguments(backend, 9, 300, 2)]
    inputs[3] = torch.full_like(inputs[3], 40.0)  # dt * rate = 28: a state grows by 27 a step
    y, expected = fused(backend, ("linear", "linear"))(*inputs), definition(("linear", "linear"))(*inputs)
    assert not expected[:, -1].isfinite().any()
    assert torch.equal(y.isfinite(), expected.isfinite())
    inputs[3] = torch.full_like(inputs[3], 40.0).requires_grad_()
    y = fused(backend, ("tanh", "linear"))(*inputs)
    assert y.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 5), (2, 0)])
def test_nothing_to_do(backend: str, shape: tuple[int, int]) -> None:
    inputs = arguments(backend, *shape, 3)
    y = fused(backend, ("tanh", "linear"))(*inputs)
    assert y.shape == (*shape, 1)
    for gradient, tensor in zip(torch.autograd.grad(y.sum(), inputs), inputs, strict=True):
        assert gradient.shape == tensor.shape
        assert not gradient.any()
    compiled = torch.compile(fused(backend, ("tanh", "linear")), fullgraph=True, backend="aot_eager")
    for gradient in torch.autograd.grad(compiled(*inputs).sum(), inputs):
        assert not gradient.any()
    torch._dynamo.reset()


@pytest.mark.parametrize(("backend", "acts"), for_backends(CPU_BACKENDS, [("tanh", "linear"), ("linear", "tanh")]))
@pytest.mark.parametrize("paired", [False, True])
def test_derivatives(backend: str, acts: tuple[str, str], paired: bool) -> None:
    inputs = arguments(backend, 2, 4, 2, 2, 2, paired=paired)
    if backend == "torch":
        check_by_differences(fused(backend, acts), inputs)
    else:
        check_alike(fused(backend, acts), fused("torch", acts), inputs)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("paired", [False, True])
def test_function_transforms(backend: str, paired: bool) -> None:
    inputs = tuple(tensor.detach() for tensor in arguments(backend, 2, 5, 2, paired=paired))
    more = (None,) * paired
    ours, theirs = (
        lambda *tensors, run=run: run(*tensors).square().sum()
        for run in (fused(backend, ("tanh", "linear")), definition(("tanh", "linear")))
    )
    torch.testing.assert_close(hessian(ours, 3)(*inputs), hessian(theirs, 3)(*inputs))
    for dims in ((0, None, None, None, None, None, *more), (0, None, None, 0, None, None, *more)):
        mapped = [t if d is None else torch.stack([t, 0.5 * t]) for t, d in zip(inputs, dims, strict=True)]
        for function, other in ((ours, theirs), (grad(ours, 3), grad(theirs, 3))):
            torch.testing.assert_close(vmap(function, dims)(*mapped), vmap(other, dims)(*mapped))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("differentiated", "paired"), [(False, False), (True, False), (True, True)])
def test_operator_keeps_pytorchs_rules(differentiated: bool, paired: bool, backend: str) -> None:
    given = arguments(backend, 2, 5, 4, paired=paired)
    inputs = [t.detach().float().requires_grad_(differentiated) for t in given]
    more = () if paired else (None,)
    opcheck(torch.ops.cofm_triton.rnn_readout.default, (*inputs, *more, DT, "tanh", "linear", backend, True))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize(("with_grad_x", "paired"), [(False, False), (True, False), (True, True)])
def test_backward_operator_keeps_pytorchs_rules(with_grad_x: bool, paired: bool, backend: str) -> None:
    x, *rest = (t.detach() for t in arguments(backend, 2, 5, 4, paired=paired))
    rest, turn = rest[:5], rest[5] if paired else None
    y, states = torch.ops.cofm_triton.rnn_readout.default(x, *rest, turn, DT, "tanh", "linear", backend, True)
    inputs = (y, x, *rest[:-1], turn, states, DT, "tanh", "linear", backend, with_grad_x)
    opcheck(torch.ops.cofm_triton.rnn_readout_backward.default, inputs)


def test_chunks_cover_time_evenly() -> None:
    for length in (1, 16, 17, 256, 257, 16384, 10**6):
        chunk = chunk_length(length)
        assert chunk % 16 == 0
        assert length**0.5 - 1 <= chunk < 1.25 * length**0.5 + 17  # quotients of whole numbers lose less than one
        assert chunk * chunk_count(length) >= length


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_what_a_training_step_keeps(backend: str) -> None:
    batch, length, width = 8, 1024, 64
    inputs = arguments(backend, batch, length, width, dtype=torch.float32)

    def kept(run: Callable[..., Tensor]) -> int:
        """Bytes saved for the backward pass, parameters apart."""
        storages: dict[int, int] = {}
        parameters = {tensor.untyped_storage().data_ptr() for tensor in inputs[1:]}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = run(*inputs)
        assert result.requires_grad
        return sum(storages.values())

    ours = kept(fused(backend, ("hardtanh", "linear")))
    assert ours == memory(batch, length, 1, width, 4)
    assert ours < 0.05 * kept(definition(("hardtanh", "linear")))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("keep", [False, True])
def test_a_graph_of_any_batch_may_get_few_sequences(keep: bool, backend: str) -> None:
    inputs = tuple(tensor.detach() for tensor in arguments(backend, 2, 33, 5))
    y, states = torch.ops.cofm_triton.rnn_readout.default(*inputs, None, DT, "tanh", "linear", backend, keep)
    torch.testing.assert_close(y, definition(("tanh", "linear"))(*inputs))
    assert states.shape == (2, 3 if keep else 0, 5)


def test_when_it_is_fused() -> None:
    assert is_fused(1, MAX_FEATURES - 1, 1, "triton")
    assert not is_fused(64, MAX_FEATURES, 1, "triton")
    assert not is_fused(64, 1, 1, "reference")
    assert is_fused(8, 1, 1, "numba")
    assert not is_fused(7, 1, 1, "numba")
    assert is_fused(8, 4, 4, "numba", paired=True)
    assert not is_fused(8, 5, 4, "numba", paired=True)
    assert is_fused(8, 1, 1, "numba", paired=True, double=True)
    assert is_fused(8, 1, 1, "triton", paired=True)
    assert not is_fused(8, 1, 1, "triton", paired=True, double=True)


def test_traffic() -> None:
    assert traffic(64, 16384, 2, 3, 4) == 5 * 64 * 16384 * 4

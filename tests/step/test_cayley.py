"""Orthogonal matrices from free ones, and what an orthogonal layer does with them."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.utils import parametrizations

from cofm_triton import reference
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.layers.stable_rnn import StableRNN
from cofm_triton.model_file import _OPTIONS, load_model
from cofm_triton.step.cayley import _row_signs, cayley, cayley_inverse

EPS = torch.finfo(torch.float64).eps


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def reflection(size: int) -> Tensor:
    """I - 2 v v^T; its mirror v has entries of every size."""
    v = torch.logspace(-6, 0, size, dtype=torch.float64)
    return torch.eye(size, dtype=torch.float64) - 2 * torch.outer(v, v) / v.square().sum()


def permutation(size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64)[torch.randperm(size, generator=torch.Generator().manual_seed(1))]


def quarter_turns(size: int) -> Tensor:
    """Pairs of units turned by a quarter: every diagonal entry is 0."""
    return torch.block_diag(*[torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)] * (size // 2))


ORTHOGONAL: dict[str, Callable[[int], Tensor]] = {
    "random": lambda size: torch.linalg.qr(random(size, size)).Q,
    "one": lambda size: torch.eye(size, dtype=torch.float64),
    "minus one": lambda size: -torch.eye(size, dtype=torch.float64),
    "permutation": permutation,
    "cycle": lambda size: torch.eye(size, dtype=torch.float64).roll(1, 0),
    "mirror": lambda size: torch.eye(size, dtype=torch.float64).flip(0),
    "reflection": reflection,
    "quarter turns": quarter_turns,
    "half turns, nearly": lambda size: cayley(1e6 * random(size, size)),
}


def pivots(matrix: Tensor) -> Tensor:
    """Of elimination without exchanges: quotients of leading minors."""
    minors = torch.stack([torch.linalg.det(matrix[:k, :k]) for k in range(len(matrix) + 1)])
    return minors[1:] / minors[:-1]


@pytest.mark.parametrize("size", [2, 6, 40])
@pytest.mark.parametrize("name", ORTHOGONAL)
def test_every_orthogonal_matrix_is_reached(name: str, size: int) -> None:
    basis = ORTHOGONAL[name](size)
    signs = _row_signs(basis)
    assert (signs.abs() == 1).all()
    turned = signs[:, None] * basis
    assert pivots(turned + torch.eye(size, dtype=torch.float64)).abs().min() >= 1 - 1e-9
    free = cayley_inverse(basis)
    assert torch.equal(free, -free.T)
    # The map turns a rounding of A by at most its size back into one of P, because |(I - A/2)^-1| <= 1.
    torch.testing.assert_close(cayley(free), turned, rtol=0, atol=4 * size * EPS * max(1.0, free.abs().max().item()))
    torch.testing.assert_close(free, reference.cayley_inverse(basis), rtol=1e-9, atol=1e-9)


def test_free_matrices_of_random_ones_are_small() -> None:
    """Some signs give |A| <= 2 (Kahan); this matrix has determinant -1, so that without signs there is no A at all."""
    assert cayley_inverse(torch.linalg.qr(random(128, 128)).Q).abs().max() < 5


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 3)])
def test_a_basis_is_square(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="basis must be a square matrix, got shape"):
        cayley_inverse(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_cayley_is_the_definition_in_float64(size: int, dtype: torch.dtype) -> None:
    free = (3 * random(size, size)).to(dtype)
    basis, expected = cayley(free), reference.cayley(free.double())
    assert basis.dtype == torch.float64
    # A solution loses as many roundings as I - A/2 has for a condition number.
    solved = 4 * EPS * torch.linalg.cond(torch.eye(size, dtype=torch.float64) - (free - free.T).double() / 4).item()
    torch.testing.assert_close(basis, expected, rtol=0, atol=solved)
    torch.testing.assert_close(basis @ basis.T, torch.eye(size, dtype=torch.float64), rtol=0, atol=2 * solved)


def test_derivatives_to_second_order() -> None:
    free = random(4, 4).requires_grad_()
    assert torch.autograd.gradcheck(cayley, free)
    assert torch.autograd.gradgradcheck(cayley, free)


def test_broken_weights_give_nan() -> None:
    """They do not raise an error, which on a GPU would take a wait for it."""
    assert cayley(torch.full((2, 2), float("nan"))).isnan().all()
    assert cayley(torch.tensor([[0.0, float("inf")], [0.0, 0.0]])).isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_no_bit(dtype: torch.dtype) -> None:
    free = random(5, 5).to(dtype).requires_grad_()
    expected = cayley(free)
    (slope,) = torch.autograd.grad(expected.square()[0].sum(), free)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        basis = cayley(free)
        assert torch.equal(basis, expected)
        assert torch.equal(torch.autograd.grad(basis.square()[0].sum(), free)[0], slope)


def test_no_number_is_looked_at() -> None:
    free = torch.empty(3, 3, device="meta")
    assert cayley(free).shape == cayley_inverse(free).shape == (3, 3)
    assert cayley(free).device.type == "meta"


# --- layers ------------------------------------------------------------------------------------


def orthogonal(nonlinearity: str = "tanh", **options: Any) -> StableRNN:
    """With any P: a fresh one is 1 where the nonlinearity is inside."""
    torch.manual_seed(0)
    layer = StableRNN(2, 4, nonlinearity=nonlinearity, batch_first=True, recurrence="orthogonal", **options)
    for name, parameter in layer.named_parameters():
        if name.startswith("basis"):
            parameter.data.copy_(torch.nn.init.orthogonal_(torch.empty(parameter.shape, dtype=torch.float64)))
    return layer


@pytest.mark.parametrize("nonlinearity", ["linear", "tanh"])
def test_signs_of_rows_change_no_output(nonlinearity: str) -> None:
    """W = P^T diag(rate) P stays, and states are in the coordinates of the units, not of P."""
    layer, x, h0 = orthogonal(nonlinearity, constrained=False, dtype=torch.float64), random(3, 9, 2), random(1, 3, 4)
    made = orthogonal(nonlinearity, dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            made.get_parameter(name).copy_(cayley_inverse(parameter) if name == "basis_l0" else parameter)
    assert not torch.allclose(made.basis(), layer.basis())
    torch.testing.assert_close(made.basis().abs(), layer.basis().abs())
    for ours, expected in zip(made(x, h0), layer(x, h0), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_basis_is_rounded_once(dtype: torch.dtype) -> None:
    layer = orthogonal(dtype=dtype)
    assert layer.basis().dtype == torch.promote_types(dtype, torch.float32)
    assert torch.equal(layer.basis(), cayley(layer.basis_l0).to(layer.basis().dtype))


def test_basis_names_what_it_needs() -> None:
    layer = orthogonal(num_layers=2, bidirectional=True)
    assert not torch.equal(layer.basis(), layer.basis("_l1_reverse"))
    with pytest.raises(ValueError, match=r"suffix must be one of \('_l0', '_l0_reverse', .* got 'l0'"):
        layer.basis("l0")
    with pytest.raises(ValueError, match="basis needs recurrence='orthogonal', got 'dense'"):
        StableRNN(1, 2, recurrence="dense").basis()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("nonlinearity", ["linear", "tanh"])
def test_every_dtype(nonlinearity: str, dtype: torch.dtype) -> None:
    """Outputs and gradients of a layer against the same weights in float64."""
    layer, x = orthogonal(nonlinearity, dtype=dtype), random(3, 20, 2).to(dtype)
    exact = copy.deepcopy(layer).double()
    output, expected = layer(x)[0], exact(x.double())[0]
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(output.double(), expected, rtol=8 * eps, atol=8 * eps * expected.abs().max().item())
    output.sum().backward()
    expected.sum().backward()
    slope, right = layer.get_parameter("basis_l0").grad, exact.get_parameter("basis_l0").grad
    assert slope is not None and right is not None
    torch.testing.assert_close(slope.double(), right, rtol=0, atol=32 * eps * right.abs().max().item())


@pytest.mark.parametrize("nonlinearity", ["linear", "tanh"])
def test_layers_have_derivatives_to_second_order(nonlinearity: str) -> None:
    layer, x = orthogonal(nonlinearity, dtype=torch.float64), random(1, 3, 2)

    def output(free: Tensor) -> Tensor:
        states: Tensor = functional_call(layer, {"basis_l0": free}, (x,))[0]
        return states

    assert torch.autograd.gradgradcheck(output, random(4, 4).requires_grad_())


def test_what_spawn_sends_is_the_layer() -> None:
    """A process that is spawned gets its arguments by this pickler, with tensors in shared memory."""
    layer = orthogonal()
    sent = pickle.loads(ForkingPickler.dumps(layer))
    assert sent.get_parameter("basis_l0").is_shared()
    assert torch.equal(sent(torch.ones(1, 5, 2))[0], layer(torch.ones(1, 5, 2))[0])


def test_models_side_by_side() -> None:
    models = [RNNFunctional(1, 3, recurrence="orthogonal", dtype=torch.float64) for _ in range(3)]
    parameters, buffers = stack_module_state(models)
    x = random(2, 7, 1)
    together = vmap(lambda p, b: functional_call(models[0], (p, b), (x,)))(parameters, buffers)
    torch.testing.assert_close(together, torch.stack([model(x) for model in models]), rtol=1e-12, atol=1e-12)


def test_loaded_by_assignment_from_a_layer_without_numbers() -> None:
    """As `from_pretrained` does it: shapes first, then the tensors of the file themselves."""
    saved, x = orthogonal(), torch.ones(1, 5, 2)
    layer = orthogonal(device="meta")
    layer.load_state_dict(saved.state_dict(), assign=True)
    assert torch.equal(layer(x)[0], saved(x)[0])


# --- files of earlier versions, which used PyTorch's parametrisation ------------------------------


def parametrised(model: nn.Module, dtype: torch.dtype = torch.float64, seed: int = 0) -> dict[str, Tensor]:
    """Replaces free matrices by PyTorch's parametrisation and trains it a little; the state dict."""
    generator = torch.Generator().manual_seed(seed)
    for module in [m for m in model.modules() if isinstance(m, StableRNN)]:
        for name in [n for n, _ in module.named_parameters(recurse=False) if n.startswith("basis")]:
            start = torch.linalg.qr(torch.randn(module.hidden_size, module.hidden_size, generator=generator).double()).Q
            setattr(module, name, nn.Parameter(start.to(dtype)))
            parametrizations.orthogonal(module, name, orthogonal_map="cayley")
            original = module.get_parameter(f"parametrizations.{name}.original")
            with torch.no_grad():
                original.add_(torch.randn(original.shape, generator=generator).to(dtype))
    return model.state_dict()


def test_pytorchs_parametrisation_is_another_form_of_the_same_matrix() -> None:
    holder, layer = orthogonal(dtype=torch.float64), orthogonal(dtype=torch.float64)
    state = parametrised(holder)
    kept = set(state)
    layer.load_state_dict(state)
    assert set(state) == kept  # the caller's dict stays
    torch.testing.assert_close(layer.basis().abs(), holder.basis_l0.abs(), rtol=1e-12, atol=1e-13)
    signs = (layer.basis() @ holder.basis_l0.T).detach()
    torch.testing.assert_close(signs.abs(), torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-13)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("nonlinearity", ["linear", "tanh"])
def test_old_checkpoints_load(nonlinearity: str, dtype: torch.dtype, assign: bool) -> None:
    options: dict[str, Any] = dict(
        num_layers=2, bidirectional=True, nonlinearity=nonlinearity, recurrence="orthogonal", dtype=dtype
    )
    holder, model, free = (RNNFunctional(1, 5, **options, constrained=c) for c in (True, True, False))
    state = parametrised(holder, dtype)
    result = model.load_state_dict(state, assign=assign)
    assert not result.missing_keys and not result.unexpected_keys
    with torch.no_grad():  # the same matrices without any map
        for name, parameter in free.named_parameters():
            old = name.rpartition(".")[2]
            parameter.copy_(getattr(holder.rnn, old) if "basis" in name else state[name])
    x = random(2, 11, 1).to(dtype)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(model(x), free(x), rtol=64 * eps, atol=64 * eps)


def test_model_files_of_earlier_versions_load(tmp_path: Path) -> None:
    holder = RNNFunctional(1, 3, recurrence="orthogonal")
    header = {
        "version": "0.1.0", "input_size": 1, "hidden_size": 3, "output_size": 1, "notes": {},
        "options": {name: getattr(holder.rnn, name) for name in _OPTIONS},
    }  # fmt: skip
    tensors = {name: value.contiguous() for name, value in parametrised(holder, torch.float32).items()}
    assert "rnn.parametrizations.basis_l0.0.base" in tensors
    save_file(tensors, tmp_path / "m", metadata={"cofm": json.dumps(header)})
    basis = load_model(tmp_path / "m").rnn.basis()
    torch.testing.assert_close(basis.abs(), holder.rnn.basis_l0.abs(), rtol=1e-5, atol=1e-6)


def test_half_an_old_checkpoint_is_refused() -> None:
    state = parametrised(orthogonal())
    del state["parametrizations.basis_l0.0.base"]
    with pytest.raises(RuntimeError, match=r"Missing key.*basis_l0"):
        orthogonal().load_state_dict(state)

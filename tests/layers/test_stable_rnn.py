"""StableRNN and RNNFunctional against the reference and the conventions of torch.nn.RNN."""

import copy
import io
import itertools
import math
import pickle
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence

import cofm_triton as cofm
from cofm_triton import reference
from cofm_triton.layers import checks
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.layers.stable_rnn import RECURRENCES, StableRNN
from cofm_triton.model_file import load_model, save_model
from cofm_triton.step.activations import NONLINEARITIES, properties
from cofm_triton.step.parameterization import PARAMETERIZATIONS, parameterization

DISCRETIZATIONS = ("exact", "euler")


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Weights of size one, so that saturating units saturate and every bias matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if "rate" in name:
                noise = parameter + 0.3 * noise
            parameter.copy_(0.5 * noise if "weight_hh" in name else noise)


def weights(module: nn.Module) -> dict[str, Tensor]:
    """What a module computes with, by the names of the definition."""
    return dict(module.named_parameters())


def data(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def tolerance(dtype: torch.dtype, length: int) -> float:
    """Of states of size up to `length`: every step rounds its state a few times."""
    return 8 * torch.finfo(dtype).eps * length**0.5 * max(1, length**0.5)


def dynamics(rnn: StableRNN) -> reference.Dynamics:
    names = ["parameterization", "recurrence", "nonlinearity", "dt", "discretization", "constrained", "normalize_input"]
    names += ["oscillating", "max_time_scale"]
    return reference.Dynamics(**{name: getattr(rnn, name) for name in names})


def one_sequence(layer: StableRNN, x: Tensor, h0: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The definition: one sequence x (T, d), all layers and directions, through the reference."""
    directions = 2 if layer.bidirectional else 1
    states: list[Tensor] = []
    found = weights(layer)
    for level in range(layer.num_layers):
        outputs = []
        for suffix in ("", "_reverse")[:directions]:
            names = ("weight_ih", "bias", "rate", "frequency", "basis", "weight_hh")
            params = {
                f"rnn.{name}_l0": found[f"{name}_l{level}{suffix}"]
                for name in names
                if f"{name}_l{level}{suffix}" in found
            }
            source = x.flip(0) if suffix else x
            start = None if h0 is None else h0[len(states)][None]
            h, last = reference.hidden(params, source[None], dynamics(layer), start)
            output = h[0]
            if layer.recurrence == "ssm":
                output = reference.nonlinearity(layer.nonlinearity).act(output)
            outputs.append(output.flip(0) if suffix else output)
            states.append(last[0])
        x = torch.cat(outputs, -1)
    return x, torch.stack(states)


# --- the model is the definition ---------------------------------------------------------------


@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("kind", PARAMETERIZATIONS)
def test_functional_is_the_reference(recurrence: str, discretization: str, nonlinearity: str, kind: str) -> None:
    model = RNNFunctional(
        2,
        5,
        3,
        recurrence=recurrence,
        discretization=discretization,
        dt=0.5,
        nonlinearity=nonlinearity,
        parameterization=kind,
        dtype=torch.float64,
    )
    randomise(model)
    x = data(3, 33, 2).requires_grad_()
    params = dict(model.named_parameters())
    expected = reference.rnn_functional(weights(model), x, dynamics(model.rnn))
    y = model(x)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    cotangent = data(3, 33, 3, seed=2)
    ours = torch.autograd.grad(y, [x, *params.values()], cotangent)
    theirs = torch.autograd.grad(expected, [x, *params.values()], cotangent)
    for name, a, b in zip(["x", *params], ours, theirs, strict=True):
        atol = 1e-10 * max(1.0, b.abs().max().item())
        torch.testing.assert_close(a, b, rtol=1e-10, atol=atol, msg=f"gradient of {name}")


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("recurrence", ["diagonal", "ssm"])
@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
@pytest.mark.parametrize("nonlinearity", ["linear", "tanh", "relu"])
@pytest.mark.parametrize(("normalize_input", "oscillating"), [(False, False), (True, False), (True, True)])
def test_fused_functional_is_the_reference(
    recurrence: str, discretization: str, nonlinearity: str, normalize_input: bool, oscillating: bool, backend: str
) -> None:
    options: dict[str, Any] = dict(recurrence=recurrence, discretization=discretization, nonlinearity=nonlinearity)
    options.update(normalize_input=normalize_input, oscillating=oscillating)
    model = RNNFunctional(2, 5, 3, dt=0.5, bias=False, dtype=torch.float64, backend=backend, **options)
    randomise(model)
    x = data(9, 33, 2)
    assert model._is_fused(x)
    params = dict(model.named_parameters())
    expected = reference.rnn_functional(params, x, dynamics(model.rnn))
    y = model(x)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    ours, theirs = (torch.autograd.grad(result.square().sum(), list(params.values())) for result in (y, expected))
    for name, a, b in zip(params, ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=f"gradient of {name}")


def test_what_the_fused_functional_leaves_to_its_parts() -> None:
    x = data(9, 5, 1, dtype=torch.float32)
    model = RNNFunctional(1, 4)
    assert model._is_fused(x)
    assert RNNFunctional(1, 4, oscillating=True)._is_fused(x)
    for options in ({"num_layers": 2}, {"bidirectional": True}, {"backend": "reference"}, {"recurrence": "dense"}):
        assert not RNNFunctional(1, 4, **options)._is_fused(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not model._is_fused(x)
    fused = model(x)
    seen: list[Tensor] = []
    handle = model.readout.register_forward_hook(lambda module, inputs, output: seen.append(output))
    torch.testing.assert_close(model(x), fused)
    assert torch.equal(seen[0], model(x))
    handle.remove()
    model.readout = nn.utils.parametrizations.weight_norm(model.readout)
    assert not model._is_fused(x)


def test_heaviside_response_in_numbers() -> None:
    model = RNNFunctional(
        1,
        1,
        parameterization="direct",
        nonlinearity="linear",
        discretization="euler",
        dt=0.5,
        dtype=torch.float64,
    )
    values = {"rate_l0": 0.3, "weight_ih_l0": 0.7, "bias_l0": 0.1}
    with torch.no_grad():
        for name, value in values.items():
            getattr(model.rnn, name).fill_(value)
        model.readout.weight.fill_(1.3)
        model.readout.bias.fill_(-0.2)
    y = model(torch.full((1, 50, 1), 2.0, dtype=torch.float64))[0, :, 0]
    expected = {0: 0.775, 9: 5.020316371785302, 49: 6.298077529685869}
    assert [y[k].item() for k in expected] == pytest.approx(list(expected.values()), rel=1e-12)


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_exact_linear_layer_solves_the_differential_equation(recurrence: str) -> None:
    """Halving dt while holding the input over two steps changes nothing: it is the solution."""
    options: dict[str, Any] = {"recurrence": recurrence, "nonlinearity": "linear", "dtype": torch.float64}
    options["normalize_input"] = False
    coarse = StableRNN(2, 4, batch_first=True, dt=0.8, **options)
    fine = StableRNN(2, 4, batch_first=True, dt=0.4, **options)
    randomise(coarse)
    fine.load_state_dict({**coarse.state_dict(), "_extra_state": fine.get_extra_state()})  # the same under another dt
    x = data(3, 20, 2)
    output = fine(x.repeat_interleave(2, 1))[0][:, 1::2]
    torch.testing.assert_close(output, coarse(x)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("recurrence", ["diagonal", "ssm"])
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("dt", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("oscillating", [False, True])
def test_exact_is_stable_for_every_weight(nonlinearity: str, recurrence: str, dt: float, oscillating: bool) -> None:
    """Without input every state dies out, also where Euler's method with dt * rate > 2 does not."""
    layer = StableRNN(
        1,
        4,
        nonlinearity=nonlinearity,
        dt=dt,
        bias=False,
        parameterization="exp",
        recurrence=recurrence,
        oscillating=oscillating,
        dtype=torch.float64,
    )
    with torch.no_grad():
        layer.rate_l0.copy_(torch.tensor([-1.0, 0.0, 3.0, 20.0])[: len(layer.rate_l0)] - math.log(dt))
        if oscillating:
            layer.get_parameter("frequency_l0").copy_(torch.tensor([1.7, -300.0]))
    h0 = torch.tensor([[0.9, -0.9, 0.7, -0.5]], dtype=torch.float64) / dt
    if nonlinearity == "relu" and recurrence == "diagonal":
        if oscillating:
            return  # states rise until -A h <= 0, somewhere; that gradients do not grow: tests/step/test_oscillation.py
        h0 = -h0.abs()  # relu(-a h) moves only negative states, towards zero
    _, h_n = layer(torch.zeros(400, 1, dtype=torch.float64), h0)
    assert (h_n.abs() < 1e-12).all()


# --- oscillating modes and normalised inputs ---------------------------------------------------


@pytest.mark.parametrize("recurrence", ["diagonal", "ssm"])
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
@pytest.mark.parametrize("normalize_input", [False, True])
@pytest.mark.parametrize("oscillating", [False, True])
@pytest.mark.parametrize("width", [4, 5])
def test_modes_are_the_reference(
    recurrence: str, nonlinearity: str, discretization: str, normalize_input: bool, oscillating: bool, width: int
) -> None:
    options: dict[str, Any] = dict(recurrence=recurrence, nonlinearity=nonlinearity, discretization=discretization)
    options |= dict(oscillating=oscillating, normalize_input=normalize_input, dt=0.5)
    layer = StableRNN(2, width, batch_first=True, dtype=torch.float64, **options)
    randomise(layer)
    x, h0 = data(3, 9, 2).requires_grad_(), data(1, 3, width, seed=3).requires_grad_()
    params = {f"rnn.{name}": value for name, value in layer.named_parameters()}
    expected, last = reference.hidden(params, x, dynamics(layer), h0[0])
    if recurrence == "ssm":
        expected = reference.nonlinearity(nonlinearity).act(expected)
    output, h_n = layer(x, h0)
    torch.testing.assert_close((output, h_n[0]), (expected, last), rtol=1e-11, atol=1e-11)
    inputs = [x, h0, *layer.parameters()]
    gradients = [
        torch.autograd.grad(out.square().sum() + end.sum(), inputs) for out, end in ((output, h_n), (expected, last))
    ]
    largest = max(g.abs().max().item() for g in gradients[1])
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-11 * largest)


KEEP_SIZE = [
    *(("ssm", act, turning) for act in NONLINEARITIES for turning in (True, False)),
    *(("diagonal", act, turning) for act in NONLINEARITIES[1:] for turning in (True, False)),
    *((recurrence, act, None) for recurrence in ("dense", "orthogonal") for act in NONLINEARITIES),
]


@pytest.mark.parametrize("kind", KEEP_SIZE, ids=str)
@pytest.mark.parametrize(
    ("depth", "length"), [(1, 1024), (8, 64), (8, 1024), pytest.param(8, 16384, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fresh_stacks_keep_their_size(kind: tuple[str, str, bool | None], depth: int, length: int, seed: int) -> None:
    """Outputs and gradients stay near the size of the input, noise or constant, whatever the depth and the length."""
    recurrence, nonlinearity, turning = kind
    torch.manual_seed(seed)
    layer = StableRNN(16, 64, depth, nonlinearity, recurrence=recurrence, oscillating=turning, batch_first=True)
    x = torch.stack((torch.randn(length, 16), torch.ones(length, 16))).requires_grad_()
    output, _ = layer(x)
    noise, constant = output.detach().square().mean((1, 2)).sqrt()
    assert 0.1 <= noise <= 3
    assert constant <= 50  # the product of eight layers' factors where all units fade
    of_input, *of_weights = torch.autograd.grad(output[0], (x, *layer.parameters()), torch.randn_like(output[0]))
    assert 0.1 <= of_input[0].square().mean().sqrt() <= 10
    size = {name: float(g.norm()) for (name, _), g in zip(layer.named_parameters(), of_weights, strict=True)}
    assert 1 / 50 <= size["weight_ih_l0"] / size[f"weight_ih_l{depth - 1}"] <= 50


@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
def test_gradients_of_turning_relu_layers_do_not_grow(discretization: str) -> None:
    """No input makes the difference between two states grow, however large the raw frequencies."""
    torch.manual_seed(0)
    layer = StableRNN(8, 16, 1, "relu", recurrence="diagonal", discretization=discretization, dtype=torch.float64)
    with torch.no_grad():
        layer.get_parameter("frequency_l0").normal_(0, 100)
    start = torch.randn(1, 16, dtype=torch.float64)
    near = start + 1e-3 * torch.randn(1, 16, dtype=torch.float64)
    x = torch.randn(500, 8, dtype=torch.float64)
    (first, _), (second, _) = layer(x, start), layer(x, near)
    distance = torch.cat(((near - start).abs().amax(1), (second - first).abs().amax(1)))
    assert bool((distance.diff() <= 1e-12).all())


def test_normalised_units_have_the_variance_of_their_input() -> None:
    """Whatever their memory: the state of a unit that remembers n steps would grow like sqrt(n) otherwise."""
    options: dict[str, Any] = dict(batch_first=True, bias=False, max_time_scale=100)
    for oscillating in (False, True):
        layer = StableRNN(64, 64, 1, "linear", oscillating=oscillating, **options)
        with torch.no_grad():
            layer.weight_ih_l0.copy_(torch.eye(64))
        torch.manual_seed(1)
        states, _ = layer(torch.randn(64, 1000, 64))
        # An average over 64 sequences and 700 steps, which are alike for the 100 or so that the slowest unit remembers.
        deviation = states[:, 300:].square().mean((0, 1)).sqrt()
        assert (deviation - 1).abs().max() < 4 / math.sqrt(64 * 7)


# --- matrices -----------------------------------------------------------------------------------


def paper_layer(recurrence: str, kind: str, nonlinearity: str, **options: Any) -> StableRNN:
    """A layer in the paper's own discretisation, with weights of size one."""
    if recurrence == "diagonal":
        options = {"oscillating": False, "normalize_input": False} | options
    layer = StableRNN(
        3, 5, nonlinearity=nonlinearity, batch_first=True, parameterization=kind, recurrence=recurrence, dt=0.5,
        discretization="euler", constrained=False, dtype=torch.float64, **options,
    )  # fmt: skip
    randomise(layer)
    return layer


@pytest.mark.parametrize("nonlinearity", ["linear", "tanh", "hardtanh"])
def test_the_cells_of_the_papers_code(nonlinearity: str) -> None:
    """Same weights, same outputs: SimpleDiagonalRNN, LRU, SimpleRNN and SoftplusRNN, P not orthogonal."""
    x = data(2, 40, 3)
    options: dict[str, Any] = {"dt": 0.5, "nonlinearity": nonlinearity}
    cells = (("relu", "diagonal"), ("lru", "diagonal"), ("relu", "orthogonal"), ("softplus", "orthogonal"))
    for kind, recurrence in cells:
        layer = paper_layer(recurrence, kind, nonlinearity, **({"normalize_input": "paper"} if kind == "lru" else {}))
        w, e = layer.rate_l0, x @ layer.weight_ih_l0.T + layer.get_parameter("bias_l0")
        rate = reference.parameterization(kind).rate(w)
        if kind == "lru":
            expected = reference.lru_cell(e, w, **options)
        elif recurrence == "diagonal":
            expected = reference.diagonal_cell(e, rate, **options)
        else:
            expected = reference.rotated_cell(e, rate, layer.get_parameter("basis_l0"), **options)
        torch.testing.assert_close(layer(x)[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
@pytest.mark.parametrize("recurrence", ["orthogonal", "dense"])
def test_unconstrained_matrices(recurrence: str, discretization: str, nonlinearity: str) -> None:
    layer = StableRNN(
        2, 4, nonlinearity=nonlinearity, batch_first=True, recurrence=recurrence, discretization=discretization,
        dt=0.5, constrained=False, dtype=torch.float64,
    )  # fmt: skip
    randomise(layer)
    x = data(3, 9, 2)
    for i in range(3):
        torch.testing.assert_close(layer(x)[0][i], one_sequence(layer, x[i])[0], rtol=1e-12, atol=1e-12)


def test_the_basis_stays_orthogonal_in_training() -> None:
    layer = StableRNN(2, 6, 1, "hardtanh", batch_first=True, recurrence="orthogonal", dtype=torch.float64)
    before = layer.basis().detach()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        layer(data(3, 20, 2))[0].square().sum().backward()
        optimizer.step()
    after = layer.basis().detach()
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after @ after.T, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-13)


@pytest.mark.parametrize("recurrence", ["orthogonal", "dense"])
@pytest.mark.parametrize("nonlinearity", ["linear", "tanh"])
@pytest.mark.parametrize("dt", [0.1, 1.0, 5.0])
def test_exact_matrices_decay_for_every_weight(recurrence: str, nonlinearity: str, dt: float) -> None:
    """Small states, where tanh is linear, lose at least exp(-dt * margin) of their norm in every step."""
    layer = StableRNN(
        1, 6, nonlinearity=nonlinearity, bias=False, recurrence=recurrence, dt=dt, dtype=torch.float64,
    )  # fmt: skip
    randomise(layer)
    h0 = 1e-9 * data(1, 6)
    output, _ = layer(torch.zeros(20, 1, dtype=torch.float64), h0)
    norms = torch.cat([h0, output]).norm(dim=1)
    assert (norms[1:] <= norms[:-1] * math.exp(-dt * layer.stability_margin()) * (1 + 1e-9)).all()


@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("nonlinearity", ["linear", "tanh"])
def test_gradients_of_float32_layers_have_its_digits(recurrence: str, nonlinearity: str) -> None:
    """Every step rounds a few times; what the coefficients lose besides would be seen in every step alike."""
    torch.manual_seed(0)
    layer = StableRNN(4, 16, 2, nonlinearity=nonlinearity, recurrence=recurrence)
    exact, x = copy.deepcopy(layer).double(), data(200, 2, 4, dtype=torch.float32)
    for module, source in ((layer, x), (exact, x.double())):
        module(source)[0].square().sum().backward()
    for (name, ours), right in zip(layer.named_parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None and right.grad is not None
        error = (ours.grad.double() - right.grad).norm() / right.grad.norm()
        assert error <= 8 * torch.finfo(torch.float32).eps * 200**0.5, name


@pytest.mark.parametrize("recurrence", ["orthogonal", "dense"])
def test_margin_of_unconstrained_matrices(recurrence: str) -> None:
    layer = paper_layer(recurrence, "softplus", "tanh")
    params = {f"rnn.{name}": value for name, value in layer.named_parameters()}
    eigenvalues = torch.linalg.eigvals(dynamics(layer).matrix(params).detach())
    assert layer.stability_margin() == pytest.approx(eigenvalues.real.min().item(), rel=1e-9)


def test_without_a_constraint_the_basis_is_a_parameter() -> None:
    free = StableRNN(2, 3, recurrence="orthogonal", constrained=False)
    assert [n for n, _ in free.named_parameters()] == ["weight_ih_l0", "bias_l0", "rate_l0", "basis_l0"]
    assert [n for n, _ in StableRNN(2, 3, recurrence="dense").named_parameters()][-1] == "weight_hh_l0"
    assert free.basis() is free.basis_l0
    torch.testing.assert_close(free.basis_l0 @ free.basis_l0.T, torch.eye(3), rtol=0, atol=1e-6)


@pytest.mark.parametrize("recurrence", ["orthogonal", "dense"])
@pytest.mark.parametrize("how", ["state_dict", "deepcopy", "pickle"])
def test_copies_of_matrices(how: str, recurrence: str) -> None:
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "recurrence": recurrence}
    model = RNNFunctional(2, 3, **options)
    randomise(model)
    if how == "deepcopy":
        other = copy.deepcopy(model)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(model))
    else:
        other = RNNFunctional(2, 3, **options)
        other.load_state_dict(model.state_dict())
    x = data(2, 5, 2, dtype=torch.float32)
    assert torch.equal(model(x), other(x))


# --- the conventions of torch.nn.RNN ------------------------------------------------------------


@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("with_state", [False, True])
def test_stacked_layers_are_each_sequence_by_itself(
    recurrence: str, num_layers: int, bidirectional: bool, batch_first: bool, with_state: bool
) -> None:
    layer = StableRNN(
        3,
        4,
        num_layers,
        "tanh",
        True,
        batch_first,
        0.0,
        bidirectional,
        recurrence=recurrence,
        dt=0.7,
        dtype=torch.float64,
    )
    randomise(layer)
    x = data(5, 11, 3)
    h0 = data(layer.num_layers * (1 + bidirectional), 5, 4, seed=3) if with_state else None
    output, h_n = layer(x if batch_first else x.transpose(0, 1), h0)
    output = output if batch_first else output.transpose(0, 1)
    for i in range(5):
        expected = one_sequence(layer, x[i], None if h0 is None else h0[:, i])
        torch.testing.assert_close(output[i], expected[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(h_n[:, i], expected[1], rtol=1e-12, atol=1e-12)
        unbatched = layer(x[i], None if h0 is None else h0[:, i])
        torch.testing.assert_close(unbatched, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_states_enter_every_recurrence(nonlinearity: str, recurrence: str) -> None:
    options: dict[str, Any] = dict(batch_first=True, bidirectional=True, dt=0.7, dtype=torch.float64)
    layer = StableRNN(2, 3, 2, nonlinearity, recurrence=recurrence, **options)
    randomise(layer)
    x, h0 = data(3, 7, 2), data(4, 3, 3, seed=3)
    output, h_n = layer(x, h0)
    for i in range(3):
        expected = one_sequence(layer, x[i], h0[:, i])
        near = tolerance(torch.float64, 7)
        torch.testing.assert_close((output[i], h_n[:, i]), expected, rtol=near, atol=near)


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_normalized_inputs_of_a_whole_model(nonlinearity: str) -> None:
    """Enough sequences for the fused operator."""
    options: dict[str, Any] = dict(parameterization="lru", normalize_input="paper", dtype=torch.float64)
    model = RNNFunctional(2, 5, 3, nonlinearity=nonlinearity, **options)
    randomise(model)
    x = data(9, 11, 2)
    expected = reference.rnn_functional(weights(model), x, dynamics(model.rnn))
    near = tolerance(torch.float64, 11)
    torch.testing.assert_close(model(x), expected, rtol=near, atol=near)


def test_the_first_layer_sees_all_of_its_input() -> None:
    layer = StableRNN(2, 4, 2, batch_first=True, dropout=1.0)
    randomise(layer)
    x = data(3, 9, 2, dtype=torch.float32)
    _, dropped = layer(x)
    _, whole = layer.eval()(x)
    assert torch.equal(dropped[0], whole[0]) and not torch.equal(dropped[1], whole[1])


def test_packed_outputs_keep_their_order() -> None:
    model = RNNFunctional(2, 3, 2)
    sequences = [data(length, 2, dtype=torch.float32, seed=length) for length in (2, 7, 4)]
    padded, _ = pad_packed_sequence(model(pack_sequence(sequences, enforce_sorted=False)), batch_first=True)
    for row, sequence in zip(padded, sequences, strict=True):
        torch.testing.assert_close(row[: len(sequence)], model(sequence))


@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("lengths", [(7, 1, 9, 4), (3, 3), (1,), (2, 5, 8)])
def test_packed_sequences_are_each_sequence_by_itself(
    recurrence: str,
    num_layers: int,
    bidirectional: bool,
    with_state: bool,
    lengths: tuple[int, ...],
) -> None:
    options: dict[str, Any] = dict(bidirectional=bidirectional, recurrence=recurrence, dtype=torch.float64)
    layer = StableRNN(2, 3, num_layers, "hardtanh", **options)
    randomise(layer)
    sequences = [data(length, 2, seed=i).requires_grad_() for i, length in enumerate(lengths)]
    count = num_layers * (1 + bidirectional)
    h0 = data(count, len(lengths), 3, seed=99) if with_state else None
    packed = pack_sequence(sequences, enforce_sorted=False)
    output, h_n = layer(packed, h0)
    assert isinstance(output, PackedSequence)
    torch.testing.assert_close(output[1:], packed[1:], rtol=0, atol=0)
    padded, _ = pad_packed_sequence(output, batch_first=True)
    inputs = [*sequences, *layer.parameters()]
    ours, theirs = torch.zeros(()), torch.zeros(())
    for i, sequence in enumerate(sequences):
        start = None if h0 is None else h0[:, i]
        expected_output, expected_state = one_sequence(layer, sequence, start)
        torch.testing.assert_close(padded[i, : lengths[i]], expected_output, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(h_n[:, i], expected_state, rtol=1e-12, atol=1e-12)
        ours = ours + padded[i].square().sum() + (i + 1) * h_n[:, i].sum()
        theirs = theirs + expected_output.square().sum() + (i + 1) * expected_state.sum()
    grads = torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs)
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_packed_sequences_follow_nn_rnn(enforce_sorted: bool) -> None:
    sequences = [data(length, 2, dtype=torch.float32) for length in (6, 4, 1)]
    packed = pack_sequence(sequences, enforce_sorted=enforce_sorted)
    ours, theirs = StableRNN(2, 3)(packed), nn.RNN(2, 3)(packed)
    assert ours[0].data.shape == theirs[0].data.shape
    assert ours[1].shape == theirs[1].shape
    for a, b in zip(ours[0][1:], theirs[0][1:], strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.parametrize(
    ("num_layers", "bidirectional", "batch_first", "bias"),
    list(itertools.product((1, 2), (False, True), (False, True), (False, True))),
)
@pytest.mark.parametrize("shape", [(7, 3, 2), (7, 2), (1, 1, 2), (7, 0, 2)])
def test_shapes_are_those_of_nn_rnn(
    num_layers: int, bidirectional: bool, batch_first: bool, bias: bool, shape: tuple[int, ...]
) -> None:
    if batch_first and len(shape) == 3:
        shape = (shape[1], shape[0], shape[2])
    x = data(*shape, dtype=torch.float32)
    arguments = (bias, batch_first, 0.0, bidirectional)  # the positions are part of the contract
    ours = StableRNN(2, 3, num_layers, "tanh", *arguments)
    theirs = nn.RNN(2, 3, num_layers, "tanh", *arguments)
    for a, b in zip(ours(x), theirs(x), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
    h0 = torch.zeros_like(theirs(x)[1])
    assert ours(x, h0)[0].shape == theirs(x, h0)[0].shape


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_no_time_at_all(batch_first: bool, recurrence: str) -> None:
    layer = StableRNN(2, 3, 2, batch_first=batch_first, recurrence=recurrence)
    shape = (4, 0, 2) if batch_first else (0, 4, 2)
    h0 = data(2, 4, 3, dtype=torch.float32)
    output, h_n = layer(torch.zeros(shape), h0)
    assert output.shape == (*shape[:2], 3)
    assert torch.equal(h_n, h0)


def test_state_carries_a_sequence_on() -> None:
    for recurrence in RECURRENCES:
        layer = StableRNN(2, 3, 2, batch_first=True, recurrence=recurrence, dtype=torch.float64)
        randomise(layer)
        x = data(4, 20, 2)
        whole, end = layer(x)
        first, state = layer(x[:, :13])
        second, state = layer(x[:, 13:], state)
        torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(state, end, rtol=1e-12, atol=1e-12)


def test_dropout_between_layers_only_while_training() -> None:
    layer = StableRNN(2, 8, 2, batch_first=True, dropout=0.5)
    x = data(3, 10, 2, dtype=torch.float32)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    everything_dropped = StableRNN(2, 8, 2, batch_first=True, dropout=1.0)
    assert (everything_dropped(x)[0] == 0).all()  # fresh biases are zero


def test_dropout_of_a_single_layer_warns() -> None:
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
        StableRNN(2, 3, dropout=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        StableRNN(2, 3, 2, dropout=0.5)


# --- steps, margins, weights --------------------------------------------------------------------


@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("batched", [False, True])
def test_steps_are_the_scan(recurrence: str, discretization: str, batch_first: bool, batched: bool) -> None:
    layer = StableRNN(
        2,
        3,
        2,
        batch_first=batch_first,
        recurrence=recurrence,
        discretization=discretization,
        dtype=torch.float64,
    )
    randomise(layer)
    x = data(9, 4, 2) if batched else data(9, 2)
    sequence = x.transpose(0, 1) if batched and batch_first else x
    expected, end = layer(sequence)
    h, outputs = None, []
    for now in x:
        output, h = layer.step(now, h)
        outputs.append(output)
    stacked = torch.stack(outputs, 1 if batched and batch_first else 0)
    torch.testing.assert_close(stacked, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(h, end, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_steps_of_the_functional(recurrence: str) -> None:
    model = RNNFunctional(2, 3, 2, recurrence=recurrence, dtype=torch.float64)
    randomise(model)
    x = data(4, 9, 2)
    h, outputs = None, []
    for k in range(9):
        y, h = model.step(x[:, k], h)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), model(x), rtol=1e-12, atol=1e-12)


def test_steps_need_one_direction() -> None:
    with pytest.raises(ValueError, match="step needs bidirectional=False"):
        StableRNN(2, 3, bidirectional=True).step(torch.zeros(1, 2))


@pytest.mark.parametrize("kind", PARAMETERIZATIONS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_stability_margin_is_the_smallest_rate(kind: str, bidirectional: bool) -> None:
    layer = StableRNN(2, 4, 3, parameterization=kind, bidirectional=bidirectional, dtype=torch.float64)
    randomise(layer)
    name, rates = [(n, p) for n, p in layer.named_parameters() if "rate" in n][-1]
    assert name == ("rate_l2_reverse" if bidirectional else "rate_l2")
    with torch.no_grad():  # the slowest unit of all sits in the last layer
        rates[1] = 90.0 if kind == "inverse" else -9.0
    margin = layer.stability_margin()
    assert type(margin) is float
    assert margin == parameterization(kind).rate(rates.detach())[1].item()


def test_margin_of_the_functional() -> None:
    model = RNNFunctional(1, 8, parameterization="exp")
    assert model.stability_margin() == model.rnn.stability_margin() > 0


@pytest.mark.parametrize("kind", PARAMETERIZATIONS)
@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("dt", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_fresh_layers_cover_the_time_scales(kind: str, recurrence: str, dt: float, dtype: torch.dtype) -> None:
    layer = StableRNN(
        2,
        32,
        2,
        parameterization=kind,
        recurrence=recurrence,
        dt=dt,
        max_time_scale=200.0,
        dtype=dtype,
    )
    for raw in (layer.get_parameter("rate_l0"), layer.get_parameter("rate_l1")):
        steps = dt * parameterization(kind).rate(raw.detach()).double()
        assert (steps > 0).all()
        assert steps.unique().numel() == len(raw)
        bound = 0.9 * dt * parameterization(kind).range.high
        fastest = min(5 if recurrence == "ssm" else 1, bound)
        # Raw weights up to log(200 * ...) = 10 in 16 bit: their rounding moves rates by 10 eps.
        rel = 20 * torch.finfo(dtype).eps
        assert steps.max().item() == pytest.approx(fastest, rel=rel)
        assert steps.min().item() == pytest.approx(min(1, bound) / 200, rel=rel)


def test_fresh_euler_layers_are_stable() -> None:
    layer = StableRNN(2, 32, discretization="euler", oscillating=False)
    assert float(parameterization("softplus").rate(layer.rate_l0.detach()).max()) <= 1 + 1e-6


def test_encoder_stays_bounded_as_the_width_grows() -> None:
    """|U|_2 <= |U|_F <= sqrt(d) whatever D, and b = 0: the theorem's bounded parameters."""
    for hidden_size in (4, 64, 1024):
        model = RNNFunctional(3, hidden_size)
        assert torch.linalg.matrix_norm(model.rnn.weight_ih_l0, 2) <= 3**0.5
        assert model.rnn.get_parameter("bias_l0").count_nonzero() == 0
        assert model.readout.weight.norm() <= 1


def test_reset_draws_again_and_follows_the_global_seed() -> None:
    torch.manual_seed(5)
    layer = StableRNN(2, 4)
    first = copy.deepcopy(layer.state_dict())
    layer.reset_parameters()
    assert not torch.equal(layer.weight_ih_l0, first["weight_ih_l0"])
    torch.manual_seed(5)
    layer.reset_parameters()
    assert layer.state_dict().keys() == first.keys()
    for name, value in layer.state_dict().items():
        assert torch.equal(value, first[name])


def test_parameter_names_and_shapes() -> None:
    layer = StableRNN(3, 4, 2, bidirectional=True)
    expected: dict[str, tuple[int, ...]] = {}
    for suffix, width in (("_l0", 3), ("_l0_reverse", 3), ("_l1", 8), ("_l1_reverse", 8)):
        expected |= {"weight_ih" + suffix: (4, width), "bias" + suffix: (4,), "rate" + suffix: (2,)}
        expected |= {"frequency" + suffix: (2,)}
    assert {n: tuple(p.shape) for n, p in layer.named_parameters()} == expected
    assert [n for n, _ in StableRNN(3, 4, bias=False).named_parameters()] == [
        "weight_ih_l0",
        "rate_l0",
        "frequency_l0",
    ]
    single = StableRNN(3, 5, oscillating=False)
    assert single.rate_l0.shape == (5,) and not hasattr(single, "frequency_l0")
    one = StableRNN(3, 1)
    assert one(torch.zeros(4, 2, 3))[0].shape == (4, 2, 1) and one.get_parameter("frequency_l0").shape == (0,)
    odd = StableRNN(3, 5)
    assert odd.rate_l0.shape == (3,) and odd.get_parameter("frequency_l0").shape == (2,)
    assert list(RNNFunctional(1, 4).state_dict()) == [
        "rnn.weight_ih_l0",
        "rnn.bias_l0",
        "rnn.rate_l0",
        "rnn._extra_state",
        "readout.weight",
        "readout.bias",
    ]


def test_without_bias() -> None:
    layer = StableRNN(2, 3, bias=False)
    assert layer.bias_l0 is None
    assert (layer(torch.zeros(5, 2))[0] == 0).all()


# --- life as a module ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["state_dict", "weights_only", "deepcopy", "pickle"])
def test_copies_compute_the_same(how: str) -> None:
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "recurrence": "ssm"}
    model = RNNFunctional(2, 3, **options)
    randomise(model)
    if how == "deepcopy":
        other = copy.deepcopy(model)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(model))
    else:
        other, weights = RNNFunctional(2, 3, **options), model.state_dict()
        if how == "weights_only":
            file = io.BytesIO()
            torch.save(weights, file)
            file.seek(0)
            weights = torch.load(file, weights_only=True)
        other.load_state_dict(weights)
    x = data(2, 5, 2, dtype=torch.float32)
    assert torch.equal(model(x), other(x))
    assert not any(p is q for p, q in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_device_and_dtype(dtype: torch.dtype) -> None:
    model = RNNFunctional(2, 3, device="cpu", dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert {p.device.type for p in RNNFunctional(2, 3, device="meta").parameters()} == {"meta"}
    with torch.device("meta"):
        assert StableRNN(2, 3).rate_l0.device.type == "meta"
    assert model.to(torch.float32)(data(1, 4, 2, dtype=torch.float32)).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("recurrence", ["diagonal", "dense", "ssm"])
@pytest.mark.parametrize("nonlinearity", ["linear", "hardtanh"])
def test_sixteen_bit(dtype: torch.dtype, recurrence: str, nonlinearity: str) -> None:
    """16-bit in and out, float32 within: a slow unit integrates far beyond what 16 bit can."""
    options: dict[str, Any] = {} if recurrence == "dense" else {"oscillating": False, "normalize_input": False}
    options |= dict(recurrence=recurrence, nonlinearity=nonlinearity, parameterization="exp", dtype=dtype)
    layer = StableRNN(1, 2, **options)
    with torch.no_grad():
        layer.rate_l0.copy_(torch.tensor([-9.0, -2.0]))
        layer.weight_ih_l0.fill_(0.25)
    x = torch.ones(3000, 1, dtype=dtype)
    output, h_n = layer(x, torch.zeros(1, 2, dtype=dtype))
    assert output.dtype == h_n.dtype == dtype
    wide = copy.deepcopy(layer).double()
    expected, state = wide(x.double())
    # Roundings of U, of U times the gain, of e and of the result.
    rtol = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(output.double(), expected, rtol=rtol, atol=1e-3)
    torch.testing.assert_close(h_n.double(), state, rtol=rtol, atol=1e-3)
    for gradient in torch.autograd.grad(output.mean(), list(layer.parameters())):
        assert gradient.dtype == dtype
        assert gradient.isfinite().all()


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_chunks_in_sixteen_bits_are_the_whole(recurrence: str) -> None:
    """The state goes from chunk to chunk in float32, if it starts so."""
    layer = StableRNN(2, 4, 2, recurrence=recurrence, batch_first=True, dtype=torch.bfloat16)
    x, start = torch.randn(3, 20, 2).bfloat16(), torch.zeros(2, 3, 4)
    whole, last = layer(x, start)
    outputs, h = [], start
    for chunk in x.split(7, 1):
        output, h = layer(chunk, h)
        outputs.append(output)
    assert h.dtype == last.dtype == torch.float32 and whole.dtype == torch.bfloat16
    assert torch.equal(torch.cat(outputs, 1), whole) and torch.equal(h, last)


@pytest.mark.parametrize(
    ("recurrence", "nonlinearity", "autocast"),
    [
        ("diagonal", "tanh", False),
        ("diagonal", "linear", True),
        ("ssm", "tanh", False),
        ("dense", "linear", False),
        ("dense", "tanh", True),
        ("orthogonal", "tanh", False),
        ("orthogonal", "linear", True),
    ],
)
def test_sixteen_bit_streams_keep_the_digits_of_their_states(
    recurrence: str, nonlinearity: str, autocast: bool
) -> None:
    """256 chunks, the first without a state, end where the whole sequence does; so do steps."""
    layer = StableRNN(2, 4, 1, nonlinearity, batch_first=True, recurrence=recurrence, constrained=autocast)
    layer = layer if autocast else layer.bfloat16()
    x = torch.randn(1, 512, 2, dtype=layer.weight_ih_l0.dtype)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, autocast), nn.utils.parametrize.cached():
        whole, last = layer(x)
        outputs, h, stepped = [], None, None
        for chunk in x.split(2, 1):
            output, h = layer(chunk, h)
            outputs.append(output)
        for t in range(8):
            stepped = layer.step(x[:, t], stepped)[1]
        eight = layer(x[:, :8])[1]
    assert h is not None and h.dtype == last.dtype == torch.float32 and whole.dtype == torch.bfloat16
    # Rotations into the basis and out of it round every chunk's state a few times.
    near = dict(rtol=0, atol=256 * 4 * 2**-24 * max(1.0, last.abs().max().item()))
    torch.testing.assert_close(h, last, **near)
    torch.testing.assert_close(stepped, eight, **near)
    torch.testing.assert_close(torch.cat(outputs, 1), whole, rtol=2**-7, atol=2**-7)


def test_states_come_back_in_the_dtype_they_came_in() -> None:
    for bidirectional, dtype in ((False, torch.bfloat16), (True, torch.float16)):
        layer = StableRNN(2, 4, bidirectional=bidirectional, dtype=dtype)
        x = torch.randn(3, 2).to(dtype)
        for source in (x, x[:, None], pack_sequence([x]), x[:0]):
            unbatched = isinstance(source, Tensor) and source.dim() == 2
            shape = (1 + bidirectional, *([] if unbatched else [1]), 4)
            assert layer(source)[1].dtype == layer(source, torch.zeros(shape))[1].dtype == torch.float32
            assert layer(source, torch.zeros(shape, dtype=dtype))[1].dtype == dtype
            assert layer(source)[1].shape == shape
    wide = StableRNN(2, 4, dtype=torch.float64)
    assert wide(torch.randn(3, 2).double())[1].dtype == torch.float64
    model = RNNFunctional(2, 4, dtype=torch.bfloat16)
    y, h = model.step(torch.randn(3, 2).bfloat16())
    assert (y.dtype, h.dtype) == (torch.bfloat16, torch.float32)
    with pytest.raises(ValueError, match=r"hx must have .*torch\.bfloat16, or that of its states, torch\.float32, got"):
        model.rnn(torch.randn(1, 3, 2).bfloat16(), torch.zeros(1, 1, 4).double())
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            assert StableRNN(2, 4)(torch.randn(3, 2), torch.ones(1, 4, dtype=dtype))[1].dtype == dtype


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("recurrence", "nonlinearity"), [("ssm", "tanh"), ("diagonal", "tanh"), ("dense", "linear")])
def test_packed_sixteen_bit_streams(recurrence: str, nonlinearity: str, autocast: bool) -> None:
    layer = StableRNN(2, 4, 2, nonlinearity, recurrence=recurrence, dtype=None if autocast else torch.bfloat16)
    long, short = torch.randn(40, 2, dtype=layer.weight_ih_l0.dtype), torch.randn(24, 2, dtype=layer.weight_ih_l0.dtype)
    h = None
    with torch.autocast("cpu", torch.bfloat16, autocast):
        for t in range(8):
            _, h = layer(pack_sequence([short[3 * t : 3 * t + 3], long[5 * t : 5 * t + 5]], enforce_sorted=False), h)
        expected = torch.stack([layer(short)[1], layer(long)[1]], 1)
    torch.testing.assert_close(h, expected, rtol=0, atol=40 * 4 * 2**-24 * max(1.0, expected.abs().max().item()))


@pytest.mark.parametrize("packed", [False, True])
def test_gradients_through_carried_states(packed: bool) -> None:
    layer = StableRNN(2, 4, nonlinearity="linear", batch_first=True, dtype=torch.bfloat16)
    x, start = torch.randn(1, 60, 2).bfloat16().requires_grad_(), torch.randn(1, 1, 4).requires_grad_()

    def run(source: Tensor, state: Tensor) -> Tensor:
        return layer(pack_sequence([source[0]]) if packed else source, state)[1]

    h = start
    for chunk in x.split(5, 1):
        h = run(chunk, h)
    by_x, by_start = torch.autograd.grad(h.sum(), (x, start))
    whole_x, whole_start = torch.autograd.grad(layer(x, start)[1].sum(), (x, start))
    assert by_start.dtype == torch.float32
    torch.testing.assert_close(by_start, whole_start, rtol=60 * 4 * 2**-24, atol=0)
    torch.testing.assert_close(by_x, whole_x, rtol=2**-7, atol=2**-7 * whole_x.abs().max().item())


def test_meta_tensors_have_shapes() -> None:
    """PyTorch raises an error when asked whether autocast is on for them."""
    x = torch.empty(4, 5, 2, device="meta")
    assert RNNFunctional(2, 3, device="meta")(x).shape == (4, 5, 1)
    assert StableRNN(2, 3, device="meta")(x)[0].shape == (4, 5, 3)
    with pytest.raises(ValueError, match="dtype"):
        StableRNN(2, 3, device="meta")(x.double())


def test_orthogonal_layers_made_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer = StableRNN(2, 3, recurrence="orthogonal")
        made = layer.basis()
    assert made.dtype == torch.float32 and torch.equal(made, layer.basis())
    torch.testing.assert_close(made @ made.T, torch.eye(3))


def test_what_cudnn_wants_is_there() -> None:
    StableRNN(2, 3).flatten_parameters()


def test_autocast() -> None:
    layer = StableRNN(4, 8, batch_first=True)
    x, h0 = data(2, 50, 4, dtype=torch.float32), torch.ones(1, 2, 8)
    expected, _ = layer(x, h0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = layer(x, h0)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.3)


@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_compiles_without_a_graph_break(recurrence: str, bidirectional: bool) -> None:
    model = RNNFunctional(2, 3, num_layers=2, recurrence=recurrence, bidirectional=bidirectional)
    x = data(2, 9, 2, dtype=torch.float32)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    y, expected = compiled(x), model(x)
    torch.testing.assert_close(y, expected)
    parameters = list(model.parameters())
    for a, b in zip(
        torch.autograd.grad(y.sum(), parameters),
        torch.autograd.grad(expected.sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    torch._dynamo.reset()


def test_lengths_do_not_compile_a_model_anew() -> None:
    model, counter = RNNFunctional(2, 3), CompileCounter()
    compiled = torch.compile(model, backend=counter)
    for length in (9, 50, 120, 300, 700):
        x = data(8, length, 2, dtype=torch.float32).requires_grad_()
        y = compiled(x)
        torch.testing.assert_close(y, model(x))
        torch.testing.assert_close(*(torch.autograd.grad(out.sum(), x) for out in (y, model(x))))
    assert counter.frame_count <= 2  # for one length, then for all
    torch._dynamo.reset()


def test_autocast_leaves_the_recurrence_alone() -> None:
    """In bfloat16 the slowest rates of P^T diag(rate) P would be rounding."""
    layer = StableRNN(1, 32, recurrence="orthogonal", max_time_scale=1e4, batch_first=True)
    x, h0 = torch.zeros(1, 3000, 1), torch.randn(1, 1, 32)
    _, expected = layer(x, h0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, h_n = layer(x, h0)
    torch.testing.assert_close(h_n.float(), expected, rtol=0.02, atol=0.02 * expected.abs().max().item())


def test_functional_call_with_other_weights() -> None:
    model = RNNFunctional(1, 3, dtype=torch.float64)
    other = RNNFunctional(1, 3, dtype=torch.float64)
    randomise(other)
    x = data(2, 7, 1)
    y = torch.func.functional_call(model, dict(other.named_parameters()), x)
    assert torch.equal(y, other(x))


@pytest.mark.parametrize("view", ["transposed", "sliced", "expanded"])
def test_strided_input(view: str) -> None:
    layer = StableRNN(3, 4, batch_first=True, dtype=torch.float64)
    x = {
        "transposed": data(3, 9, 2).permute(2, 1, 0),
        "sliced": data(4, 18, 6)[::2, ::2, ::2],
        "expanded": data(1, 9, 1).expand(2, 9, 3),
    }[view]
    assert not x.is_contiguous()
    torch.testing.assert_close(layer(x), layer(x.contiguous()), rtol=1e-13, atol=1e-13)


def test_functional_takes_unbatched_and_packed_input() -> None:
    model = RNNFunctional(2, 3, 2)
    x = data(4, 9, 2, dtype=torch.float32)
    torch.testing.assert_close(model(x[1]), model(x)[1])
    packed = model(pack_sequence([x[0], x[1, :5]]))
    padded, lengths = pad_packed_sequence(packed, batch_first=True)
    assert lengths.tolist() == [9, 5]
    torch.testing.assert_close(padded[0], model(x[0]))
    torch.testing.assert_close(padded[1, :5], model(x[1, :5]))


def test_repr_shows_what_is_not_default() -> None:
    assert StableRNN(2, 3).extra_repr() == "2, 3"
    assert StableRNN(2, 3, recurrence="dense").extra_repr() == "2, 3, recurrence='dense'"
    layer = StableRNN(2, 3, 2, "tanh", recurrence="diagonal", dt=0.5, oscillating=False)
    expected = "2, 3, num_layers=2, nonlinearity='tanh', recurrence='diagonal', dt=0.5, oscillating=False"
    assert layer.extra_repr() == expected


# --- hooks --------------------------------------------------------------------------------------


def changed(module: nn.Module, maker: str, name: str) -> None:
    """Have a hook make a weight, and change what it is made from."""
    if maker == "prune":
        nn.utils.prune.random_unstructured(module, name, 0.5)
    elif maker == "spectral_norm":
        nn.utils.spectral_norm(module, name)
    else:
        nn.utils.weight_norm(module, name, dim=None)  # type: ignore[arg-type]
    source = module.get_parameter(name + ("_g" if maker == "weight_norm" else "_orig"))
    with torch.no_grad():
        source.mul_(1.5).add_(0.5)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("maker", ["weight_norm", "spectral_norm", "prune"])
def test_steps_see_the_weights_that_hooks_make(maker: str) -> None:
    model = RNNFunctional(3, 4).eval()
    changed(model.rnn, maker, "weight_ih_l0")
    x = data(2, 3, dtype=torch.float32)
    stepped = model.rnn.step(x)  # before any other call could make them
    torch.testing.assert_close(stepped[0], model.rnn(x[None].transpose(0, 1))[0][:, 0], rtol=0, atol=0)
    changed(model.readout, maker, "weight")
    y, _ = model.step(x)
    torch.testing.assert_close(y, model(x[:, None])[:, 0], rtol=1e-6, atol=1e-6)
    model.double()  # PyTorch leaves what hooks made as it was
    assert model.step(x.double())[0].dtype == torch.float64


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("maker", ["weight_norm", "spectral_norm", "prune"])
def test_margins_see_the_weights_that_hooks_make(maker: str) -> None:
    model = RNNFunctional(3, 4)
    changed(model.rnn, maker, "rate_l0")
    margin = model.stability_margin()
    model.eval()(data(2, 5, 3, dtype=torch.float32))
    assert margin == model.stability_margin() == parameterization("softplus").rate(model.rnn.rate_l0).min().item()


def test_steps_are_calls() -> None:
    """Hooks on the model and on its parts see a sequence of length 1, and hooks before a call may make weights."""
    model, seen = RNNFunctional(3, 4, 2), []
    for name, module in (("model", model), ("rnn", model.rnn), ("readout", model.readout)):
        module.register_forward_hook(lambda module, inputs, output, name=name: seen.append((name, inputs[0].shape)))

    def silence(module: nn.Module, inputs: Any) -> None:
        nn.init.zeros_(module.get_parameter("readout.weight"))

    model.register_forward_pre_hook(silence)
    x = data(2, 3, dtype=torch.float32)
    y, h = model.step(x)
    assert seen == [("rnn", (2, 1, 3)), ("readout", (2, 1, 4)), ("model", (2, 1, 3))]
    assert y.shape == (2, 2) and h.shape == (1, 2, 4)
    torch.testing.assert_close(y, model.readout.bias.expand(2, 2))
    seen.clear()
    assert model.step(x[0], h[:, 0])[0].shape == (2,)
    model.rnn.step(x)
    assert seen[0] == ("rnn", (1, 3)) and seen[-1] == ("rnn", (2, 1, 3))


def test_functional_continues_from_a_state() -> None:
    model = RNNFunctional(2, 3, 2, num_layers=2)
    x = data(4, 9, 2, dtype=torch.float32)
    y, last = model(x, return_state=True)
    first, h = model(x[:, :5], return_state=True)
    torch.testing.assert_close(torch.cat([first, model(x[:, 5:], h)], 1), y)
    packed, h = model(pack_sequence([x[0], x[1, :4]]), return_state=True)
    padded, _ = pad_packed_sequence(packed, batch_first=True)
    torch.testing.assert_close((padded[0], h[:, 0]), (y[0], last[:, 0]))


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"input_size": 0}, ValueError, "input_size must be greater than zero"),
        ({"input_size": 2.0}, TypeError, "input_size should be of type int, got: float"),
        ({"hidden_size": -1}, ValueError, "hidden_size must be greater than zero"),
        ({"hidden_size": True}, TypeError, "hidden_size should be of type int, got: bool"),
        ({"num_layers": 0}, ValueError, "num_layers must be greater than zero"),
        ({"nonlinearity": "elu"}, ValueError, "nonlinearity must be one of .*'elu'"),
        ({"bias": 1}, TypeError, "bias should be of type bool, got: int"),
        ({"batch_first": None}, TypeError, "batch_first should be of type bool"),
        ({"bidirectional": 1}, TypeError, "bidirectional should be of type bool"),
        ({"dropout": 1.5}, ValueError, "dropout should be a number in range"),
        ({"dropout": True}, ValueError, "dropout should be a number in range"),
        ({"dropout": math.nan}, ValueError, "dropout should be a number in range"),
        ({"parameterization": "sigmoid"}, ValueError, "parameterization must be one of"),
        ({"recurrence": "lstm"}, ValueError, r"recurrence must be one of \('diagonal', 'orthogonal'"),
        ({"constrained": 1}, TypeError, "constrained should be of type bool, got: int"),
        ({"normalize_input": 1}, TypeError, "normalize_input should be of type bool"),
        ({"normalize_input": "paper"}, ValueError, "normalize_input='paper' needs parameterization='lru', .*'softpl"),
        ({"normalize_input": "x"}, ValueError, "normalize_input must be a bool or 'paper', got 'x'"),
        ({"normalize_input": True, "recurrence": "dense"}, ValueError, "normalize_input=True needs recurrence 'ssm'"),
        ({"oscillating": 1}, TypeError, "oscillating should be of type bool"),
        ({"oscillating": True, "recurrence": "dense"}, ValueError, "oscillating=True needs recurrence 'ssm' or 'diag"),
        ({"max_angle": 3.2}, ValueError, "max_angle must be at most 3.14159 for this recurrence, got 3.2"),
        ({"max_angle": 1.6, "recurrence": "diagonal"}, ValueError, "max_angle must be at most 1.5708"),
        ({"discretization": "zoh"}, ValueError, "discretization must be one of"),
        ({"backend": "cuda"}, ValueError, "backend must be None or one of"),
        ({"dt": 0.0}, ValueError, "dt must be positive and finite"),
        ({"dt": math.inf}, ValueError, "dt must be positive and finite"),
        ({"dt": "1"}, TypeError, "dt must be a real number"),
        ({"dtype": torch.int64}, TypeError, "dtype must be one of torch.float16, .* got torch.int64"),
        ({"dtype": torch.complex64}, TypeError, "dtype must be one of"),
        ({"nonlinearity": []}, ValueError, "nonlinearity must be one of"),
        ({"max_time_scale": 1.0}, ValueError, "max_time_scale must be greater than 1 and finite"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        StableRNN(**{"input_size": 2, "hidden_size": 3} | options)


@pytest.mark.parametrize("bad", [False, None, 1])
def test_functional_is_batch_first(bad: object) -> None:
    assert RNNFunctional(1, 2, batch_first=True).rnn.batch_first
    with pytest.raises(ValueError, match="batch_first must be True"):
        RNNFunctional(1, 2, batch_first=bad)


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (1.0, TypeError)])
def test_bad_output_size(size: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="output_size"):
        RNNFunctional(1, 2, size)


@pytest.mark.parametrize(
    ("x", "hx", "error", "message"),
    [
        ([[1.0, 2.0]], None, TypeError, "input must be a torch.Tensor or PackedSequence, got list"),
        (torch.zeros(2), None, ValueError, "Expected input to be 2D or 3D, got 1D"),
        (torch.zeros(1, 2, 3, 2), None, ValueError, "Expected input to be 2D or 3D, got 4D"),
        (torch.zeros(4, 5), None, ValueError, "equal to input_size. Expected 2, got 5"),
        (torch.zeros(4, 2).double(), None, ValueError, r"dtype \(torch.float64\) does not match"),
        (torch.zeros(4, 2).int(), None, ValueError, r"dtype \(torch.int32\) does not match"),
        (torch.zeros(4, 2, device="meta"), None, ValueError, r"device \(meta\) does not match"),
        (torch.zeros(4, 2), 0.0, TypeError, "hx must be a torch.Tensor or None, got float"),
        (torch.zeros(4, 2), torch.zeros(1, 1, 3), ValueError, "unbatched input, hx should be 2-D"),
        (torch.zeros(4, 2), torch.zeros(2, 3), ValueError, r"hx \(1, 3\), got \[2, 3\]"),
        (
            torch.zeros(4, 5, 2),
            torch.zeros(1, 3),
            ValueError,
            "For batched input, hx should be 3-D",
        ),
        (
            torch.zeros(4, 5, 2),
            torch.zeros(1, 4, 3),
            ValueError,
            r"hx \(1, 5, 3\), got \[1, 4, 3\]",
        ),
        (torch.zeros(4, 2), torch.zeros(1, 3).double(), ValueError, "hx must have .*dtype"),
        (torch.zeros(4, 2), torch.zeros(1, 3, device="meta"), ValueError, "hx must be on"),
    ],
)
def test_bad_calls(x: Any, hx: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        StableRNN(2, 3)(x, hx)


def test_accepted_dtypes_are_named_once() -> None:
    with pytest.raises(ValueError, match=r"the input's dtype, torch.float32, got torch.float64"):
        StableRNN(2, 3)(torch.zeros(5, 1, 2), torch.zeros(1, 1, 3, dtype=torch.float64))


def test_bad_packed_calls() -> None:
    packed = pack_sequence([torch.zeros(4, 2), torch.zeros(3, 2)])
    with pytest.raises(ValueError, match=r"hx \(1, 2, 3\), got \[1, 4, 3\]"):
        StableRNN(2, 3)(packed, torch.zeros(1, 4, 3))
    with pytest.raises(ValueError, match="equal to input_size"):
        StableRNN(5, 3)(packed)


@pytest.mark.parametrize("x", [torch.zeros(1, 1, 2), torch.zeros(())])
def test_bad_steps(x: Tensor) -> None:
    with pytest.raises(ValueError, match="Expected x to be 1D or 2D"):
        StableRNN(2, 3).step(x)


STABLE_SSM = cofm.parameterization("inverse", a=1.0, b=0.6)


@pytest.mark.parametrize("recurrence", ["ssm", "diagonal", "dense"])
@pytest.mark.parametrize("backend", [None, "torch", "reference"])
def test_a_parameterization_with_numbers(recurrence: str, backend: str | None) -> None:
    """By object or name; the rates are those of the same layer with another f."""
    torch.manual_seed(0)
    options: dict[str, Any] = dict(recurrence=recurrence, nonlinearity="tanh", dtype=torch.float64, backend=backend)
    layer = StableRNN(3, 4, parameterization=STABLE_SSM, **options)
    named = StableRNN(3, 4, parameterization="inverse(a=1.0, b=0.6)", **options)
    assert layer.parameterization == named.parameterization == STABLE_SSM.name
    named.load_state_dict(layer.state_dict())
    other = StableRNN(3, 4, parameterization="exp", **options)
    weights = {key: value for key, value in layer.state_dict().items() if key != "_extra_state"}
    weights["rate_l0"] = STABLE_SSM.rate(layer.rate_l0).log()
    with pytest.warns(UserWarning, match="does not say under which options"):
        other.load_state_dict(weights)
    x = torch.randn(2, 9, 3, dtype=torch.float64).transpose(0, 1)
    expected = other(x)[0]
    torch.testing.assert_close(layer(x)[0], expected, rtol=1e-10, atol=1e-12)
    assert torch.equal(named(x)[0], layer(x)[0])
    layer(x)[0].sum().backward()
    assert layer.rate_l0.grad is not None and layer.rate_l0.grad.isfinite().all()


def test_numbers_travel_with_the_weights(tmp_path: Path) -> None:
    layer = StableRNN(2, 4, parameterization=STABLE_SSM)
    with pytest.raises(RuntimeError, match=r"parameterization was 'inverse\(a=1.0, b=0.6\)' and is 'inverse'"):
        StableRNN(2, 4, parameterization="inverse").load_state_dict(layer.state_dict())
    pytest.importorskip("safetensors")
    model = cofm.RNNFunctional(2, 4, parameterization=STABLE_SSM)
    save_model(tmp_path / "a.safetensors", model)
    assert load_model(tmp_path / "a.safetensors").rnn.parameterization == STABLE_SSM.name


def test_slopes_outside_of_0_to_1_are_for_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With such an act inside, a step may enlarge differences: no proof of stability holds."""
    row = replace(properties("tanh"), slopes=(-0.1, 1.1))
    monkeypatch.setattr(checks, "properties", lambda name: row)
    with pytest.raises(ValueError, match=r"needs recurrence='ssm'.*slopes must lie in \[0, 1\].*got \[-0.1, 1.1\]"):
        StableRNN(2, 4, nonlinearity="tanh", recurrence="diagonal")
    assert StableRNN(2, 4, nonlinearity="tanh", recurrence="ssm").nonlinearity == "tanh"


@pytest.mark.parametrize("recurrence", [*RECURRENCES, "gated"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("starts", [[0, 2, 2, 5], [0, 0]])
def test_sequences_end_to_end_are_alone(starts: list[int], bidirectional: bool, recurrence: str) -> None:
    """Outputs, states (of empty sequences hx) and gradients; one of them may be empty, or the first of the row."""
    options: dict[str, Any] = {"gated": True} if recurrence == "gated" else {"recurrence": recurrence}
    layer = StableRNN(
        3, 4, 2, "tanh", bidirectional=bidirectional, batch_first=True, dtype=torch.float64, backend="torch", **options
    )
    randomise(layer)
    x = torch.randn(1, 7, 3, dtype=torch.float64, requires_grad=True)
    hx = torch.randn(4 if bidirectional else 2, len(starts), 4, dtype=torch.float64, requires_grad=True)
    output, h_n = layer(x, hx, seq_starts=torch.tensor(starts))
    ends = [*starts[1:], 7]
    alone = [layer(x[:, a:b], hx[:, i : i + 1]) for i, (a, b) in enumerate(zip(starts, ends, strict=True)) if b > a]
    full = [i for i, (a, b) in enumerate(zip(starts, ends, strict=True)) if b > a]
    expected = torch.cat([one for one, _ in alone], 1), torch.cat([last for _, last in alone], 1)
    torch.testing.assert_close((output, h_n[:, full]), expected)
    empty = [i for i in range(len(starts)) if i not in full]
    torch.testing.assert_close(h_n[:, empty], hx[:, empty])
    ours = torch.autograd.grad(output.sin().sum() + h_n[:, full].square().sum(), (x, hx))
    theirs = torch.autograd.grad(expected[0].sin().sum() + expected[1].square().sum(), (x, hx))
    torch.testing.assert_close(ours, theirs)


def test_sequences_end_to_end_of_a_model_and_errors() -> None:
    model, x, starts = RNNFunctional(2, 4, backend="torch"), torch.randn(1, 6, 2), torch.tensor([0, 4])
    y, h_n = model(x, return_state=True, seq_starts=starts)
    torch.testing.assert_close(y, torch.cat((model(x[:, :4]), model(x[:, 4:])), 1))
    torch.testing.assert_close(model(x, seq_starts=starts), y)
    assert h_n.shape == (1, 2, 4) and model.rnn(x[:, :0], seq_starts=starts * 0)[1].shape == (1, 2, 4)
    for given, message in ((x.expand(2, 6, 2), "seq_starts packs"), (x[0], "Expected input to be 3D")):
        with pytest.raises(ValueError, match=message):
            model.rnn(given, seq_starts=starts)
    with pytest.raises(ValueError, match="seq_starts must be None for a PackedSequence"):
        model.rnn(pack_sequence([x[0]]), seq_starts=starts)


# --- what code for torch.nn.RNN touches ---------------------------------------------------------


@pytest.mark.parametrize("options", [{}, dict(recurrence="orthogonal", bias=False), dict(learnable_dt=True)], ids=str)
def test_surface_of_torch_rnn(options: dict[str, Any]) -> None:
    """Every public name of `nn.RNN` is there, but for its own weights and checks, which docs/layers.md lists."""
    ours, theirs = StableRNN(3, 4, 2, bidirectional=True, **options), torch.nn.RNN(3, 4, 2, bidirectional=True)
    absent = {name for name in dir(theirs) if not name.startswith("_") and not hasattr(ours, name)}
    own = {"check_forward_args", "check_hidden_size", "check_input", "get_expected_hidden_size", "permute_hidden"}
    assert {name for name in absent if not name.startswith(("weight_hh", "bias_ih", "bias_hh"))} == own
    weights, parameters = ours.all_weights, dict(ours.named_parameters())
    assert len(weights) == len(theirs.all_weights) == 4
    assert weights[1][0] is ours.weight_ih_l0_reverse and weights[2][0] is ours.weight_ih_l1
    assert sorted(map(id, itertools.chain(*weights))) == sorted(map(id, parameters.values()))
    assert ours.proj_size == theirs.proj_size and ours.mode == f"STABLE_{ours.recurrence.upper()}"
    assert not isinstance(ours, torch.nn.RNNBase)


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_initialised_as_generic_code_does(recurrence: str) -> None:
    """By name: matrices drawn anew, biases 0. Rates have other names, and the layer stays stable."""
    layer = StableRNN(3, 4, recurrence=recurrence)
    rates = layer.rate_l0.clone()
    for name, value in layer.named_parameters():
        if "weight" in name:
            torch.nn.init.xavier_uniform_(value)
        elif "bias" in name:
            torch.nn.init.zeros_(value)
    assert torch.equal(layer.rate_l0, rates)
    assert layer.stability_margin() > 0

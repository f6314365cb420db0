"""Steps whose coefficients are made once: equal to the layer's own, and nobody is surprised."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from scan_cases import normal
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from cofm_triton.layers import stepper as steppers
from cofm_triton.layers.recurrences import elementwise, matrix
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.layers.stable_rnn import RECURRENCES, StableRNN
from cofm_triton.step.gates import GATES

# Sixteen steps of two layers: eight products a unit, forward and back, and sums of gradients over the outputs; fewer
# than 16 * 2 * (8 + 8) * 8 roundings of float64, none of which grows, as the layers are stable.
ROUNDINGS = 2**12 * torch.finfo(torch.float64).eps
NEAR: Any = dict(rtol=ROUNDINGS, atol=ROUNDINGS)


def streamed(step: Callable[..., tuple[Tensor, Tensor]], x: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs (T, ...) and last state of steps through x (T, ...)."""
    h, outputs = None, []
    for now in x:
        output, h = step(now, h)
        outputs.append(output)
    assert h is not None
    return torch.stack(outputs), h


def layer_of(recurrence: str, nonlinearity: str = "tanh", **options: Any) -> StableRNN:
    """Of two stacked layers, float64, with weights that are no round numbers."""
    torch.manual_seed(0)
    layer = StableRNN(3, 5, 2, nonlinearity, recurrence=recurrence, dtype=torch.float64, **options)
    with torch.no_grad():
        for value in layer.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return layer


@pytest.mark.parametrize("nonlinearity", ["linear", "tanh", "hardtanh", "relu"])
@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("discretization", ["exact", "euler"])
@pytest.mark.parametrize("option", ["", "oscillating", "normalize_input", "learnable_dt", "constrained"])
@pytest.mark.parametrize("bias", [True, False])
def test_steps_and_their_gradients_are_the_scan(
    recurrence: str, nonlinearity: str, discretization: str, option: str, bias: bool
) -> None:
    """Five units: the last one of an oscillating layer is single."""
    other = dict(oscillating=False, normalize_input=False, learnable_dt=True, constrained=False)
    is_matrix = recurrence in ("orthogonal", "dense")
    options = {option: other[option]} if option and is_matrix == (option == "constrained") else {}
    layer = layer_of(recurrence, nonlinearity, discretization=discretization, bias=bias, dt=0.5, **options)
    x = normal(16, 2, 3, dtype=torch.float64)
    whole = layer(x)
    weights = list(layer.parameters())
    for found, expected in zip(streamed(layer.prepared().step, x), whole, strict=True):
        torch.testing.assert_close(found, expected, **NEAR)
        for ours, theirs in zip(
            torch.autograd.grad(found.sum(), weights, retain_graph=True, materialize_grads=True),
            torch.autograd.grad(expected.sum(), weights, retain_graph=True, materialize_grads=True),
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs, **NEAR)
    with torch.no_grad():
        for step in (layer.prepared().step, layer.step):
            torch.testing.assert_close(streamed(step, x), whole, **NEAR)
            torch.testing.assert_close(streamed(step, x[:, 0])[0], whole[0][:, 0], **NEAR)
    with torch.inference_mode():
        torch.testing.assert_close(streamed(layer.step, x), whole, **NEAR)


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("oscillating", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_steps_of_gated_layers_are_the_scan(gates: str, oscillating: bool, bias: bool) -> None:
    """Five units: the last one of an oscillating layer is single."""
    layer = layer_of("ssm", gated=gates, oscillating=oscillating, bias=bias)
    x = normal(16, 2, 3, dtype=torch.float64)
    whole, weights = layer(x), list(layer.parameters())
    for found, expected in zip(streamed(layer.prepared().step, x), whole, strict=True):
        torch.testing.assert_close(found, expected, **NEAR)
        for ours, theirs in zip(
            torch.autograd.grad(found.sum(), weights, retain_graph=True, materialize_grads=True),
            torch.autograd.grad(expected.sum(), weights, retain_graph=True, materialize_grads=True),
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs, **NEAR)
    with torch.no_grad():
        torch.testing.assert_close(streamed(layer.step, x), whole, **NEAR)


def test_the_functional_reads_out() -> None:
    model, x = RNNFunctional(3, 5, 2, dtype=torch.float64), normal(4, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        y, last = model(x.transpose(0, 1), return_state=True)
        for step in (model.prepared().step, model.step):
            torch.testing.assert_close(streamed(step, x), (y.transpose(0, 1), last), **NEAR)
    gradient = torch.autograd.grad(streamed(model.prepared().step, x)[0].sum(), model.readout.weight)
    torch.testing.assert_close(gradient, torch.autograd.grad(model(x.transpose(0, 1)).sum(), model.readout.weight))


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_dtypes_are_those_of_the_layer(recurrence: str) -> None:
    layer = StableRNN(3, 5, recurrence=recurrence, nonlinearity="tanh")
    x = torch.randn(2, 3)
    with torch.no_grad():
        for dtype, autocast in ((torch.bfloat16, False), (torch.float16, False), (torch.float32, True)):
            layer, x = layer.to(dtype), x.to(dtype)
            for hx in (None, torch.ones(1, 2, 5), torch.ones(1, 2, 5, dtype=torch.bfloat16 if autocast else dtype)):
                with torch.autocast("cpu", torch.bfloat16, autocast):
                    expected, found = layer(x[None], hx), layer.prepared().step(x, hx)
                assert [value.dtype for value in found] == [value.dtype for value in expected]
                rounding = dict(
                    rtol=0, atol=2 * torch.finfo(expected[0].dtype).eps * (1 + expected[1].abs().max().item())
                )
                torch.testing.assert_close(found[0], expected[0][0], **rounding)
                torch.testing.assert_close(found[1], expected[1], **rounding)


class _Operations(TorchDispatchMode):
    """What PyTorch is asked for: names of operations, and of those that take memory."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.allocating: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if not function.is_view:
            self.names.append(name)
            if not function._schema.is_mutable:
                self.allocating.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("oscillating", [None, False])
def test_a_step_is_a_few_operations_and_allocates_its_results(recurrence: str, oscillating: bool | None) -> None:
    """Without numbers too: nothing depends on them, so that nobody waits for a device and a graph can hold the step."""
    x, hx = torch.randn(1, 4), torch.randn(1, 1, 4)
    with torch.no_grad():
        stepper = StableRNN(4, 4, nonlinearity="tanh", recurrence=recurrence, oscillating=oscillating).prepared()
        with _Operations() as seen:
            output, h = stepper.step(x, hx)
    assert seen.allocating[0] == "addmm" and len(seen.allocating) == 2  # h, and the output
    assert seen.names.count("addmm") == 1 and len(seen.names) <= 5
    assert output.untyped_storage().data_ptr() != h.untyped_storage().data_ptr()
    with torch.no_grad(), FakeTensorMode():
        fake = StableRNN(4, 4, nonlinearity="tanh", recurrence=recurrence, oscillating=oscillating).prepared()
        assert [value.shape for value in fake.step(torch.empty(1, 4))] == [output.shape, h.shape]


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_prepared_steps_keep_the_weights_of_their_moment(recurrence: str) -> None:
    layer, x = layer_of(recurrence), normal(2, 3, dtype=torch.float64)
    with torch.no_grad():
        stepper = layer.prepared()
        before, h = stepper.step(x)
        for value in layer.parameters():
            value.data.mul_(2)
        assert torch.equal(stepper.step(x)[0], before)
        assert not torch.equal(layer.prepared().step(x)[0], before)
        kept = before.clone()
        before.zero_()  # not the state
        assert torch.equal(stepper.step(x, h)[0], stepper.step(x, h.clone())[0])
        assert torch.equal(stepper.step(x)[0], kept)


def test_prepared_steps_under_vmap() -> None:
    layer, x = layer_of("ssm"), normal(4, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        stepper = layer.prepared()
        mapped, _ = torch.func.vmap(stepper.step)(x)
        torch.testing.assert_close(mapped, torch.stack([stepper.step(rows)[0] for rows in x]), **NEAR)


def _hooked(layer: StableRNN) -> None:
    layer.register_forward_hook(lambda module, inputs, output: None)


def _replaced(layer: StableRNN) -> None:
    layer.forward = lambda *inputs: inputs  # type: ignore[method-assign]


class _OwnStep(StableRNN):
    def step(self, x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x, x


class _OwnForward(StableRNN):
    def forward(self, input: Any, hx: Tensor | None = None, **options: Any) -> Any:
        output, h = super().forward(input, hx, **options)
        return output + 1, h


def test_what_cannot_be_prepared() -> None:
    for change in (_hooked, _replaced):
        change(layer := StableRNN(3, 5))
        with pytest.raises(ValueError, match="prepared needs modules that do what their classes say: without hooks"):
            layer.prepared()
    for kind in (_OwnStep, _OwnForward):
        with pytest.raises(ValueError, match="another forward or another step"):
            kind(3, 5).prepared()
    with pytest.raises(ValueError, match="prepared needs bidirectional=False"):
        StableRNN(3, 5, bidirectional=True).prepared()
    _hooked((model := RNNFunctional(3, 5)).readout)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="prepared needs modules"):
        model.prepared()
    nn.utils.parametrizations.weight_norm(layer := StableRNN(3, 5), "weight_ih_l0")
    torch.testing.assert_close(layer.prepared().step(torch.ones(3))[0], layer(torch.ones(1, 3))[0][0])


@pytest.mark.parametrize(
    ("x", "hx", "message"),
    [
        (torch.ones(2, 4), None, r"x\.size\(-1\) must be equal to input_size. Expected 3, got 4"),
        (torch.ones(1, 2, 3), None, "Expected x to be 1D or 2D, got 3D"),
        (torch.ones(2, 3).double(), None, "input dtype"),
        (torch.ones(2, 3), torch.ones(1, 5), "For batched input, hx should be 3-D"),
        (torch.ones(3), torch.ones(2, 5), r"Expected hidden size of hx \(1, 5\)"),
    ],
)
def test_errors_are_those_of_the_layer(x: Tensor, hx: Tensor | None, message: str) -> None:
    layer = StableRNN(3, 5)
    with torch.no_grad():
        for step in (layer.step, layer.prepared().step):
            with pytest.raises(ValueError, match=message):
                step(x, hx)
    with torch.enable_grad(), pytest.raises(ValueError, match=message):
        layer.step(x, hx)


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Of every making of coefficients, an entry."""
    made: list[Any] = []

    def counted(make: Callable[..., Any], *arguments: Any) -> Any:
        made.append(make)
        return make(*arguments)

    for module, name in (
        (elementwise, "linear_coefficients"), (elementwise, "input_scale"), (matrix, "matrix_coefficients"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, partial(counted, getattr(module, name)))
    return made


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_a_layers_own_steps_follow_its_weights(recurrence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where PyTorch does not see a change, and whatever `parametrize.cached()` keeps."""
    layer, x, made = layer_of(recurrence), normal(2, 3, dtype=torch.float64), _counted(monkeypatch)

    def halved() -> None:
        layer.dt = 0.5

    changes: list[Callable[[], object]] = [
        lambda: layer.get_parameter("weight_ih_l0").data[0, 0].add_(1),
        lambda: layer.get_parameter("rate_l1").sub_(0.5),
        lambda: layer.load_state_dict(layer_of(recurrence).state_dict()),
        halved,
    ]
    for cached in (False, True):
        with torch.no_grad(), parametrize.cached() if cached else nullcontext():
            for change in changes:
                change()
                made.clear()
                first, again = layer.step(x), layer.step(x)
                assert len(made) == 2  # one for each of the stacked layers
                assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
                torch.testing.assert_close(first[0], layer(x[None])[0][0], **NEAR)
        layer.dt = 1.0


def test_whoever_is_added_to_a_layer_sees_its_steps() -> None:
    x, seen = torch.ones(2, 3), []
    with torch.no_grad():
        layer = _OwnForward(3, 5)
        plain = StableRNN(3, 5)
        plain.load_state_dict(layer.state_dict())
        torch.testing.assert_close(layer.step(x)[0], plain.step(x)[0] + 1)
        handle = plain.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
        plain.step(x)
        handle.remove()
        plain.step(x)
        assert seen == [(1, 2, 3)]
        mask = StableRNN(3, 5, 2, dropout=1.0)
        mask.step(x)
        assert torch.equal(mask.step(x)[0], mask(x[None])[0][0])  # of dropped inputs
        nn.utils.parametrizations.weight_norm(plain, "weight_ih_l0")
        with parametrize.cached():
            torch.testing.assert_close(plain.step(x)[0], plain(x[None])[0][0])


def test_what_a_layer_remembers_goes_with_it() -> None:
    layer = StableRNN(3, 5)
    with torch.no_grad():
        layer.step(torch.ones(3))
    assert layer in steppers._REMEMBERED
    count = len(steppers._REMEMBERED)
    del layer
    gc.collect()
    assert len(steppers._REMEMBERED) < count

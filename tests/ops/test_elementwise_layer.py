"""A layer at once: what its parts give, one by one, and their gradients."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call, grad
from torch.nn.utils import parametrize

import cofm_triton as cofm
from cofm_triton.layers.recurrences import elementwise
from cofm_triton.ops import backends
from cofm_triton.ops.elementwise_layer import Inputs, at_once, elementwise_layer

pytestmark = pytest.mark.skipif(
    not (backends.INSTALLED["triton"] and (backends.interpreting() or torch.cuda.is_available())),
    reason="needs a GPU or Triton's interpreter",
)
DEVICE = "cpu" if backends.interpreting() else "cuda"
CASES: dict[str, dict[str, Any]] = {
    "ssm": dict(oscillating=False),
    "ssm, pairs, learnable": dict(learnable_dt=True),
    "linear, no gain": dict(recurrence="diagonal", nonlinearity="linear", oscillating=False, normalize_input=False),
    "tanh": dict(recurrence="diagonal", nonlinearity="tanh", oscillating=False, bias=False),
    "tanh, pairs": dict(recurrence="diagonal", nonlinearity="tanh", discretization="exact"),
}


def layer(dtype: torch.dtype = torch.float64, hidden: int = 4, **options: Any) -> cofm.StableRNN:
    torch.manual_seed(0)
    return cofm.StableRNN(3, hidden, batch_first=True, backend="triton", device=DEVICE, dtype=dtype, **options)


def results(model: cofm.StableRNN, x: Tensor, hx: Tensor | None, **episodes: Any) -> list[Tensor]:
    output, h_n = model(x, hx, **episodes)
    weights = torch.linspace(1, 2, output.numel(), dtype=output.dtype, device=DEVICE).view(output.shape)
    loss = (weights * output).sum() + h_n.square().sum()
    leaves = [x, *([] if hx is None else [hx]), *model.parameters()]
    slopes = torch.autograd.grad(loss, leaves, retain_graph=True)
    second = torch.autograd.grad(torch.autograd.grad(loss, leaves[-1], create_graph=True)[0].sum(), leaves[0])
    return [output, h_n, *slopes, *second]


@pytest.mark.parametrize("case", CASES)
def test_a_layer_at_once_is_its_parts(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = layer(**CASES[case])
    x = torch.randn(1, 2, 3, dtype=torch.float64, device=DEVICE, requires_grad=True)
    hx = torch.rand(1, 1, 4, dtype=torch.float64, device=DEVICE).requires_grad_() if "pairs" in case else None
    resets = torch.tensor([[False, True]], device=DEVICE) if "tanh" in case or "learnable" in case else None
    episodes: dict[str, Any] = dict(resets=resets, reset_to="h0" if "pairs" in case else "zero")
    made = []

    def counted(*given: Any) -> tuple[Tensor, Tensor]:
        made.append(given)
        return elementwise_layer(*given)

    monkeypatch.setattr(elementwise, "elementwise_layer", counted)
    found = [results(model, x, hx, **episodes) for _ in range(3)][-1]
    assert len(made) == 3
    monkeypatch.setattr(elementwise, "at_once", lambda *_: None)
    monkeypatch.setattr(elementwise, "is_fused", lambda *_: False)
    for one, other in zip(found, results(model, x, hx, **episodes), strict=True):
        torch.testing.assert_close(one, other)  # both in float64, off by roundings of it


@pytest.mark.parametrize("index", [0, 1])
def test_one_result_is_asked_for(index: int) -> None:
    model = layer(**CASES["tanh"])
    x = torch.randn(2, 3, 3, dtype=torch.float64, device=DEVICE)
    grads = torch.autograd.grad(model(x)[index].sum(), list(model.parameters()))
    assert all(slope.isfinite().all() and slope.any() for slope in grads)


@pytest.mark.parametrize("change", ["data", "hooks"])
def test_what_was_saved_comes_back_in_another_layout(change: str) -> None:
    """After plans are made: `.data` of a parameter is something else, or hooks on what is saved give copies back."""
    model = layer(**CASES["ssm"])
    x = torch.randn(2, 3, 3, dtype=torch.float64, device=DEVICE)

    def transposed(tensor: Tensor) -> Tensor:
        return tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor

    def slopes(changed: bool) -> tuple[Tensor, ...]:
        hooks = saved_tensors_hooks(lambda tensor: tensor, transposed if changed else lambda tensor: tensor)
        with hooks if change == "hooks" else nullcontext():
            loss = model(x)[0].square().sum()
        if changed and change == "data":
            model.weight_ih_l0.data = transposed(model.weight_ih_l0.data)
        return torch.autograd.grad(loss, list(model.parameters()))

    found = [slopes(False) for _ in range(3)]
    for one, other in zip(found[0], slopes(True), strict=True):
        torch.testing.assert_close(one, other)


def test_who_runs_at_once() -> None:
    def takes(model: cofm.StableRNN, x: Tensor, h0: Tensor | None = None) -> bool:
        free = getattr(model, "frequency_l0", None)
        log_dt = getattr(model, "log_dt_l0", None)
        inputs = Inputs(x, model.weight_ih_l0, model.bias_l0, model.rate_l0, free, log_dt, h0)
        return at_once(model, inputs) is not None

    x = torch.randn(2, 3, 3, dtype=torch.float64, device=DEVICE)
    assert takes(layer(), x) and takes(layer(), x, x.new_zeros(2, 4))
    assert not takes(layer(), x.float())
    assert not takes(layer(torch.bfloat16), x.bfloat16())
    assert not takes(layer(hidden=5), x)  # the single unit has a partner
    assert not takes(layer(normalize_input=False), x)  # a complex gain
    assert not takes(layer(recurrence="diagonal", nonlinearity="tanh", learnable_dt=True), x)
    assert not takes(layer(recurrence="diagonal", nonlinearity="relu"), x)  # the kernel would spill
    assert not takes(layer(), x[:, :0])
    assert not takes(layer(), torch._neg_view(x))
    assert takes(layer(torch.float32), x.float())
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        assert not takes(layer(torch.float32), x.float())
    with parametrize.cached():
        assert not takes(layer(), x)


def test_transformations_take_the_parts() -> None:
    model = layer()
    x = torch.randn(1, 2, 3, dtype=torch.float64, device=DEVICE)
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    by_name = grad(lambda given: functional_call(model, given, (x,))[0].sum())(parameters)
    slopes = torch.autograd.grad(model(x)[0].sum(), list(model.parameters()))
    for one, other in zip(by_name.values(), slopes, strict=True):
        torch.testing.assert_close(one, other)

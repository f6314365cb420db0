"""Coefficients made by one kernel: those of PyTorch's functions in float64, rounded once; so are their gradients."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

import cofm_triton as cofm
from cofm_triton.layers import rnn_functional
from cofm_triton.ops import backends, mode_coefficients
from cofm_triton.ops.mode_coefficients import composed_coefficients, fused_coefficients, is_fused
from cofm_triton.step.parameterizations import PARAMETERIZATIONS

pytestmark = pytest.mark.skipif(
    not (backends.INSTALLED["triton"] and (backends.interpreting() or torch.cuda.is_available())),
    reason="needs a GPU or Triton's interpreter",
)
DEVICE = "cpu" if backends.interpreting() else "cuda"
Parameters = list[Tensor | None]


def layer(width: int = 5, **options: Any) -> cofm.StableRNN:
    torch.manual_seed(0)
    return cofm.StableRNN(2, width, backend="triton", device=DEVICE, **options)


def parameters(model: cofm.StableRNN) -> Parameters:
    found = (model.rate_l0, getattr(model, "frequency_l0", None), getattr(model, "log_dt_l0", None))
    return [None if tensor is None else tensor.detach().requires_grad_() for tensor in found]


def given(some: Parameters) -> list[Tensor]:
    return [tensor for tensor in some if tensor is not None]


def kinds() -> list[dict[str, Any]]:
    """Every gain, with both discretizations, single and in pairs; parameterisations in turn."""
    found, names = [], 0
    for recurrence, act, oscillating, normalize, discretization in product(
        ("ssm", "diagonal"), ("relu", "tanh"), (False, True), (False, True), ("exact", "euler")
    ):
        if (recurrence, act) != ("ssm", "tanh"):
            names += 1
            found.append(
                dict(
                    recurrence=recurrence, nonlinearity=act, oscillating=oscillating, normalize_input=normalize,
                    discretization=discretization, parameterization=PARAMETERIZATIONS[names % len(PARAMETERIZATIONS)],
                    learnable_dt=names % 3 == 0, dt=0.5,
                )
            )  # fmt: skip
    paper = dict(recurrence="diagonal", oscillating=False, normalize_input="paper", parameterization="lru")
    slow = dict(width=12, recurrence="ssm", oscillating=True, normalize_input=False, dt=0.1)  # gains by their series
    return [*found, *(dict(paper, nonlinearity=act) for act in ("linear", "tanh")), dict(width=2), slow]


def one_rounding(actual: Tensor, exact: Tensor, largest: Tensor) -> None:
    """Formed in float64, up to terms that cancel, and rounded once to the dtype of `actual`."""
    bound = torch.finfo(actual.dtype).eps / 2 * exact.abs() + 64 * torch.finfo(torch.float64).eps * largest
    assert ((actual - exact).abs() <= bound * (1 + 1e-6)).all()


@pytest.mark.parametrize("options", kinds(), ids=lambda options: "-".join(map(str, options.values())))
def test_values_and_gradients(options: dict[str, Any]) -> None:
    model = layer(**options)
    narrow = parameters(model)
    wide: Parameters = [None if t is None else t.detach().double().requires_grad_() for t in narrow]
    assert is_fused(model, "triton", *narrow)
    actual, exact = fused_coefficients(model, *narrow), composed_coefficients(model, *wide)  # type: ignore[arg-type]
    assert [part is None for part in actual] == [part is None for part in exact]
    for part, right in zip(actual, exact, strict=True):
        if part is None or right is None:
            continue
        parts, rights = (torch.view_as_real(t) if t.is_complex() else t for t in (part, right))
        one_rounding(parts, rights, rights.abs().amax())
        weights = torch.rand_like(parts)
        found = torch.autograd.grad((weights * parts).sum(), given(narrow), retain_graph=True)
        if not right.requires_grad:
            assert not any(gradient.any() for gradient in found)
            continue
        wanted = torch.autograd.grad(
            (weights * rights).sum(), given(wide), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for one, other in zip(found, wanted, strict=True):
            one_rounding(one, other, rights.abs().amax() + other.abs().amax())


def test_subgradients_at_the_largest_angle() -> None:
    """Euler pairs of relu: the bound of the angle has a kink where dt * rate = 1, as it is in fresh layers."""
    options = dict(recurrence="diagonal", nonlinearity="relu", discretization="euler", parameterization="exp")
    model = layer(4, dtype=torch.float64, **options)
    some = parameters(model)
    assert some[0] is not None and some[0].detach().eq(0).any()  # exp(0) = 1

    def slopes(made: Any) -> tuple[Tensor, ...]:
        return torch.autograd.grad(made(model, *some)[0].square().sum(), given(some))

    for one, other in zip(slopes(fused_coefficients), slopes(composed_coefficients), strict=True):
        torch.testing.assert_close(one, other)


def test_second_derivatives_are_those_of_pytorch() -> None:
    model = layer(dtype=torch.float64)
    some = parameters(model)

    def curvature(made: Any) -> list[Tensor]:
        first, second = made(model, *some)
        loss = torch.view_as_real(first).square().sum() + second.square().sum()
        slopes = torch.autograd.grad(loss, given(some), create_graph=True)
        length = torch.stack([slope.square().sum() for slope in slopes]).sum()
        return list(torch.autograd.grad(length, given(some)))

    expected = curvature(composed_coefficients)
    # The same formulas at coefficients that are a rounding off; gradients that cancel keep the errors of their terms.
    allowed = 2**4 * torch.finfo(torch.float64).eps * max(float(part.abs().max()) for part in expected)
    for one, other in zip(curvature(fused_coefficients), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=allowed)


def test_only_one_coefficient_is_asked_for() -> None:
    model = layer()
    some = parameters(model)
    for index in range(2):
        found = fused_coefficients(model, *some)[index]  # type: ignore[arg-type]
        assert found is not None
        grads = torch.autograd.grad(found.abs().sum(), given(some), allow_unused=True)
        assert any(gradient is not None and gradient.any() for gradient in grads)


def test_who_makes_them() -> None:
    model = layer(learnable_dt=True)
    raw, free, log_dt = parameters(model)
    assert raw is not None and free is not None
    assert is_fused(model, "triton", raw, free, log_dt)
    assert not is_fused(model, "torch", raw, free, log_dt)
    assert not is_fused(model, "triton", raw, free.double(), log_dt)
    assert not is_fused(model, "triton", raw.repeat_interleave(2)[::2], free, log_dt)
    assert not is_fused(layer(parameterization=cofm.parameterization("inverse", b=0.1)), "triton", raw, free, None)
    seen = []

    def under_functorch(w: Tensor) -> Tensor:
        seen.append(is_fused(model, "triton", w.expand(3)))
        return w

    vmap(grad(under_functorch))(torch.ones(2))
    assert seen == [False]


@pytest.mark.parametrize("recurrence", ["ssm", "diagonal"])
def test_layers_take_them(recurrence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from cofm_triton.layers.recurrences import elementwise

    model = layer(recurrence=recurrence, nonlinearity="tanh", learnable_dt=True, batch_first=True)
    x, hx = torch.randn(2, 3, 2, device=DEVICE), torch.rand(1, 2, 5, device=DEVICE)

    def run() -> list[Tensor]:
        output, h_n = model(x, hx)
        return [output, h_n, *torch.autograd.grad(output.sum() + h_n.sum(), list(model.parameters()))]

    made: list[Any] = []

    def counted(*arguments: Any) -> Any:
        made.append(arguments)
        return fused_coefficients(*arguments)

    monkeypatch.setattr(elementwise, "fused_coefficients", counted)
    fused = run()
    assert made
    monkeypatch.setattr(elementwise, "is_fused", lambda *_: False)
    for one, other in zip(fused, run(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("options", [dict(), dict(nonlinearity="tanh", oscillating=True, normalize_input=True)])
def test_read_outs_take_them(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = cofm.RNNFunctional(1, 5, backend="triton", device=DEVICE, **options)
    x = torch.randn(2, 3, 1, device=DEVICE)
    assert model._is_fused(x)

    def run() -> list[Tensor]:
        y = model(x)
        return [y, *torch.autograd.grad(y.sum(), list(model.parameters()))]

    fused = run()
    monkeypatch.setattr(rnn_functional, "step_coefficients", None)
    assert all(map(torch.equal, run(), fused))
    monkeypatch.undo()
    monkeypatch.setattr(rnn_functional, "has_fused_coefficients", lambda *_: False)
    for one, other in zip(fused, run(), strict=True):
        torch.testing.assert_close(one, other)


def test_kernels_launch_on_the_gpu_of_the_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = []

    def on_device(device: torch.device) -> Any:
        devices.append(device)
        return backends.on_device(device)

    monkeypatch.setattr(mode_coefficients, "on_device", on_device)
    some = parameters(layer())
    first, _ = fused_coefficients(layer(), *some)  # type: ignore[arg-type]
    first.abs().sum().backward()
    assert [device.type for device in devices] == 2 * [DEVICE]

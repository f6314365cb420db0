"""Gated layers: the papers' cells exactly, states that stay bounded, streams, margins, options."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

import cofm_triton as cofm
from cofm_triton.step.gates import GATES

# At most fifty steps of two layers, of some thirty operations on gates, decays and gains each.
ROUNDINGS = 50 * 2 * 32 * torch.finfo(torch.float64).eps
NEAR: Any = dict(rtol=ROUNDINGS, atol=ROUNDINGS)
OPTIONS: dict[str, Any] = dict(batch_first=True, nonlinearity="linear", dtype=torch.float64)


def layer_of(gates: str, **options: Any) -> cofm.StableRNN:
    """Biases included, since fresh ones are 0."""
    torch.manual_seed(0)
    layer = cofm.StableRNN(3, 5, gated=gates, **{**OPTIONS, **options})
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith("bias"):
                parameter.normal_()
    return layer


def step_of(gates: str, rate: Tensor, e: Tensor, p: Tensor, q: Tensor, h: Tensor) -> Tensor:
    """One step, from the papers' equations; rate is dt f(w)."""
    if gates == "rg_lru":  # a = exp(-softplus(w)) for the rate softplus(w), c = dt; arXiv 2402.19427, eq 1-4
        a = torch.exp(-rate) ** torch.sigmoid(p)
        return a * h + torch.sqrt(1 - a**2) * (torch.sigmoid(q) * e)
    if gates == "s6":  # arXiv 2312.00752, algorithm 2
        delta = softplus(p)
        return torch.exp(-delta * rate) * h + delta * e
    share = torch.sigmoid(p)  # arXiv 2410.01201
    if gates == "minlstm":
        f, i = torch.sigmoid(p), torch.sigmoid(q)
        share = i / (f + i)
    return (1 - share) * h + share * e


@pytest.mark.parametrize("gates", GATES)
def test_layers_are_the_papers_cells(gates: str) -> None:
    layer = layer_of(gates, oscillating=False, dt=8.0 if gates == "rg_lru" else 1.0)
    with torch.no_grad():
        if gates in ("mingru", "minlstm"):
            layer.rate_l0.copy_(cofm.parameterization("softplus").inverse(torch.ones(5, dtype=torch.float64)))
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    e, p, *q = (x @ layer.weight_ih_l0.T + layer.bias_l0).split(5, -1)  # type: ignore[operator]
    h, rows, rate = torch.zeros(2, 5, dtype=torch.float64), [], layer.dt * softplus(layer.rate_l0)
    for t in range(9):
        h = step_of(gates, rate, e[:, t], p[:, t], q[0][:, t] if q else p[:, t], h)
        rows.append(h)
    output, h_n = layer(x)
    torch.testing.assert_close((output, h_n[0]), (torch.stack(rows, 1), h), **NEAR)


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("oscillating", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_chunks_padding_and_saving(bidirectional: bool, oscillating: bool, gates: str) -> None:
    """5 units leave a single one beside the pairs."""
    layer = layer_of(gates, oscillating=oscillating, bidirectional=bidirectional, num_layers=2, backend="torch")
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    output, h_n = layer(x)
    twin = layer_of(gates, oscillating=oscillating, bidirectional=bidirectional, num_layers=2, backend="torch")
    twin.load_state_dict(layer.state_dict())
    torch.testing.assert_close(twin(x), (output, h_n), **NEAR)
    _, ends = layer(torch.nn.utils.rnn.pack_sequence([x[0], x[1, :4]]))
    torch.testing.assert_close(ends[:, 1], layer(x[1, :4])[1], **NEAR)
    if not bidirectional:
        first, h = layer(x[:, :2])
        rest, last = layer(x[:, 2:], h)
        torch.testing.assert_close((torch.cat((first, rest), 1), last), (output, h_n), **NEAR)
        step, h = layer.step(x[:, 0])
        torch.testing.assert_close(step, output[:, 0], **NEAR)


@pytest.mark.parametrize("gates", GATES)
def test_stable_for_every_weight_and_input(gates: str) -> None:
    """A difference between two states never grows, however far out weights and inputs are."""
    layer = layer_of(gates, backend="torch")
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(30)
        x = 30 * torch.randn(2, 50, 3, dtype=torch.float64)
        h = torch.randn(1, 2, 5, dtype=torch.float64)
        ends = [layer(x, start)[1] for start in (h, 0 * h)]
    size = (ends[0] - ends[1]).norm()
    assert size.isfinite() and size <= (1 + ROUNDINGS) * h.norm()


@pytest.mark.parametrize("gates", GATES)
def test_margin_is_the_infimum_over_inputs(gates: str) -> None:
    layer = layer_of(gates, oscillating=False)
    assert layer.stability_margin() == 0.0
    with torch.no_grad():
        layer.weight_ih_l0[5:] = 0  # gates that do not see the input
    _, p, *q = layer.bias_l0.split(5)  # type: ignore[union-attr]
    strength = {"rg_lru": torch.sigmoid(p), "minlstm": softplus(softplus(-p) - softplus(-(q or [p])[0]))}
    expected = (softplus(layer.rate_l0) * strength.get(gates, softplus(p))).min()
    assert layer.stability_margin() == pytest.approx(expected.item(), rel=ROUNDINGS)


def test_measured_as_any_module() -> None:
    """The memory function by differences of responses, the error of a model that was not moved, a verdict's margin."""
    torch.manual_seed(0)
    model = cofm.RNNFunctional(1, 4, gated="minlstm", dtype=torch.float64, backend="torch")
    step = torch.ones(1, 1, dtype=torch.float64)
    memory = cofm.memory_function(model, 6, inputs=step)
    with torch.no_grad():
        response = model(step.expand(1, 6, 1)).flatten()
        rest = model.readout(torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(memory.values, response.diff(prepend=rest).abs())
    models = [model, copy.deepcopy(model)]
    xs = [torch.randn(3, length, 1, dtype=torch.float64) for length in (5, 9)]
    ys = [model(x).detach() + 0.01 for x in xs]
    curve = cofm.perturbation_error([model], xs[0], ys[0], radii=[0.0, 0.1], directions=2)
    error = cofm.temporally_weighted_mse(model(xs[0]), ys[0])
    assert curve.error[0, 0].item() == pytest.approx(error.item())
    assert curve.error[0, 1] > curve.error[0, 0]
    assert cofm.stability_verdict(models, xs, ys).margin == 0.0


def test_options() -> None:
    assert cofm.StableRNN(2, 4, gated=True).gated == "rg_lru"
    model = cofm.RNNFunctional(1, 4, gated="mingru")
    assert model(torch.randn(2, 5, 1)).shape == (2, 5, 1)
    cases: list[tuple[str, dict[str, Any]]] = [
        ("gated must be a bool or one of", dict(gated="gru")),
        ("gated=True needs recurrence='ssm'", dict(gated=True, recurrence="dense")),
        ("gated=True needs normalize_input=True", dict(gated=True, normalize_input=False)),
        ("gated='s6' needs learnable_dt=False", dict(gated="s6", learnable_dt=True)),
    ]
    for message, options in cases:
        with pytest.raises(ValueError, match=message):
            cofm.StableRNN(2, 4, **options)
    with pytest.raises(RuntimeError, match="gated was 'rg_lru' and is 'minlstm'"):
        cofm.StableRNN(2, 4, gated="minlstm").load_state_dict(cofm.StableRNN(2, 4, gated=True).state_dict())

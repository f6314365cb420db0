"""Gradient-over-weight ratios: numbers of a plain loop, the bound, the figure."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cofm_triton import reference
from cofm_triton.experiment.gradient_recorder import GradientRecorder
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.step.parameterization import PARAMETERIZATIONS


def loss_of(model: nn.Module, length: int = 30) -> Tensor:
    x = torch.randn(4, length, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return (model(x) - x.cumsum(1)).square().mean()


@pytest.mark.parametrize("kind", PARAMETERIZATIONS)
def test_ratios_and_bounds(kind: str) -> None:
    torch.manual_seed(0)
    model = RNNFunctional(1, 5, num_layers=2, parameterization=kind, dtype=torch.float64)
    recorder = GradientRecorder(model)
    weights, gradients = [], []
    for _ in range(3):
        model.zero_grad()
        loss_of(model).backward()
        recorder.record()
        rate = model.get_parameter("rnn.rate_l1")
        assert rate.grad is not None
        weights.append(rate.detach().clone())
        gradients.append(rate.grad.clone())
        with torch.no_grad():
            rate.sub_(1e-3 * rate.grad)
    w, gradient = torch.stack(weights), torch.stack(gradients)
    assert list(recorder.ratios) == ["rnn.rate_l0", "rnn.rate_l1"]
    torch.testing.assert_close(recorder.ratios["rnn.rate_l1"], gradient.abs() / w.abs(), rtol=0, atol=0)
    raw = w.clone().requires_grad_()
    f = reference.parameterization(kind).rate(raw)
    torch.testing.assert_close(recorder.rates["rnn.rate_l1"], f.detach())
    (slope,) = torch.autograd.grad(f.sum(), raw)
    scale = torch.where(slope == 0, 0, slope.abs() / f**2).detach()
    torch.testing.assert_close(recorder.bounds["rnn.rate_l1"], scale / w.abs())
    assert bool((gradient.abs() <= recorder.constant * scale * (1 + 1e-12)).all())
    reached = [(recorder.ratios[name] / recorder.bounds[name]).nan_to_num(0) for name in recorder.ratios]
    assert recorder.constant >= max(share.max().item() for share in reached) * (1 - 1e-12)


@pytest.mark.parametrize("kind", ["exp", "softplus", "inverse", "direct"])
def test_one_constant_bounds_the_gradient_at_every_rate(kind: str) -> None:
    """One linear unit, constant input, the gradient 1 in the last output: its size is 1 / rate^2 at every rate."""
    bounded = []
    for rate in (1.0, 0.1, 0.01, 0.001):
        model = RNNFunctional(1, 1, nonlinearity="linear", parameterization=kind, dtype=torch.float64)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(1.0)
            model.rnn.rate_l0.copy_(reference.parameterization(kind).inverse(torch.tensor([rate]).double()))
        recorder = GradientRecorder(model)
        model(torch.ones(1, 2000, 1, dtype=torch.float64))[:, -1].sum().backward()
        recorder.record()
        bounded.append(recorder.constant)
    assert max(bounded) < 4 and min(bounded) > 0.1


def test_figure_and_errors(tmp_path: Path) -> None:
    model = RNNFunctional(1, 3, dtype=torch.float64)
    recorder = GradientRecorder(model)
    assert math.isnan(recorder.constant)
    with pytest.raises(ValueError, match="recorder must have recorded a step"):
        recorder.plot(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"call record\(\) after backward\(\), got none for rnn.rate_l0"):
        recorder.record()
    with pytest.raises(ValueError, match="model must hold a cofm recurrent layer"):
        GradientRecorder(nn.Linear(1, 1))
    loss_of(model).backward()
    recorder.record()
    figure = pytest.importorskip("matplotlib.figure")
    axes = figure.Figure().subplots()
    recorder.plot(axes, label="softplus")
    line, bound = axes.get_lines()
    assert line.get_ydata()[0] == recorder.ratios["rnn.rate_l0"].max() <= bound.get_ydata()[0] * (1 + 1e-12)
    assert axes.get_legend().get_texts()[0].get_text() == "softplus"
    recorder.plot(tmp_path / "ratios.svg")
    assert (tmp_path / "ratios.svg").stat().st_size > 1000

"""StableSSM's experiment: trainings against a plain loop, overflow, the criterion in closed form."""

import math
from typing import Any

import pytest
import torch

import cofm_triton as cofm
from cofm_triton import reference
from cofm_triton.experiment.stable_ssm import gradient_bound, recorded_training
from cofm_triton.experiment.training import initial_model


@pytest.mark.parametrize("oscillating", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_training_is_a_plain_loop(optimizer: str, oscillating: bool) -> None:
    options: dict[str, Any] = dict(oscillating=oscillating, seed=3)
    found = recorded_training(
        "exp", learning_rate=0.1, optimizer=optimizer, length=20, sequences=4, width=4, steps=3, **options
    )
    model = initial_model(4, parameterization="exp", recurrence="ssm", **options)
    x, y = cofm.targets.generate("pol", 4, 20, seed=3)
    step = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer](model.parameters(), lr=0.1)
    raw = model.rnn.rate_l0
    for k in range(3):
        step.zero_grad()
        loss = (model(x) - y).square().mean() / y.square().mean()
        loss.backward()
        assert found.losses[k].item() == pytest.approx(loss.item(), rel=1e-12)
        assert raw.grad is not None
        torch.testing.assert_close(found.ratios[k], (raw.grad / raw).abs().detach())
        torch.testing.assert_close(found.rates[k], reference.parameterization("exp").rate(raw).detach())
        step.step()
    assert found.constant == pytest.approx((found.ratios / found.bounds).max().item())
    assert found.final == found.losses[-1].item()


def test_overflow_is_an_infinite_loss() -> None:
    """Direct rates that a step has made negative grow without bound; no number of it is dropped."""
    found = recorded_training("direct", learning_rate=1e3, length=400, sequences=2, width=2, steps=20)
    assert found.final == math.inf and bool(found.losses[0].isfinite()) and not found.is_stable
    assert found.rates.shape == (20, 2) and bool(found.rates[-1].isinf().all())
    assert math.isfinite(found.constant)


@pytest.mark.parametrize(
    ("name", "bound"),
    [("direct", 1e6), ("exp", 100 / math.log(100)), ("inverse", 2.0), ("inverse(a=3.0, b=0.1)", 6.0)],
)
def test_gradient_bound(name: str, bound: float) -> None:
    """At the slowest rate r: r^-3 of direct, 1 / (r |log r|) of exp; 2 a of inverse everywhere."""
    assert gradient_bound(name) == pytest.approx(bound, rel=1e-9)


def test_errors() -> None:
    with pytest.raises(ValueError, match="optimizer must be one of"):
        recorded_training("exp", learning_rate=0.1, optimizer="adamw")
    with pytest.raises(ValueError, match="learning_rate must be positive"):
        recorded_training("exp", learning_rate=0.0)
    with pytest.raises(ValueError, match=r"slowest must not exceed fastest, 0\.1, got 0\.2"):
        gradient_bound("exp", 0.2, 0.1)

"""How long calls say how much is done: one convention for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import cofm_triton as cofm
from cofm_triton.cpu.blocked import perturbation as blocked
from cofm_triton.experiment.training import train_linear, train_sequences
from cofm_triton.ops import backends
from cofm_triton.perturbation.quadratic_form import QuadraticForm
from cofm_triton.perturbation.verdict import slow_direction_radius
from cofm_triton.support.progress import counting

X, Y = cofm.targets.generate("exp", 4, 6)
MODULE = torch.nn.GRU(1, 1, batch_first=True).double()


def functional(**options: Any) -> cofm.RNNFunctional:
    return cofm.RNNFunctional(1, 2, dtype=torch.float64, **options)


def horizons(**options: Any) -> object:
    longer = cofm.targets.generate("exp", 4, 9)
    return cofm.stability_verdict([functional(), functional()], [X, longer[0]], [Y, longer[1]], **options)


LONG: dict[str, Callable[..., object]] = {
    "perturbation_error": lambda **o: cofm.perturbation_error([functional(), functional()], X, Y, directions=2, **o),
    "of any module": lambda **o: cofm.perturbation_error(MODULE, X, Y, directions=2, radii=[0, 0.1], **o),
    "of a linear model": lambda **o: cofm.perturbation_error(functional(nonlinearity="linear"), X, Y, **o),
    "worst case": lambda **o: cofm.perturbation_error(functional(), X, Y, radii=[0.1], search="gradient", **o),
    "memory_function": lambda **o: cofm.memory_function(functional(nonlinearity="tanh"), 5, **o),
    "memory of a linear model": lambda **o: cofm.memory_function(functional(nonlinearity="linear"), 5, **o),
    "memory of a dense model": lambda **o: cofm.memory_function(functional(recurrence="dense"), 5, **o),
    "memory of any module": lambda **o: cofm.memory_function(MODULE, 5, **o),
    "memory_sweep": lambda **o: cofm.memory_sweep(functional(), 5, radii=[0, 0.1], directions=2, **o),
    "slow_direction_radius": lambda **o: slow_direction_radius([functional(), functional()], X, Y, **o),
    "stability_verdict": horizons,
    "verdict of a limit": lambda **o: cofm.stability_verdict(target="exp", **o),
    "train_linear": lambda **o: train_linear(
        [functional(nonlinearity="linear")], QuadraticForm.from_data(X, Y), steps=3, **o
    ),
    "train_sequences": lambda **o: train_sequences([functional()], X, Y, steps=3, batch_size=2, **o),
}
# Calls of more than one piece of work, however small.
STEPWISE = {"worst case", "memory_function", "train_linear", "train_sequences"}
STEPWISE |= {name for name in LONG if "radius" in name or "verdict" in name}


@pytest.mark.parametrize("name", LONG)
def test_counts_rise_to_the_total(name: str) -> None:
    calls: list[tuple[int, int]] = []
    LONG[name](progress=lambda *counts: calls.append(counts))
    done, totals = zip(*calls, strict=True)
    assert all(isinstance(count, int) for pair in calls for count in pair)
    assert set(totals) == {done[-1]} and all(a < b for a, b in zip((0, *done), done, strict=False))
    assert len(calls) > 1 or name not in STEPWISE


def test_a_sweep_without_numba_counts_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "INSTALLED", backends.INSTALLED | {"numba": False})
    monkeypatch.setattr(backends, "_warned", True)
    monkeypatch.setattr(blocked, "_CPU_NUMBERS", 32)  # 4 sequences, 2 units: 4 models
    calls: list[tuple[int, int]] = []
    model, radii = functional(), [0.0, 0.1, 0.2]
    curve = cofm.perturbation_error(model, X, Y, radii=radii, directions=3, progress=lambda *now: calls.append(now))
    assert calls == [(4, 7), (7, 7)]
    monkeypatch.undo()
    whole = cofm.perturbation_error(model, X, Y, radii=radii, directions=3)
    torch.testing.assert_close(curve.per_direction, whole.per_direction)


class Stop(Exception):
    pass


@pytest.mark.parametrize("name", LONG)
def test_errors_end_the_call_and_change_nothing(name: str) -> None:
    def fail(done: int, total: int) -> None:
        raise Stop

    before = (torch.get_num_threads(), torch.is_grad_enabled(), MODULE.training)
    with pytest.raises(Stop):
        LONG[name](progress=fail)
    assert (torch.get_num_threads(), torch.is_grad_enabled(), MODULE.training) == before


@pytest.mark.parametrize("name", LONG)
def test_what_cannot_be_called_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=r"progress must be a function of \(done, total\) or None, got bool"):
        LONG[name](progress=True)


def test_nobody_needs_to_be_told() -> None:
    counting(None, 3)(1)


def test_training_that_is_stopped_leaves_the_models() -> None:
    def fail(done: int, total: int) -> None:
        raise KeyboardInterrupt

    model = functional()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        train_sequences([model], X, Y, steps=3, batch_size=2, progress=fail)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

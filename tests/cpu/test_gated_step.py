"""Compiled steps of gated layers: within the bounds of the recurrence that they are a step of, taken where they can."""

from __future__ import annotations

import copy

import pytest
import torch
from scan_cases import normal
from torch import Tensor

pytest.importorskip("numba")

from cofm_triton import StableRNN
from cofm_triton.cpu.jit.gated_step import MAX_PRODUCTS, GatedStep
from cofm_triton.evidence.tolerance.gated_rnn import gated_rnn_bounds
from cofm_triton.step.gates import GATES, gates_of


def _eighths(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Numbers of which products and their sums are exact in float32."""
    return torch.randint(-16, 17, shape, generator=torch.Generator().manual_seed(seed)).to(dtype) / 8


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("turning", [False, True])
@pytest.mark.parametrize("width", [6, 32, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [False, True])
def test_within_bounds(bias: bool, dtype: torch.dtype, width: int, turning: bool, gates: str) -> None:
    """Whole blocks, less than one, and both."""
    row = gates_of(gates)
    parts = 3 if row.has_input_logit else 2
    encoder, x = _eighths(5, parts * width, dtype=dtype, seed=0), _eighths(3, 5, dtype=dtype, seed=1)
    b = _eighths(parts * width, dtype=dtype, seed=2) if bias else None
    rate, h = normal(width, dtype=dtype).exp(), normal(3, width, dtype=dtype)
    angle = normal(width // 2, dtype=dtype) if turning else None
    turn = None if angle is None else torch.polar(torch.ones_like(angle), angle)
    e = x.double() @ encoder.double() + (0 if b is None else b.double())
    values, p, *q = e.to(dtype).unflatten(1, (1, parts, width)).unbind(2)
    bounds = gated_rnn_bounds(values, rate, p, q[0] if q else None, angle, h, gates=gates)
    step = GatedStep(encoder, b, rate, turn, row)
    assert bounds["h_last"].excess(step(x, h)) <= 1
    assert torch.equal(copy.deepcopy(step)(x, h), step(x, h))


def test_what_it_takes() -> None:
    step = GatedStep(torch.ones(4, 16), None, torch.ones(8), None, gates_of("s6"))
    x, h = torch.ones(2, 4), torch.ones(2, 8)
    assert step.takes(x, h) and step.takes(x[:0], h[:0])
    many = MAX_PRODUCTS // (4 * 16) + 1
    for other in ((x.double(), h), (x, h.double()), (x.T.contiguous().T, h), (x, h.T.contiguous().T)):
        assert not step.takes(*other)
    assert not step.takes(torch.ones(many, 4), torch.ones(many, 8))


@pytest.mark.parametrize("oscillating", [False, True])
def test_layers_take_it(oscillating: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In steps without gradients, of any layer but those that ask for another backend or dtype."""
    calls: list[int] = []
    whole = GatedStep.__call__

    def counted(self: GatedStep, x: Tensor, h: Tensor) -> Tensor:
        calls.append(len(x))
        return whole(self, x, h)

    monkeypatch.setattr(GatedStep, "__call__", counted)

    def steps(count: int, x: Tensor, dtype: torch.dtype = torch.float32, backend: str | None = None) -> None:
        calls.clear()
        layer = StableRNN(3, 5, 2, gated=True, oscillating=oscillating, dtype=dtype, backend=backend)
        with torch.no_grad():
            stepper = layer.prepared()
            stepper.step(x, stepper.step(x)[1])
        assert len(calls) == count
        layer.prepared().step(x)
        assert len(calls) == count

    steps(4, torch.ones(2, 3))
    steps(4, torch.ones(3), backend="numba")
    steps(0, torch.ones(2, 3), backend="torch")
    steps(0, torch.ones(2, 3).bfloat16(), torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        steps(0, torch.ones(2, 3))

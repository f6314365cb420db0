"""Results that are kept inside PyTorch's `parametrize.cached()`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from cofm_triton.step.matrix_cache import kept
from scan_cases import normal
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cofm_triton.layers.recurrences import elementwise, matrix
from cofm_triton.layers.recurrences.contract import Layer
from cofm_triton.layers.stable_rnn import RECURRENCES, StableRNN


def _counted() -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
    """`twice(w)` by way of `kept`, and the results that were made."""
    made: list[Tensor] = []
    module = nn.Identity()

    def twice(w: Tensor) -> Tensor:
        def make() -> Tensor:
            made.append(2 * w)
            return made[-1]

        return kept(module, "twice", lambda: (w,), make)

    return twice, made


def test_nothing_is_kept_outside() -> None:
    twice, made = _counted()
    w = torch.ones(2)
    with parametrize.cached():
        twice(w)
    twice(w)
    with parametrize.cached():
        twice(w)
    assert len(made) == 3


def test_what_makes_a_result_anew() -> None:
    twice, made = _counted()
    w = torch.ones(2, requires_grad=True)
    changes: list[Callable[[], object]] = [lambda: None, lambda: w.add_(1), lambda: None]
    with parametrize.cached():
        for change, count in zip(changes, (1, 2, 2), strict=True):
            with torch.no_grad():
                change()
                assert torch.equal(twice(w), 2 * w)
            assert len(made) == count
        assert twice(w).requires_grad
        other = torch.zeros(2)
        assert torch.equal(twice(other), other)
    assert len(made) == 4


def test_inference_tensors_are_kept_as_well() -> None:
    twice, made = _counted()
    with torch.inference_mode(), parametrize.cached():
        w = torch.ones(2)
        assert twice(w) is twice(w)
    assert len(made) == 1


@pytest.mark.parametrize("nonlinearity", ["linear", "tanh"])
@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_steps_make_their_coefficients_once(
    recurrence: str, nonlinearity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = StableRNN(2, 3, 2, recurrence=recurrence, nonlinearity=nonlinearity, dtype=torch.float64)
    x, made = normal(5, 4, 2, dtype=torch.float64), []
    expected, _ = layer(x)

    def counted(make: Callable[..., Any], *arguments: Any) -> Any:
        made.append(make)
        return make(*arguments)

    for module, name in ((elementwise, "linear_coefficients"), (matrix, "matrix_coefficients")):
        monkeypatch.setattr(module, name, partial(counted, getattr(module, name)))
    with parametrize.cached():
        h, outputs = None, []
        for now in x:
            output, h = layer.step(now, h)
            outputs.append(output)
        in_kernel = recurrence == "diagonal" and nonlinearity == "tanh"
        assert len(made) == (0 if in_kernel else 2)  # once for each layer
        torch.testing.assert_close(torch.stack(outputs), expected)
        before, _ = layer.step(now, h)
        with torch.no_grad():
            layer.get_parameter("rate_l1").sub_(0.5)
        assert not torch.equal(layer.step(now, h)[0], before)
        changed, _ = layer.step(now, h)
    torch.testing.assert_close(changed, layer.step(now, h)[0])


@pytest.mark.parametrize("recurrence", ["orthogonal", "dense"])
def test_outside_a_matrix_is_asked_for_once(recurrence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of an orthogonal layer is solved for at every access."""
    layer, asked, made = StableRNN(2, 3, recurrence=recurrence), [], matrix.Matrix.matrix

    def counted(self: matrix.Matrix, layer: Layer, suffix: str) -> Tensor:
        asked.append(suffix)
        return made(self, layer, suffix)

    monkeypatch.setattr(matrix.Matrix, "matrix", counted)
    layer(normal(4, 2))
    assert asked == ["_l0"]

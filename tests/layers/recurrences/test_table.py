"""The table of recurrences: every row keeps the contract, and its parameters are those of a layer."""

import pytest
import torch
from torch import Tensor

from cofm_triton.layers.recurrences import matrix
from cofm_triton.layers.recurrences.contract import Episodes, Layer
from cofm_triton.layers.recurrences.table import RECURRENCES, recurrence
from cofm_triton.layers.stable_rnn import StableRNN
from cofm_triton.step.activation import activation


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("width", [1, 5, 6])
def test_shapes_are_those_of_a_layer(name: str, width: int) -> None:
    layer = StableRNN(2, width, recurrence=name)
    shapes = {f"{key}_l0": shape for key, shape in recurrence(name).shapes(layer).items()}
    own = {key: tuple(value.shape) for key, value in layer.named_parameters()}
    assert own == {"weight_ih_l0": (width, 2), "bias_l0": (width,), **shapes}


@torch.no_grad()
@pytest.mark.parametrize("name", RECURRENCES)
def test_runs_and_margins(name: str) -> None:
    layer = StableRNN(2, 5, recurrence=name, dtype=torch.float64)
    cell, x = recurrence(name), torch.randn(3, 4, 2, dtype=torch.float64)
    output, last = cell.run(layer, "_l0", x, None, None, Episodes())
    assert output.shape == (3, 4, 5) and last.shape == (3, 5)
    act = activation(layer.nonlinearity) if cell.acts_on_output else torch.clone
    torch.testing.assert_close(output[:, -1], act(last))
    lengths = torch.tensor([4, 1, 2])
    _, ends = cell.run(layer, "_l0", x, None, lengths, Episodes())
    torch.testing.assert_close(output[torch.arange(3), lengths - 1], act(ends))
    assert cell.margin(layer, "_l0") == layer.stability_margin() > 0


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"recurrence must be one of \('diagonal', .*'gru'"):
        recurrence("gru")


@pytest.mark.parametrize("recurrence", ["orthogonal", "dense"])
def test_a_matrix_is_asked_for_once(recurrence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of an orthogonal layer is solved for at every access."""
    layer, asked, made = StableRNN(2, 3, recurrence=recurrence), [], matrix.Matrix.matrix

    def counted(self: matrix.Matrix, layer: Layer, suffix: str) -> Tensor:
        asked.append(suffix)
        return made(self, layer, suffix)

    monkeypatch.setattr(matrix.Matrix, "matrix", counted)
    layer(torch.randn(4, 2))
    assert asked == ["_l0"]

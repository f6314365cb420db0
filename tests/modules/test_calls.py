"""Calls of a user's module: what it must be, its outputs, and those of copies."""

import pytest
import torch
from torch import Tensor, nn

from cofm_triton.modules.calls import check_calls, check_module, first_output, outputs_of_copies, under_vmap

X = torch.randn(4, 6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Mean(nn.Module):
    """Subtracts the mean over the sequences: none of them is mapped by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x - x.mean(0))


class Branching(Mean):
    """Looks at a value, which vmap does not allow."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight if float(self.weight.sum()) > 0 else -x


def dropped() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 1), nn.Dropout(0.5)).double().train()


def test_output_of_the_first_sequence_as_in_evaluation() -> None:
    model = dropped()
    output = check_calls("models", model, X, alone=True)
    torch.testing.assert_close(output, model.get_submodule("0")(X[:1]).detach(), rtol=0, atol=0)
    assert model.training and model.get_submodule("1").training


def test_other_digits_for_a_call() -> None:
    model = nn.Linear(2, 1)
    assert first_output("model", model, X[:1], torch.float64).dtype == torch.float64
    assert model.weight.dtype == torch.float32


def test_sequences_that_see_each_other() -> None:
    with pytest.raises(ValueError, match=r"models must map every sequence of \(N, T, d\) by itself"):
        check_calls("models", Mean(), X, alone=True)
    assert check_calls("models", Mean(), X, alone=False).shape == (1, 6, 2)


@pytest.mark.parametrize("make", [Mean, Branching])
def test_copies(make: type[Mean]) -> None:
    """Under vmap, and one by one where it cannot; the module's own parameters come back."""
    model = make()
    own, weights = model.weight, torch.stack([torch.full((2,), value, dtype=torch.float64) for value in (1.0, -2.0)])
    with under_vmap(), torch.no_grad():
        outputs = outputs_of_copies(model, {"weight": weights}, X)
    expected = X - X.mean(0) if make is Mean else X
    torch.testing.assert_close(outputs, torch.stack((expected, -2 * expected if make is Mean else -X)))
    assert model.weight is own


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (3, TypeError, "model must be a torch.nn.Module, got int"),
        (nn.LazyLinear(1), ValueError, "model must have its weights: .* 'weight' not yet made"),
        (nn.GRU(1, 1), ValueError, "model must take .* got batch_first=False"),
    ],
)
def test_what_cannot_be_called(model: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_module("model", model)


def test_another_dtype() -> None:
    with pytest.raises(TypeError, match=r"models must have the dtype and device of inputs .* in weight"):
        check_calls("models", nn.Linear(2, 1), X, alone=True)

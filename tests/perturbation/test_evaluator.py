"""Errors of copies and their gradients: the fast paths give what calls of the model give."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.ops import perturbation as ops
from cofm_triton.perturbation.evaluator import ErrorEvaluator
from cofm_triton.perturbation.stacking import is_stackable


class AsAnyModule(RNNFunctional):
    """A subclass may compute anything: it is called."""


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("metric", ["twe", "sup"])
@pytest.mark.parametrize("normalize_input", [False, True])
@pytest.mark.parametrize("oscillating", [False, True])
@pytest.mark.parametrize(
    ("recurrence", "nonlinearity"), [("diagonal", "linear"), ("diagonal", "relu"), ("ssm", "tanh")]
)
def test_pairs_and_normalised_inputs(
    recurrence: str, nonlinearity: str, oscillating: bool, normalize_input: bool, metric: str
) -> None:
    options: dict[str, Any] = dict(recurrence=recurrence, oscillating=oscillating, normalize_input=normalize_input)
    fast, called = (
        kind(2, 5, 3, nonlinearity=nonlinearity, dt=0.5, dtype=torch.float64, **options)
        for kind in (RNNFunctional, AsAnyModule)
    )
    assert is_stackable(fast) and not is_stackable(called)
    parameters = {name: 0.5 * randn(3, *value.shape, seed=len(name)) for name, value in fast.named_parameters()}
    evaluator = ErrorEvaluator(randn(20, 12, 2), randn(20, 12, 3, seed=1), metric)
    # Sums of 20 x 12 x 3 numbers; a kernel of the quadratic form is centred to 1e-12.
    torch.testing.assert_close(evaluator(fast, parameters), evaluator(called, parameters), rtol=1e-10, atol=0)
    errors, gradients = evaluator.gradient(fast, parameters)
    wanted_errors, wanted = evaluator.gradient(called, parameters)
    torch.testing.assert_close(errors, wanted_errors, rtol=1e-10, atol=0)
    assert gradients.keys() == wanted.keys()
    for name, value in gradients.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-9, atol=1e-11, msg=f"gradient by {name}")


@pytest.mark.parametrize("metric", ["twe", "sup"])
@pytest.mark.parametrize(("recurrence", "width"), [("ssm", 4), ("diagonal", 34)])
def test_pairs_in_pieces(recurrence: str, width: int, metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some models and some sequences at a time, by read-outs or side by side: the errors of calls."""
    fast, called = (
        kind(2, width, 1, recurrence=recurrence, nonlinearity="tanh", oscillating=True, dtype=torch.float64)
        for kind in (RNNFunctional, AsAnyModule)
    )
    parameters = {name: 0.5 * randn(5, *value.shape, seed=len(name)) for name, value in fast.named_parameters()}
    evaluator = ErrorEvaluator(randn(20, 12, 2), randn(20, 12, 1, seed=1), metric)
    wanted = evaluator(called, parameters)
    for sequences in (1, 9, 45, 1000):  # one by one, side by side; nine of a model; two models; all
        monkeypatch.setattr(ops, "_NUMBERS", sequences * 12 * width)
        torch.testing.assert_close(evaluator(fast, parameters), wanted, rtol=1e-10, atol=0)

"""Errors of copies and their gradients: the fast paths give what calls of the model give."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cofm_triton.layers.stable_rnn import RNNFunctional
from cofm_triton.perturbation.evaluator import ErrorEvaluator
from cofm_triton.perturbation.stacking import is_stackable


class AsAnyModule(RNNFunctional):
    """A subclass may compute anything: it is called."""


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("metric", ["twe", "sup"])
@pytest.mark.parametrize("normalize_input", [False, True])
@pytest.mark.parametrize("oscillating", [False, True])
@pytest.mark.parametrize("nonlinearity", ["linear", "relu"])
def test_pairs_and_normalised_inputs(nonlinearity: str, oscillating: bool, normalize_input: bool, metric: str) -> None:
    options: dict[str, Any] = dict(oscillating=oscillating, normalize_input=normalize_input)
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

"""The table of nonlinearities against the reference, derivatives at the kinks included."""

from typing import Any

import pytest
import torch

from cofm_triton import reference
from cofm_triton.activation import activation
from cofm_triton.nonlinearity import NONLINEARITIES


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_values_and_slopes(name: str) -> None:
    z = torch.tensor([-30.0, -1.0, -0.3, 0.0, 0.7, 1.0, 5.0], requires_grad=True)
    ours, theirs = activation(name)(z), reference.nonlinearity(name).act(z)
    assert torch.equal(ours, theirs)
    slopes = [torch.autograd.grad(value.sum(), z)[0] for value in (ours, theirs)]
    assert torch.equal(*slopes)


@pytest.mark.parametrize("bad", ["ReLU", "identity", None])
def test_unknown_names(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"nonlinearity must be one of \('linear', 'tanh'"):
        activation(bad)

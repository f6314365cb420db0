"""The table of nonlinearities against the reference, derivatives at the kinks included."""

from typing import Any

import pytest
import torch

from cofm_triton import reference
from cofm_triton.step.activation import activation, activation_slope
from cofm_triton.step.nonlinearity import NONLINEARITIES


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_values_and_slopes(name: str) -> None:
    z = torch.tensor([-30.0, -1.0, -0.3, 0.0, 0.7, 1.0, 5.0], requires_grad=True)
    ours, theirs = activation(name)(z), reference.nonlinearity(name).act(z)
    assert torch.equal(ours, theirs)
    slopes = [torch.autograd.grad(value.sum(), z)[0] for value in (ours, theirs)]
    assert torch.equal(*slopes)


@pytest.mark.parametrize("name", NONLINEARITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slope_is_the_derivative(name: str, dtype: torch.dtype) -> None:
    z = torch.tensor([-30.0, -1.0, -0.3, 0.0, 0.7, 1.0, 5.0, torch.inf, -torch.inf], dtype=dtype, requires_grad=True)
    (expected,) = torch.autograd.grad(activation(name)(z).sum(), z)
    slope = activation_slope(name)(z)
    assert slope.dtype == dtype
    torch.testing.assert_close(slope, expected)
    assert ((slope >= 0) & (slope <= 1)).all()


def test_slope_of_tanh_can_be_differentiated() -> None:
    z = torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(activation_slope("tanh"), z)


@pytest.mark.parametrize("bad", ["ReLU", "identity", None])
def test_unknown_names(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"nonlinearity must be one of \('linear', 'tanh'"):
        activation(bad)
    with pytest.raises(ValueError, match=r"nonlinearity must be one of \('linear', 'tanh'"):
        activation_slope(bad)

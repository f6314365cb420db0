"""The gradient by the pre-activations: PyTorch's, kinks and tensors of any size and stride included."""

from __future__ import annotations

import pytest
import torch
from fenced_memory import FENCES, Fence, fenced, fences_here
from torch import Tensor

from cofm_triton.ops import backends
from cofm_triton.ops.backends import implementation
from cofm_triton.step.activation import activation
from cofm_triton.step.activations import NONLINEARITIES, properties

pytestmark = pytest.mark.skipif(
    not (backends.INSTALLED["triton"] and (backends.interpreting() or torch.cuda.is_available())),
    reason="needs a GPU or Triton's interpreter",
)
DEVICE = "cpu" if backends.interpreting() else "cuda"


@pytest.mark.parametrize("nonlinearity", [name for name in NONLINEARITIES if not properties(name).is_linear])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 3, 1500])
def test_gradients(count: int, dtype: torch.dtype, nonlinearity: str) -> None:
    torch.manual_seed(0)
    row = properties(nonlinearity)
    z = 2 * torch.randn(count, 2, dtype=dtype, device=DEVICE)
    z[0, 0] = row.kinks[0] if row.kinks else 0.0
    grad: Tensor = torch.randn(2, count, dtype=dtype, device=DEVICE).mT
    wide = z.double().requires_grad_()
    (expected,) = torch.autograd.grad(activation(nonlinearity)(wide), wide, grad.double())
    found = implementation("triton", "activation_gradient").backward(grad, z, nonlinearity)
    # Roundings of a slope, relative to 1, and one of the product.
    error = (row.slope_roundings + 1) * torch.finfo(dtype).eps / 2 * grad.abs().double() * 1.01
    assert found.shape == z.shape and found.dtype == dtype
    assert ((found.double() - expected).abs() <= error).all()


@fences_here
@pytest.mark.parametrize("fence", FENCES)
def test_nothing_outside_of_a_block_that_is_not_full(fence: Fence) -> None:
    grad, z = torch.randn(2, 3, 5).unbind()
    backward = implementation("triton", "activation_gradient").backward
    expected = backward(grad, z, "tanh")
    with fenced(fence) as mode:
        found = backward(mode.tensor(grad), mode.tensor(z), "tanh")
    assert torch.equal(found, expected)

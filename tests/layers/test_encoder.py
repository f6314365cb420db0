"""The gain of a recurrence inside its encoder: as if it multiplied the encoded input."""

import pytest
import torch
import torch.nn.functional as F
from scan_cases import normal
from torch import Tensor

from cofm_triton.layers.encoder import encode

X, U, B = (normal(*shape, dtype=torch.float64) for shape in ((2, 5, 3), (4, 3), (4,)))
PAIRS = torch.complex(normal(2, dtype=torch.float64), normal(2, dtype=torch.float64) + 1)


def turned(e: Tensor) -> Tensor:
    """Pairs of channels times complex numbers."""
    return torch.view_as_real(torch.view_as_complex(e.unflatten(-1, (2, 2))) * PAIRS).flatten(-2)


@pytest.mark.parametrize("bias", [B, None])
def test_gains(bias: Tensor | None) -> None:
    e, each, matrix = F.linear(X, U, bias), normal(4, dtype=torch.float64), normal(4, 4, dtype=torch.float64)
    torch.testing.assert_close(encode(X, U, bias, None), e, rtol=0, atol=0)
    torch.testing.assert_close(encode(X, U, bias, each), each * e, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(encode(X, U, bias, matrix), e @ matrix.T, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(encode(X, U, bias, PAIRS), turned(e), rtol=1e-13, atol=1e-13)


def test_products_have_the_dtype_of_the_weights() -> None:
    y = encode(X.bfloat16(), U.bfloat16(), None, torch.ones(4))
    assert y.dtype == torch.bfloat16

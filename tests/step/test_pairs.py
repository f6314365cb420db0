"""Pairs of real channels and the complex numbers that they are."""

from __future__ import annotations

import pytest
import torch

from cofm_triton.step.pairs import as_complex, as_reals, in_pairs


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        (torch.float64, torch.complex128),
        *((dtype, torch.complex64) for dtype in (torch.float32, torch.bfloat16, torch.float16)),
    ],
)
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 0, 4), (0, 2)], ids=str)
def test_there_and_back(shape: tuple[int, ...], dtype: torch.dtype, wide: torch.dtype) -> None:
    x = torch.arange(24.0)[: torch.Size(shape).numel()].reshape(shape).to(dtype)
    z = as_complex(x)
    assert z.dtype == wide and z.shape == (*shape[:-1], shape[-1] // 2)
    assert torch.equal(as_reals(z).to(dtype), x)
    assert torch.equal(z.real.to(dtype), x[..., 0::2]) and torch.equal(z.imag.to(dtype), x[..., 1::2])


def test_lazy_conjugates_are_made() -> None:
    assert as_reals(torch.tensor([1 + 2j]).conj()).tolist() == [1, -2]


def test_pairs_are_real_with_a_complex_decay() -> None:
    real, complexes = torch.ones(2), torch.ones(1, dtype=torch.complex64)
    assert in_pairs(real, complexes)
    assert not in_pairs(real, real) and not in_pairs(complexes, complexes)

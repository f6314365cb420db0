import pytest
import torch

from cofm_triton.reference import output_dtype, state_dtype


@pytest.mark.parametrize(
    ("dtypes", "state", "output"),
    [
        ((torch.bfloat16,), torch.float32, torch.bfloat16),
        ((torch.float16, torch.float32), torch.float32, torch.float16),
        ((torch.float32,), torch.float32, torch.float32),
        ((torch.float32, torch.float64), torch.float64, torch.float32),
        ((torch.float32, torch.complex64), torch.complex64, torch.complex64),
        ((torch.float64, torch.complex64), torch.complex128, torch.complex128),
        ((torch.complex64, torch.float32), torch.complex64, torch.complex64),
    ],
)
def test_dtypes(dtypes: tuple[torch.dtype, ...], state: torch.dtype, output: torch.dtype) -> None:
    tensors = [torch.zeros(1, dtype=dtype) for dtype in dtypes]
    assert state_dtype(*tensors, None) == state
    assert output_dtype(tensors[0], *tensors[1:], None) == output

import pytest
import torch

from cofm_triton.step.wide import widened


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_coefficients_are_formed_in_float64(dtype: torch.dtype) -> None:
    assert widened(torch.ones(2, dtype=dtype)).dtype == torch.float64
    wide = torch.ones(2, dtype=torch.float64)
    assert widened(wide) is wide


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_there_is_no_float64_in_float32(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cofm_triton.step.wide._NARROW_DEVICES", ("cpu",))
    assert widened(torch.ones(2, dtype=dtype)).dtype == torch.float32

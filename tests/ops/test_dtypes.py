"""The table of dtypes."""

import pytest
import torch

from cofm_triton import reference
from cofm_triton.ops.dtypes import DTYPES, REAL_DTYPES, state_dtype


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_state_is_that_of_the_definition(dtype: torch.dtype) -> None:
    assert state_dtype(dtype) == reference.precision.state_dtype(torch.zeros(1, dtype=dtype))
    assert state_dtype(state_dtype(dtype)) == state_dtype(dtype)


def test_real_dtypes() -> None:
    assert set(DTYPES) - set(REAL_DTYPES) == {torch.complex64, torch.complex128}

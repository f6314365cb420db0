"""Time turned round, and first and last states, of padded sequences."""

import pytest
import torch

from cofm_triton.layers.padding import drive, final_state, initial_state, reverse

X = torch.arange(24.0).view(2, 4, 3)
LENGTHS = torch.tensor([4, 2])


def test_reversal_leaves_the_padding_behind() -> None:
    assert torch.equal(reverse(X, None), X.flip(1))
    turned = reverse(X, LENGTHS)
    assert torch.equal(turned[0], X[0].flip(0))
    assert torch.equal(turned[1], X[1, [1, 0, 2, 3]])
    assert torch.equal(reverse(turned, LENGTHS), X)


def test_last_states() -> None:
    assert torch.equal(final_state(X, X[:, 3], None), X[:, 3])
    assert torch.equal(final_state(X, X[:, 3], LENGTHS), torch.stack((X[0, 3], X[1, 1])))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_are_wide(dtype: torch.dtype) -> None:
    e = X.to(dtype)
    start = initial_state(None, e)
    assert (start is None) if dtype == torch.float32 else (start is not None and start.dtype == torch.float32)
    given = initial_state(e[:, 0], e)
    assert given is not None and given.dtype == torch.float32
    assert (drive(e, None).dtype, drive(e, LENGTHS).dtype) == (dtype, torch.float32)

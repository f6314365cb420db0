"""The affine recurrence of pairs, joined from neighbouring steps, against a loop over them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cofm_triton.ops.pair_scan import pair_scan


def loop(jacobian: Tensor, drive: Tensor, state: Tensor) -> tuple[list[Tensor], Tensor]:
    rows = []
    for t in range(drive.shape[0]):
        state = (jacobian[t] @ state.unflatten(-1, (-1, 2)).unsqueeze(-1)).flatten() + drive[t]
        rows.append(state)
    return rows, state


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 21])
@pytest.mark.parametrize("states", [False, True])
def test_against_a_loop(states: bool, length: int, reverse: bool) -> None:
    jacobian = torch.randn(2, length, 3, 2, 2, dtype=torch.float64) / 2
    drive, h0 = torch.randn(2, length, 6, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    h, last = pair_scan(jacobian, drive, h0 if states else None, None, reverse)
    for b in range(2):
        flip = (lambda tensor: tensor.flip(0)) if reverse else (lambda tensor: tensor)
        rows, end = loop(flip(jacobian[b]), flip(drive[b]), h0[b] if states else torch.zeros_like(h0[b]))
        torch.testing.assert_close(h[b], flip(torch.stack(rows)))
        torch.testing.assert_close(last[b], end)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("starts", [[0], [0, 3], [0, 0, 2, 2, 9], [0, 11, 11]])
def test_packed_sequences_do_not_meet(starts: list[int], reverse: bool) -> None:
    jacobian = torch.randn(1, 11, 2, 2, 2, dtype=torch.float64)
    drive, h0 = torch.randn(1, 11, 4, dtype=torch.float64), torch.randn(len(starts), 4, dtype=torch.float64)
    h, last = pair_scan(jacobian, drive, h0, torch.tensor(starts), reverse)
    for i, (a, b) in enumerate(zip(starts, [*starts[1:], 11], strict=True)):
        if a == b:
            assert torch.equal(last[i], h0[i])
            continue
        alone, end = pair_scan(jacobian[:, a:b], drive[:, a:b], h0[i : i + 1], None, reverse)
        torch.testing.assert_close(h[:, a:b], alone)
        torch.testing.assert_close(last[i : i + 1], end)

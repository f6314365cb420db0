import pytest
import torch

from cofm_triton.reference import linear_scan, rnn_scan
from cofm_triton.reference.packing import spans

X = torch.zeros(1, 5, 2)
ONE = torch.ones(2)


def test_spans_cover_the_row() -> None:
    assert spans(torch.tensor([0, 2, 2]), 5) == [slice(0, 2), slice(2, 2), slice(2, 5)]
    assert spans(torch.tensor([0]), 0) == [slice(0, 0)]


@pytest.mark.parametrize("starts", [[], [1], [0, 3, 2], [0, 6], [-1, 2]])
def test_spans_refuses_what_does_not_cut_the_row(starts: list[int]) -> None:
    with pytest.raises(ValueError, match="seq_starts"):
        spans(torch.tensor(starts, dtype=torch.int64), 5)


def test_packed_recurrences_refuse_wrong_shapes() -> None:
    starts = torch.tensor([0, 2])
    with pytest.raises(ValueError, match="one row"):
        linear_scan(X.expand(2, 5, 2), ONE, seq_starts=starts)
    with pytest.raises(ValueError, match="h0"):
        rnn_scan(X, ONE, torch.zeros(1, 2), seq_starts=starts)

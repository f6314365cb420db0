"""Spans of packed sequences; starts that no check has seen are clamped, never an index outside the row."""

import pytest
import torch

from cofm_triton.cpu.packed import spans, starts_of


def times(starts: list[int], length: int) -> list[tuple[int, int]]:
    return [(span.start, span.stop) for _, span in spans(starts, length)]


def test_one_span_without_packing() -> None:
    assert spans(None, 5) == [(slice(None), slice(0, 5))]


def test_each_sequence_has_a_row_of_states() -> None:
    assert [rows for rows, _ in spans([0, 2, 2], 5)] == [slice(0, 1), slice(1, 2), slice(2, 3)]
    assert times([0, 2, 2], 5) == [(0, 2), (2, 2), (2, 5)]


@pytest.mark.parametrize("starts", [[-3, 2], [0, 9], [0, 4, 2], [7, 1]])
def test_wild_starts_stay_inside(starts: list[int]) -> None:
    for start, stop in times(starts, 5):
        assert 0 <= start <= stop <= 5


def test_starts_are_numbers() -> None:
    assert starts_of(None) is None
    assert starts_of(torch.tensor([0, 2], dtype=torch.int32)) == (0, 2)

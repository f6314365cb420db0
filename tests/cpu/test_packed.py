"""Spans of packed sequences; starts that no check has seen are clamped, never an index outside the row."""

import itertools

import pytest
import torch
from torch import Tensor

from cofm_triton.cpu.packed import pieces, spans, starts_of


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


def pieces_of_sequence(resets: Tensor, batch: int, steps: range, zero: bool) -> list[list[int]]:
    """`[batch, first row, rows, from the start state]` of the pieces of some steps, in their order."""
    found: list[list[int]] = []
    for t in steps:
        if t == steps[0] or resets[batch, t]:
            found.append([batch, t, 0, not (zero and bool(resets[batch, t]))])
        found[-1][1], found[-1][2] = min(found[-1][1], t), found[-1][2] + 1
    return found


@pytest.mark.parametrize("reset_to", ["h0", "zero"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("starts", [None, [0], [0, 0, 3, 3, 7], [0, 2, 5]], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_pieces(share: float, starts: list[int] | None, reverse: bool, reset_to: str) -> None:
    resets = torch.rand(3 if starts is None else 1, 7, generator=torch.Generator().manual_seed(1)) < share
    cut = pieces(resets, None if starts is None else torch.tensor(starts), reverse=reverse, reset_to=reset_to)
    rows = torch.cat((cut.spans, cut.from_start.unsqueeze(1)), 1).tolist()
    whole = [(b, 0, 7) for b in range(3)] if starts is None else [(0, *p) for p in itertools.pairwise([*starts, 7])]
    for sequence, (batch, a, b) in enumerate(whole):
        mine = [row for row, owner in zip(rows, cut.sequence.tolist(), strict=True) if owner == sequence]
        steps = range(b - 1, a - 1, -1) if reverse else range(a, b)
        expected = pieces_of_sequence(resets, batch, steps, reset_to == "zero") if a < b else [[0, 0, 0, 1]]
        assert mine == (expected[::-1] if reverse else expected)
        assert rows[cut.last[sequence]] == expected[-1]


def test_states_of_pieces() -> None:
    resets = torch.tensor([[True, False, True], [False, False, True]])
    states, of_pieces = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [10.0], [100.0], [1000.0]])
    for reset_to, starts, sums in (("h0", [1, 1, 2, 2], [11, 1100]), ("zero", [0, 0, 2, 0], [0, 100])):
        cut = pieces(resets, None, reverse=False, reset_to=reset_to)
        begin, end = cut.starts(states), cut.ends(states)
        assert begin is not None and begin.flatten().tolist() == starts
        assert end is not None and end.flatten().tolist() == [0, 1, 0, 2]
        assert cut.sum_at_start(of_pieces).flatten().tolist() == sums

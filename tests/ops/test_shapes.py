"""Earlier states, and axes folded for vmap."""

from __future__ import annotations

import itertools

import pytest
import torch
from scan_cases import normal

from cofm_triton.ops.shapes import (
    fold_batch,
    holds,
    last_states,
    packed_starts,
    previous_states,
    resets_against,
    split_batch,
    start_gradients,
)

STARTS = ([0], [0, 3], [0, 0, 3, 3, 7], [0, 1, 2, 3, 4, 5, 6, 7], [0, 7, 7])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("with_h0", [False, True])
@pytest.mark.parametrize("length", [0, 1, 7])
def test_previous_states(length: int, with_h0: bool, reverse: bool) -> None:
    h, h0 = normal(2, length, 3), normal(2, 3, seed=2) if with_h0 else None
    previous = previous_states(h, h0, None, reverse)
    assert previous.shape == h.shape
    for t in range(length):
        before = t + 1 if reverse else t - 1
        outside = torch.zeros(2, 3) if h0 is None else h0
        assert torch.equal(previous[:, t], h[:, before] if 0 <= before < length else outside)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("with_h0", [False, True])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("starts", STARTS, ids=str)
def test_previous_states_of_packed_sequences(
    starts: list[int], dtype: torch.dtype, with_h0: bool, reverse: bool
) -> None:
    h, h0 = normal(1, 7, 3), normal(len(starts), 3, seed=2) if with_h0 else None
    previous = previous_states(h, h0, torch.tensor(starts, dtype=dtype), reverse)
    for i, (a, b) in enumerate(itertools.pairwise([*starts, 7])):
        alone = previous_states(h[:, a:b], None if h0 is None else h0[i : i + 1], None, reverse)
        assert torch.equal(previous[:, a:b], alone)


@pytest.mark.parametrize("starts", [None, [0, 0, 3, 3, 7]], ids=str)
def test_previous_states_can_be_differentiated(starts: list[int] | None) -> None:
    h = normal(1, 7, 2, dtype=torch.float64).requires_grad_()
    h0 = normal(1 if starts is None else 5, 2, dtype=torch.float64, seed=2).requires_grad_()
    packed = None if starts is None else torch.tensor(starts)
    for reverse in (False, True):
        assert torch.autograd.gradcheck(lambda h, h0, r=reverse: previous_states(h, h0, packed, r), (h, h0))


@pytest.mark.parametrize("reset_to", ["h0", "zero"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("starts", [None, [0, 0, 3, 3, 7]], ids=str)
def test_previous_states_and_gradients_of_starts_with_resets(
    starts: list[int] | None, reverse: bool, reset_to: str
) -> None:
    h, h0 = normal(1, 7, 3, dtype=torch.float64), normal(5 if starts else 1, 3, dtype=torch.float64, seed=2)
    resets, packed = torch.tensor([[1, 0, 1, 1, 0, 0, 1]], dtype=torch.bool), torch.tensor(starts) if starts else None
    h0.requires_grad_()
    before = previous_states(h, h0, packed, reverse, resets, reset_to)
    for i, (a, b) in enumerate(itertools.pairwise([*starts, 7] if starts else [0, 7])):
        for t in range(a, b):
            first, earlier = (b - 1, t + 1) if reverse else (a, t - 1)
            anew = h0[i] if reset_to == "h0" else torch.zeros_like(h0[i])
            assert torch.equal(before[0, t], anew if resets[0, t] else h0[i] if t == first else h[0, earlier])
    # With mu = dL/d(state before), the gradient of h0 is the sum over the steps that go on from it.
    mu = normal(1, 7, 3, dtype=torch.float64, seed=3).mul(9).round()  # sums are exact
    (expected,) = torch.autograd.grad(before, h0, mu)
    ones = torch.zeros_like(h0, requires_grad=True)
    (at_first,) = torch.autograd.grad(previous_states(h, ones, packed, reverse), ones, mu)
    assert torch.equal(start_gradients(mu, at_first, packed, reverse, resets, reset_to), expected)


@pytest.mark.parametrize("starts", [None, [0, 0, 3, 3, 7]], ids=str)
def test_resets_of_the_other_direction(starts: list[int] | None) -> None:
    resets, packed = torch.tensor([[1, 0, 1, 1, 0, 0, 1]], dtype=torch.bool), torch.tensor(starts) if starts else None
    firsts = starts or [0]
    backwards = resets_against(resets, packed, reverse=True)
    assert backwards is not None
    assert backwards[0].tolist() == [bool(t + 1 < 7 and resets[0, t + 1] and t + 1 not in firsts) for t in range(7)]
    forwards = resets_against(backwards, packed, reverse=False)
    assert forwards is not None
    assert forwards[0].tolist() == [bool(resets[0, t]) and t not in firsts for t in range(7)]


@pytest.mark.parametrize("into_channels", [False, True])
@pytest.mark.parametrize("dim", [0, 1, 2, 3])
def test_folding_and_splitting(dim: int, into_channels: bool) -> None:
    tensor = normal(4, 2, 5, 3)
    mapped = tensor.movedim(0, dim)
    folded = fold_batch(mapped, dim, 4, into_channels)
    assert folded.shape == ((2, 5, 12) if into_channels else (8, 5, 3))
    assert torch.equal(split_batch(folded, 4, into_channels), tensor)


@pytest.mark.parametrize("into_channels", [False, True])
def test_folding_what_is_not_mapped(into_channels: bool) -> None:
    tensor = normal(2, 5, 3)
    folded = fold_batch(tensor, None, 4, into_channels)
    assert torch.equal(split_batch(folded, 4, into_channels), tensor.expand(4, 2, 5, 3))


def test_packed_starts_lie_next_to_each_other() -> None:
    starts = packed_starts(torch.arange(8)[::2])
    assert starts is not None and starts.is_contiguous()
    assert starts.tolist() == [0, 2, 4, 6]
    assert packed_starts(None) is None


@pytest.mark.parametrize("with_h0", [False, True])
@pytest.mark.parametrize("starts", STARTS, ids=str)
def test_last_states(starts: list[int], with_h0: bool) -> None:
    h, h0 = normal(1, 7, 3), normal(len(starts), 3, seed=2) if with_h0 else None
    last = last_states(h, h0, torch.tensor(starts))
    for i, (a, b) in enumerate(itertools.pairwise([*starts, 7])):
        expected = h[0, b - 1] if b > a else torch.zeros(3) if h0 is None else h0[i]
        assert torch.equal(last[i], expected)
    assert torch.equal(last_states(h, None, None), h[:, -1])


def test_conditions_on_sizes_bind_no_graph() -> None:
    assert holds(2 < 8) and not holds(9 < 8)

    class Choice(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if holds(x.shape[0] < 8) else x - 1

    free = torch.export.export(Choice(), (torch.zeros(3),), dynamic_shapes=({0: torch.export.Dim("n")},)).module()
    bound = torch.export.export(Choice(), (torch.zeros(3),)).module()
    assert free(torch.zeros(20))[0] == free(torch.zeros(3))[0] == -1
    assert bound(torch.zeros(3))[0] == 1

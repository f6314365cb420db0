"""Episodes that begin inside a batch: every layer does what it does on the pieces, one by one."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from cofm_triton import RNNFunctional, StableRNN
from cofm_triton.layers.residual import ResidualStack
from cofm_triton.ops.checks import RESET_TO

LENGTH, WIDTH = 6, 3
CUTS = ([0, 2, 3], [4])  # one row begins an episode with its first step, and one of a single step
LAYERS: dict[str, dict[str, Any]] = {
    "ssm": {},
    "ssm, units": dict(oscillating=False, learnable_dt=True),
    "diagonal": dict(recurrence="diagonal", nonlinearity="tanh"),
    "diagonal, units": dict(recurrence="diagonal", nonlinearity="tanh", oscillating=False, learnable_dt=True),
    "orthogonal": dict(recurrence="orthogonal", nonlinearity="tanh"),
    "orthogonal, linear": dict(recurrence="orthogonal", nonlinearity="linear"),
    "dense": dict(recurrence="dense", nonlinearity="tanh"),
    "rg_lru": dict(gated=True),
    "minlstm, units": dict(gated="minlstm", oscillating=False),
}


def resets_of(cuts: Any) -> Tensor:
    resets = torch.zeros(len(cuts), LENGTH, dtype=torch.bool)
    for row, steps in zip(resets, cuts, strict=True):
        row[steps] = True
    return resets


def in_pieces(
    layer: nn.Module, x: Tensor, hx: Tensor, reset_to: str, directions: int, options: Any
) -> tuple[Tensor, Tensor]:
    """The outputs (B, T, n) and h_n of a batch-first layer that is called on every piece of every row."""
    outputs, ends = [], []
    for b, cuts in enumerate(CUTS):
        bounds = sorted({0, *cuts, LENGTH})
        pieces = []
        for begin, end in pairwise(bounds):
            start = hx[:, b : b + 1].clone()
            if reset_to == "zero":
                rows = start.unflatten(0, (-1, directions))
                if begin in cuts:
                    rows[:, 0] = 0
                if end < LENGTH:
                    rows[:, 1:] = 0
            pieces.append(layer(x[b : b + 1, begin:end], start, **options))
        outputs.append(torch.cat([output for output, _ in pieces], 1))
        last, first = (pieces[place][1].unflatten(0, (-1, directions)) for place in (-1, 0))
        ends.append(torch.cat((last[:, :1], first[:, 1:]), 1).flatten(0, 1))
    return torch.cat(outputs), torch.cat(ends, 1)


def check(layer: nn.Module, states: int, directions: int, reset_to: str, **options: Any) -> None:
    """Outputs, last states, and gradients of inputs, first states and weights."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, LENGTH, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    hx = torch.randn(states, 2, WIDTH, dtype=torch.float64, generator=generator, requires_grad=True)
    ours = layer(x, hx, resets=resets_of(CUTS), reset_to=reset_to, **options)
    theirs = in_pieces(layer, x, hx, reset_to, directions, options)
    leaves = [x, hx, *(parameter for parameter in layer.parameters() if parameter.requires_grad)]
    pulls = [torch.randn(result.shape, dtype=result.dtype, generator=generator) for result in theirs]
    grads = [torch.autograd.grad(results, leaves, pulls, allow_unused=True) for results in (ours, theirs)]
    for a, b in zip((*ours, *grads[0]), (*theirs, *grads[1]), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("reset_to", RESET_TO)
@pytest.mark.parametrize(("num_layers", "bidirectional"), [(1, False), (2, True)])
def test_episodes_are_pieces(num_layers: int, bidirectional: bool, reset_to: str, name: str) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = dict(num_layers=num_layers, bidirectional=bidirectional, dtype=torch.float64)
    layer, directions = StableRNN(2, WIDTH, batch_first=True, **options, **LAYERS[name]), 1 + bidirectional
    check(layer, num_layers * directions, directions, reset_to)


@pytest.mark.parametrize("reset_to", RESET_TO)
def test_episodes_of_models_and_stacks(reset_to: str) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = dict(recurrence="dense", nonlinearity="tanh", dtype=torch.float64)
    check(RNNFunctional(2, WIDTH, **options), 1, 1, reset_to, return_state=True)
    stack = ResidualStack(2, WIDTH, 2, batch_first=True, bidirectional=True, **options)
    check(stack, 4, 2, reset_to)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("reset_to", RESET_TO)
def test_episodes_of_sequences_packed_end_to_end(reset_to: str, bidirectional: bool) -> None:
    """As in a batch of padded ones; resets at a start too, and none come from the sequence behind."""
    torch.manual_seed(0)
    layer = StableRNN(2, WIDTH, recurrence="dense", nonlinearity="tanh", bidirectional=bidirectional, batch_first=True)
    x, hx = torch.randn(1, 9, 2), torch.randn(1 + bidirectional, 3, WIDTH)
    resets, starts = torch.zeros(1, 9, dtype=torch.bool), [0, 4, 4]
    resets[0, [0, 2, 4, 8]] = True
    output, h_n = layer(x, hx, seq_starts=torch.tensor(starts), resets=resets, reset_to=reset_to)
    for s, (begin, end) in enumerate(((0, 4), (4, 4), (4, 9))):
        part = slice(begin, end)
        one, end_state = layer(x[:, part], hx[:, s : s + 1], resets=resets[:, part], reset_to=reset_to)
        torch.testing.assert_close(output[:, part], one)
        torch.testing.assert_close(h_n[:, s : s + 1], end_state)


@pytest.mark.parametrize("batch_first", [False, True])
def test_resets_have_the_layout_of_the_input(batch_first: bool) -> None:
    """Without hx, h0 is zero as well; unbatched input has one axis of resets."""
    layer = StableRNN(2, WIDTH, recurrence="dense", nonlinearity="tanh", batch_first=batch_first)
    x, resets = torch.randn(2, LENGTH, 2), resets_of(CUTS)
    given = (x, resets) if batch_first else (x.transpose(0, 1), resets.T)
    output, _ = layer(given[0], resets=given[1], reset_to="h0")
    for b in range(2):
        one, _ = layer(x[b], resets=resets[b])
        torch.testing.assert_close(output.select(1 - batch_first, b), one)


@pytest.mark.parametrize(
    ("resets", "options", "error", "message"),
    [
        (torch.zeros(2, 5) > 0, {}, ValueError, r"resets must have the shape of input .*\(5, 2\), got \(2, 5\)"),
        (torch.zeros(5, 2), {}, TypeError, r"resets must have dtype torch\.bool"),
        ([[False] * 2] * 5, {}, TypeError, r"resets must be a torch\.Tensor, got list"),
        (None, {"reset_to": "hx"}, ValueError, r"reset_to must be one of \('h0', 'zero'\), got 'hx'"),
    ],
)
def test_resets_that_do_not_fit(resets: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    for layer in (StableRNN(1, 3), ResidualStack(1, 4)):
        with pytest.raises(error, match=message):
            layer(torch.zeros(5, 2, 1), resets=resets, **options)


def test_resets_of_a_packed_sequence() -> None:
    packed = pack_sequence([torch.zeros(2, 1)])
    with pytest.raises(ValueError, match="resets must be None for a PackedSequence"):
        StableRNN(1, 3)(packed, resets=torch.zeros(2, 1, dtype=torch.bool))

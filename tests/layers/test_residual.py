"""Residual blocks: what they compute, and that they are called like the layer they hold."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from cofm_triton.layers.residual import ResidualBlock, ResidualStack


def data(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_the_equation() -> None:
    block = ResidualBlock(6, 8, batch_first=True, dtype=torch.float64)
    x = data(2, 9, 6)
    h, h_n = block.rnn(F.layer_norm(x, (6,), block.norm.weight, block.norm.bias))
    value, gate = block.mix(h).chunk(2, -1)
    output, state = block(x)
    torch.testing.assert_close((output, state), (x + value * torch.sigmoid(gate), h_n), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_chunks_and_packed_sequences(batch_first: bool, bidirectional: bool) -> None:
    options = dict(batch_first=batch_first, bidirectional=bidirectional, dtype=torch.float64)
    stack = ResidualStack(3, 6, 2, 4, **options)
    sequences = [data(length, 3) for length in (5, 2, 7)]
    packed, h_n = stack(pack_sequence(sequences, enforce_sorted=False))
    padded, lengths = pad_packed_sequence(packed, batch_first=True)
    for i, sequence in enumerate(sequences):
        output, state = stack(sequence)
        torch.testing.assert_close(padded[i, : lengths[i]], output, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(h_n[:, i], state, rtol=1e-12, atol=1e-12)
    if not bidirectional:
        x = data(2, 8, 3) if batch_first else data(8, 2, 3)
        time = 1 if batch_first else 0
        early, late = x.split([5, 3], time)
        first, state = stack(early)
        second, state = stack(late, state)
        torch.testing.assert_close((torch.cat((first, second), time), state), stack(x), rtol=1e-12, atol=1e-12)


def test_steps_are_the_sequence() -> None:
    stack = ResidualStack(3, 6, 2, dtype=torch.float64)
    x, state = data(5, 2, 3), None
    expected, last = stack(x)
    for row, output in zip(x, expected, strict=True):
        found, state = stack.step(row, state)
        torch.testing.assert_close(found, output, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=1e-12, atol=1e-12)


def test_dropout_only_while_training() -> None:
    block = ResidualBlock(6, dropout=1.0, batch_first=True)
    x = torch.randn(2, 3, 6)
    assert torch.equal(block(x)[0], x) and not torch.equal(block.eval()(x)[0], x)


def test_a_deep_fresh_stack_keeps_its_size() -> None:
    torch.manual_seed(0)
    stack = ResidualStack(16, 64, 8, batch_first=True)
    for x in (torch.randn(2, 1024, 16), torch.ones(2, 1024, 16)):
        assert 0.1 <= stack(x)[0].square().mean().sqrt() <= 3


def test_errors() -> None:
    with pytest.raises(ValueError, match="num_layers is 1 in a block"):
        ResidualBlock(4, num_layers=2)
    with pytest.raises(ValueError, match="num_layers must be greater than zero"):
        ResidualStack(3, 4, 0)
    block, stack = ResidualBlock(4, batch_first=True), ResidualStack(3, 4, 2, batch_first=True)
    with pytest.raises(ValueError, match="Expected 4, got 5"):
        block(torch.zeros(2, 3, 5))
    with pytest.raises(TypeError, match="input must be a"):
        block([1.0])
    with pytest.raises(ValueError, match=r"hx must be a tensor of 2 states, .* got \(3, 2, 4\)"):
        stack(torch.zeros(2, 3, 3), torch.zeros(3, 2, 4))
    with pytest.raises(ValueError, match=r"input must have 3 features, got shape \(2, 3, 4\)"):
        stack(torch.zeros(2, 3, 4))

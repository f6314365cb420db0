"""Functions of features at every step of tensors and packed sequences."""

import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from cofm_triton.layers.sequence import at_every_step


def test_tensors() -> None:
    x = torch.randn(2, 3)
    assert torch.equal(at_every_step(torch.add, x, 2 * x), 3 * x)


def test_packed_sequences_keep_their_order() -> None:
    parts = [torch.randn(2, 3), torch.randn(4, 3)]
    packed = pack_sequence(parts, enforce_sorted=False)
    y = at_every_step(torch.add, packed, packed)
    assert isinstance(y, PackedSequence)
    for ours, theirs in zip(y, pack_sequence([2 * part for part in parts], enforce_sorted=False), strict=True):
        assert ours is not None and theirs is not None and torch.equal(ours, theirs)

"""What layers are called with: a tensor with time in it, or a `PackedSequence` of sequences of different lengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

TensorOrPacked = TypeVar("TensorOrPacked", Tensor, PackedSequence)
"""A signature with it returns the kind that it is given."""


def at_every_step(function: Callable[..., Tensor], *sequences: TensorOrPacked) -> TensorOrPacked:
    """A function of features, (..., d) to (..., n), applied to every step of sequences of the same lengths.

    Example:
        >>> from torch.nn.utils.rnn import pack_sequence
        >>> import torch
        >>> at_every_step(torch.neg, pack_sequence([torch.ones(2, 1)])).data.tolist()
        [[-1.0], [-1.0]]
    """
    first = sequences[0]
    if isinstance(first, PackedSequence):
        return PackedSequence(function(*(sequence.data for sequence in sequences)), *first[1:])
    return function(*sequences)

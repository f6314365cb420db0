"""Sequences as the lanes of vectors: blocks in which neighbouring sequences are the innermost axis."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor


def blocked(sequences: Tensor, lanes: int) -> np.ndarray[Any, Any]:
    """(N, T, d) -> (blocks, d, T, lanes), the last block padded with zeros."""
    count, steps, channels = sequences.shape
    padded = sequences.new_zeros(-(-count // lanes) * lanes, steps, channels)
    padded[:count] = sequences
    return padded.view(-1, lanes, steps, channels).permute(0, 3, 2, 1).contiguous().numpy()

"""W = diag(f(w)) + S, S the skew-symmetric part of a free matrix."""

from __future__ import annotations

from torch import nn

from cofm_triton.layers.recurrences.contract import Layer
from cofm_triton.layers.recurrences.matrix import Matrix


class Dense(Matrix):
    """The rates bound every mode, and turns are free."""

    parameter = "weight_hh"

    def reset(self, layer: Layer, suffix: str) -> None:
        """No turns: a fresh dense layer is a diagonal one, stable in Euler form too."""
        nn.init.zeros_(self.free(layer, suffix))

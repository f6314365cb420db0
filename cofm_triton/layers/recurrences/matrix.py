"""Recurrences with a full matrix W made of the rates and a matrix that is a parameter: h' = h + dt act(e - A h)."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from cofm_triton.layers.autocast import without_autocast
from cofm_triton.layers.cell import Cell
from cofm_triton.layers.padding import drive, final_state, initial_state
from cofm_triton.layers.recurrences.contract import Episodes, Layer, Recurrence, Shapes, weights_of
from cofm_triton.step.coefficients import (
    Modes,
    constrained_matrix,
    matrix_coefficients,
    modes_of,
    rates,
    recurrent_matrix,
)
from cofm_triton.step.initialization import whole
from cofm_triton.step.recurrent_matrix import decay_rate


class Matrix(Recurrence):
    """What "orthogonal" and "dense" have in common.

    Attributes:
        parameter: the name of the matrix, (D, D).
    """

    parameter: ClassVar[str]

    def shapes(self, layer: Layer) -> Shapes:
        """A rate for each unit, and the matrix."""
        width = layer.hidden_size
        return {"rate": (width,), self.parameter: (width, width)}

    def free(self, layer: Layer, suffix: str) -> Tensor:
        """The parameter, (D, D)."""
        free: Tensor = getattr(layer, self.parameter + suffix)
        return free

    def matrix(self, layer: Layer, suffix: str) -> Tensor:
        """P or weight_hh, (D, D); a constrained P, which takes a solve, in float64 (see `wide.py`)."""
        return constrained_matrix(layer, self.free(layer, suffix))

    def _coefficients(self, layer: Layer, suffix: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """A, U' and b' of `matrix_coefficients`."""
        encoder, bias, raw = weights_of(layer, suffix)
        with without_autocast(encoder.device):  # bfloat16 would move the smallest rates by more than they are
            return matrix_coefficients(layer, rates(layer, raw), self.matrix(layer, suffix), encoder, bias)

    def run(
        self, layer: Layer, suffix: str, x: Tensor, h0: Tensor | None, lengths: Tensor | None, episodes: Episodes
    ) -> tuple[Tensor, Tensor]:
        """One `dense_rnn`."""
        a, weight, offset = self._coefficients(layer, suffix)
        e = F.linear(x, weight, offset)
        h, h_last = layer.functions(suffix).dense_rnn(
            drive(e, lengths),
            a,
            initial_state(h0, e),
            dt=layer.dt,
            nonlinearity=layer.nonlinearity,
            **episodes.keywords(),
            backend=layer.backend,
        )
        return h.to(e.dtype), final_state(h, h_last, lengths)

    def cell(self, layer: Layer, suffix: str) -> Cell:
        """Of the nonlinear form, also where act is linear."""
        a, weight, bias = self._coefficients(layer, suffix)
        return Cell.of(weight, bias, -a.T, layer.dt, layer.nonlinearity)

    def modes(self, layer: Layer, suffix: str) -> Modes:
        """Units that fade."""
        return modes_of(layer, whole(weights_of(layer, suffix).rate), None)

    def margin(self, layer: Layer, suffix: str) -> float:
        """The smallest rate, which bounds every mode; unconstrained, the smallest real part of W's eigenvalues."""
        rate = rates(layer, weights_of(layer, suffix).rate)
        if layer.constrained:
            return float(rate.min())
        return decay_rate(recurrent_matrix(layer, rate, self.matrix(layer, suffix)))

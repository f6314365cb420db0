"""W = P^T diag(f(w)) P, P orthogonal, made of a free matrix (`cayley.py`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cofm_triton.layers.autocast import without_autocast
from cofm_triton.layers.cell import Cell
from cofm_triton.layers.encoder import amplified, encode
from cofm_triton.layers.padding import drive, final_state, initial_state
from cofm_triton.layers.recurrences.contract import Episodes, Layer, weights_of
from cofm_triton.layers.recurrences.elementwise import decay_and_gain
from cofm_triton.layers.recurrences.matrix import Matrix
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.step.activations import properties
from cofm_triton.step.cayley import cayley_inverse, convert_parametrization
from cofm_triton.step.coefficients import constrained_matrix, has_linear_state, linear_coefficients, rates
from cofm_triton.step.discretization import effective_rate
from cofm_triton.step.initialization import assign, random_orthogonal, whole
from cofm_triton.step.recurrent_matrix import congruence
from cofm_triton.step.wide import widened


class Orthogonal(Matrix):
    """Rates in an orthogonal basis."""

    parameter = "basis"

    def reset(self, layer: Layer, suffix: str) -> None:
        """A random P; the identity where the nonlinearity is inside and fresh layers keep their size.

        Units then saturate in the basis in which they fade. In another one, what saturation takes from fast modes
        reaches slow ones, which sum it up: outputs of 8 fresh layers of 2,048 steps were 6 with tanh, 1,500 with relu.
        """
        free = self.free(layer, suffix)
        if layer.keeps_size and not has_linear_state(layer):
            basis = torch.eye(layer.hidden_size, dtype=torch.float64, device=free.device)
        else:
            basis = random_orthogonal(layer.hidden_size, free.device)
        assign(free, cayley_inverse(basis) if layer.constrained else basis)

    def in_units(self, layer: Layer, suffix: str, rows: Tensor) -> Tensor:
        """P^T times the rows of the modes."""
        return constrained_matrix(layer, whole(self.free(layer, suffix))).mT @ rows

    def run(
        self, layer: Layer, suffix: str, x: Tensor, h0: Tensor | None, lengths: Tensor | None, episodes: Episodes
    ) -> tuple[Tensor, Tensor]:
        """As any matrix; the linear recurrence runs in the basis P h, where it is diagonal."""
        if layer.constrained and properties(layer.nonlinearity).is_linear:
            return self._run_rotated(layer, suffix, x, h0, lengths, episodes)
        return super().run(layer, suffix, x, h0, lengths, episodes)

    def cell(self, layer: Layer, suffix: str) -> Cell:
        """As any matrix; the gains of a linear recurrence are those of its modes."""
        if not (layer.constrained and properties(layer.nonlinearity).is_linear):
            return super().cell(layer, suffix)
        weight, bias, raw = weights_of(layer, suffix)
        basis, rate = (
            self.matrix(layer, suffix),
            effective_rate(widened(rates(layer, raw)), layer.dt, layer.discretization),
        )
        gain = congruence(linear_coefficients(layer, widened(raw), None)[1] / layer.dt, basis)
        return Cell.of(*amplified(weight, bias, gain), -congruence(rate, basis).T, layer.dt, layer.nonlinearity)

    def _run_rotated(
        self, layer: Layer, suffix: str, x: Tensor, h0: Tensor | None, lengths: Tensor | None, episodes: Episodes
    ) -> tuple[Tensor, Tensor]:
        weight, bias, raw = weights_of(layer, suffix)
        decay, gain = decay_and_gain(layer, suffix, raw)
        basis = self.matrix(layer, suffix).to(gain.dtype)
        e = encode(x, weight, bias, gain.unsqueeze(1) * basis)
        wide, start = basis.to(state_dtype(e.dtype)), initial_state(h0, e)
        with without_autocast(basis.device):
            start = None if start is None else start.to(wide.dtype) @ wide.T
        scan = layer.functions(suffix).linear_scan
        h, h_last = scan(drive(e, lengths), decay, start, **episodes.keywords(), backend=layer.backend)
        h_last = final_state(h, h_last, lengths)
        with without_autocast(basis.device):
            h_last = (h_last.to(wide.dtype) @ wide).to(h_last.dtype)
        h = h.to(e.dtype)
        return h @ basis.to(h.dtype), h_last

    def upgrade(self, layer: Layer, state_dict: dict[str, Any], prefix: str, suffix: str) -> None:
        """Earlier versions kept P by `torch.nn.utils.parametrizations.orthogonal`."""
        if layer.constrained:
            convert_parametrization(state_dict, prefix, self.parameter + suffix)

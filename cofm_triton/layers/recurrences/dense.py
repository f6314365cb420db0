"""W = diag(f(w)) + S, S the skew-symmetric part of a free matrix."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cofm_triton.layers.recurrences.contract import Layer, weights_of
from cofm_triton.layers.recurrences.elementwise import FADING_PAIRS
from cofm_triton.layers.recurrences.matrix import Matrix
from cofm_triton.step.coefficients import Modes, angle_bound, has_linear_state, largest_angle, rates
from cofm_triton.step.discretization import is_exact
from cofm_triton.step.initialization import assign, whole


class Dense(Matrix):
    """The rates bound every mode, and turns are free."""

    parameter = "weight_hh"

    def reset(self, layer: Layer, suffix: str) -> None:
        """Pairs (2k, 2k+1) turn as those of a fresh elementwise recurrence do; in Euler form, unconstrained, or where
        inputs stay as they are (the paper's start), nothing turns.
        """
        free = self.free(layer, suffix)
        nn.init.zeros_(free)
        if not (layer.keeps_size and layer.constrained and is_exact(layer.discretization)):
            return
        angles = torch.rand(layer.hidden_size // 2, dtype=torch.float64, device=free.device) * layer.max_angle
        angles[::FADING_PAIRS] = 0
        if not has_linear_state(layer):
            bound = angle_bound(layer, self._pair_rates(layer, suffix)[: len(angles)])
            angles = angles * bound / largest_angle(layer)
        turns = torch.zeros(layer.hidden_size - 1, dtype=angles.dtype, device=free.device)
        turns[::2] = angles / layer.dt
        assign(free, torch.diag(turns, -1) - torch.diag(turns, 1))

    def modes(self, layer: Layer, suffix: str) -> Modes:
        """Pairs; the last one of an odd number fades."""
        free = whole(self.free(layer, suffix))
        turns = F.pad(torch.diagonal(free, -1)[::2], (0, layer.hidden_size % 2))
        return Modes(self._pair_rates(layer, suffix), turns, layer.dt, layer.discretization)

    def _pair_rates(self, layer: Layer, suffix: str) -> Tensor:
        """Means over pairs, which differ little."""
        rate = rates(layer, whole(weights_of(layer, suffix).rate))
        return torch.cat((rate, rate[-1:]))[: len(rate) + len(rate) % 2].unflatten(0, (-1, 2)).mean(1)

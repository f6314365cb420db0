"""Models that train side by side, each computed by calls of its own: recurrences that cannot share one.

Pairs of units, orthogonal and dense recurrences. `training.py` asks the same of them as of models with single units,
whose units become the channels of one recurrence there.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from cofm_triton.layers.rnn_functional import RNNFunctional


class SeparateModels:
    """Copies of models, which training moves.

    Args:
        models: one input and one output each, of one activation.
        like: has the dtype and the device of the computation; None: those of the models.
    """

    def __init__(self, models: Sequence[RNNFunctional], like: Tensor | None = None) -> None:
        self.models = list(models)
        self.nonlinearity = models[0].rnn.nonlinearity
        self._like = models[0].rnn.rate_l0.detach() if like is None else like
        self._copies = [copy.deepcopy(model).to(self._like.device, self._like.dtype) for model in models]

    def parameters(self) -> list[Tensor]:
        """The tensors to train."""
        return [parameter for model in self._copies for parameter in model.parameters()]

    @torch.no_grad()
    def write_back(self) -> None:
        """Put the trained numbers into the models."""
        for model, trained in zip(self.models, self._copies, strict=True):
            for ours, theirs in zip(model.parameters(), trained.parameters(), strict=True):
                ours.copy_(theirs)

    def response(self, length: int) -> Tensor:
        """Kernels [kappa, kb] of linear models for the input and the constant 1: (models, 2 T).

        The response to a pulse less that to nothing is kappa, and the response to nothing sums kb.
        """
        pulse = self._like.new_zeros(2, length, 1)
        pulse[0, 0] = 1
        answers = torch.stack([model(pulse)[..., 0] for model in self._copies])
        to_pulse, to_nothing = answers.unbind(1)
        return torch.cat((to_pulse - to_nothing, to_nothing.diff(prepend=torch.zeros_like(to_nothing[:, :1]))), 1)

    def outputs(self, inputs: Tensor) -> Tensor:
        """Outputs of every model: (B, T, 1) to (B, T, models)."""
        return torch.cat([model(inputs) for model in self._copies], -1)

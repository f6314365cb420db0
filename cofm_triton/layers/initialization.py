"""Fresh weights of one direction of a layer: rates over all time scales, inputs that keep their size."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cofm_triton.layers.recurrences.contract import Layer, Recurrence, weights_of
from cofm_triton.step.initialization import assign
from cofm_triton.step.parameterization import parameterization, spread_weights

# What a fresh layer hands to the next one for an input of variance 1. Outputs act(h) of a linear recurrence vary by the
# standard deviation of act(z), z ~ N(0, 1). States with act inside have about the variance of the input; with relu,
# which lets them rise only, the root mean square of relu(z).
_OUTPUT_SIZE = {"linear": 1.0, "tanh": 0.628, "hardtanh": 0.718, "relu": 0.584}
_STATE_SIZE = {"linear": 1.0, "tanh": 1.0, "hardtanh": 1.0, "relu": 0.707}


@torch.no_grad()
def reset_direction(layer: Layer, recurrence: Recurrence, suffix: str, *, is_first: bool) -> None:
    """Draw the weights, see `StableRNN.reset_parameters`.

    Args:
        layer: whose they are.
        recurrence: draws what it has of its own.
        suffix: which direction of which layer.
        is_first: whether its input is that of the whole stack.
    """
    weight, bias, rate = weights_of(layer, suffix)
    bound = _encoder_bound(layer, recurrence, weight, is_first=is_first)
    nn.init.uniform_(weight, -bound, bound)
    recurrence.reset(layer, suffix)
    if bias is not None:
        nn.init.zeros_(bias)
    count, kind = len(rate), parameterization(layer.parameterization)
    if layer.learnable_dt:  # the steps are spread instead
        raw = spread_weights(2, kind, dt=layer.dt, max_time_scale=layer.max_time_scale)[1:].expand(count)
    else:
        raw = spread_weights(count, kind, dt=layer.dt, max_time_scale=layer.max_time_scale)
    assign(rate, raw)


def _encoder_bound(layer: Layer, recurrence: Recurrence, weight: Tensor, *, is_first: bool) -> float:
    """Entries of a fresh U are uniform in [-bound, bound]."""
    if not layer.normalize_input:
        return 1 / math.sqrt(layer.hidden_size)
    size = 1.0
    if not is_first:
        size = (_OUTPUT_SIZE if recurrence.acts_on_output else _STATE_SIZE)[layer.nonlinearity]
    return math.sqrt(3 / weight.shape[1]) / size

"""Fresh weights of one direction of a layer: rates over all time scales, inputs that keep their size."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cofm_triton.layers.recurrences.contract import Layer, Recurrence, weights_of
from cofm_triton.step.activations import properties
from cofm_triton.step.initialization import assign
from cofm_triton.step.parameterization import parameterization, spread_weights


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
    size, act = 1.0, properties(layer.nonlinearity)
    if not is_first:  # what the layer before hands on, for an input of variance 1
        size = act.output_size if recurrence.acts_on_output else act.state_size
    return math.sqrt(3 / weight.shape[1]) / size

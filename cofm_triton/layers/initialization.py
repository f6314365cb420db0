"""Fresh weights of one direction of a layer: rates over all time scales, inputs that keep their size."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cofm_triton.layers.fresh_size import fading_share, layer_factor, rising_factors, unit_factors
from cofm_triton.layers.recurrences.contract import Layer, Recurrence, weights_of
from cofm_triton.step.activations import properties
from cofm_triton.step.coefficients import modes_of, only_rises, stretch_of
from cofm_triton.step.initialization import assign, scale_rows, whole
from cofm_triton.step.parameterization import parameterization, spread_weights


@torch.no_grad()
def reset_direction(layer: Layer, recurrence: Recurrence, suffix: str, *, depth: int) -> None:
    """Draw the weights, see `StableRNN.reset_parameters`.

    Args:
        layer: whose they are.
        recurrence: draws what it has of its own.
        suffix: which direction of which layer.
        depth: how many layers are below.
    """
    weight, bias, rate = weights_of(layer, suffix)
    bound = math.sqrt(3 / weight.shape[1]) if layer.normalize_input else 1 / math.sqrt(layer.hidden_size)
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
    if layer.normalize_input is True:
        scale_rows(weight, _row_factors(layer, recurrence, suffix, depth))


def _row_factors(layer: Layer, recurrence: Recurrence, suffix: str, depth: int) -> Tensor:
    """Of a fresh U with rows that pass on the variance of their input: see `fresh_size.py`; (D,) float64."""
    stretch = whole(getattr(layer, "log_dt" + suffix)) if layer.learnable_dt else None
    free = whole(getattr(layer, "frequency" + suffix)) if layer.oscillating else None
    stretch = None if stretch is None else stretch_of(layer, stretch)
    modes = modes_of(layer, whole(weights_of(layer, suffix).rate), free, stretch)
    act = properties(layer.nonlinearity)
    if only_rises(layer):
        factors = rising_factors(modes, depth)
    else:
        factors = unit_factors(modes) * layer_factor(modes, depth)
    if depth and recurrence.acts_on_output:  # what the layer before hands on, for states of variance 1
        factors = factors / torch.sqrt(act.output_size**2 + fading_share(modes) * act.output_mean**2)
    elif depth:
        factors = factors / act.state_size
    units = factors.repeat_interleave(2) if layer.oscillating else factors
    return units[: layer.hidden_size]

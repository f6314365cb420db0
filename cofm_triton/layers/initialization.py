"""Fresh weights of one direction of a layer: rates over all time scales, inputs that keep their size."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cofm_triton.layers.fresh_size import balanced, handed_on, has_mean, layer_factor, unit_factors
from cofm_triton.layers.recurrences.contract import Layer, Recurrence, weights_of
from cofm_triton.step.coefficients import Modes, has_linear_state, only_rises
from cofm_triton.step.discretization import is_exact
from cofm_triton.step.initialization import assign, whole
from cofm_triton.step.modes import mode_gain, normalized_gain, step_size
from cofm_triton.step.parameterization import parameterization, spread_weights

_FASTEST = 5.0  # of "ssm", in 1 / dt: units without memory, so that the nonlinearity behind sees inputs one by one


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
    bound = math.sqrt(3 / weight.shape[1]) if layer.normalize_input or layer.keeps_size else layer.hidden_size**-0.5
    nn.init.uniform_(weight, -bound, bound)
    if bias is not None:
        nn.init.zeros_(bias)
    count, kind = len(rate), parameterization(layer.parameterization)
    if layer.learnable_dt:  # the steps are spread instead
        raw = spread_weights(2, kind, dt=layer.dt, max_time_scale=layer.max_time_scale)[1:].expand(count)
    else:
        is_fast = layer.keeps_size and recurrence.acts_on_output and is_exact(layer.discretization)
        fastest = _FASTEST if is_fast else 1.0
        raw = spread_weights(count, kind, dt=layer.dt, max_time_scale=layer.max_time_scale, fastest=fastest)
    assign(rate, raw)
    recurrence.reset(layer, suffix)
    if layer.keeps_size:
        inputs, *logits = whole(weight).split(layer.hidden_size)  # logits of gates have variance 1 as they are
        if depth and has_mean(layer):
            inputs = balanced(inputs)
        rows = _row_factors(layer, recurrence, suffix, depth)[:, None] * inputs
        assign(weight, torch.cat((recurrence.in_units(layer, suffix, rows), *logits)))


def _row_factors(layer: Layer, recurrence: Recurrence, suffix: str, depth: int) -> Tensor:
    """Of a fresh U with rows that pass on the variance of their input: see `fresh_size.py`; (D,) float64."""
    modes = recurrence.modes(layer, suffix)
    factors = unit_factors(layer, modes, depth)
    if not only_rises(layer):
        factors = factors * layer_factor(layer, modes, depth)
    if depth:
        factors = factors / handed_on(layer, unit_factors(layer, modes, depth - 1))
    if not layer.normalize_input:
        factors = factors * _missing_gain(layer, modes)
    return factors if modes.frequency is None else factors.repeat_interleave(2)[: layer.hidden_size]


def _missing_gain(layer: Layer, modes: Modes) -> Tensor:
    """By what normalised inputs would multiply those of the modes."""
    if only_rises(layer):
        return step_size(*modes)
    given = mode_gain(*modes).abs() if has_linear_state(layer) else layer.dt
    return normalized_gain(*modes) / given

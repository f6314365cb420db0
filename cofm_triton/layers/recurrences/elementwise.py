"""Units, or pairs of units, that do not see each other: "ssm" and "diagonal".

    linear state     h' = l h + g e              one `linear_scan`, e = U x + b
    nonlinear act    h' = h + dt act(e - a h)    one `rnn_scan`

Units with learnable steps s dt are units whose time runs s times as fast (`step/coefficients.py`).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cofm_triton import functional
from cofm_triton.layers.cell import Cell, StepCell
from cofm_triton.layers.encoder import amplified, encode
from cofm_triton.layers.padding import drive, final_state, initial_state
from cofm_triton.layers.recurrences.contract import Episodes, Layer, Recurrence, Shapes, Weights, weights_of
from cofm_triton.ops.backends import takes_triton
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.ops.elementwise_layer import Inputs, elementwise_layer, runs_at_once
from cofm_triton.ops.mode_coefficients import fused_coefficients, is_fused
from cofm_triton.step.coefficients import (
    Modes,
    free_frequency,
    has_linear_state,
    input_scale,
    largest_angle,
    linear_coefficients,
    modes_of,
    stretch_of,
)
from cofm_triton.step.discretization import effective_rate
from cofm_triton.step.initialization import assign, whole
from cofm_triton.step.oscillation import effective_pair

FADING_PAIRS = 4  # one in so many starts without a turn


class Elementwise(Recurrence):
    """One rate for every unit, or a rate and a frequency for every pair."""

    is_elementwise: ClassVar[bool] = True

    def __init__(self, *, acts_on_output: bool) -> None:
        self.acts_on_output = acts_on_output

    def shapes(self, layer: Layer) -> Shapes:
        """One rate for each pair, the single unit of an odd number included, and one frequency for each but that."""
        width = layer.hidden_size
        modes = (width + 1) // 2 if layer.oscillating else width
        shapes: Shapes = {"rate": (modes,)}
        if layer.oscillating:
            shapes["frequency"] = (width // 2,)
        return shapes | ({"log_dt": (modes,)} if layer.learnable_dt else {})

    @torch.no_grad()
    def reset(self, layer: Layer, suffix: str) -> None:
        """Angles uniform in [0, max_angle) and steps log-uniform in [dt_min, dt_max), as raw numbers.

        Every fourth pair of a linear recurrence starts without a turn: sums over every time scale.
        """
        frequency, log_dt = frequency_of(layer, suffix), _log_dt(layer, suffix)
        if log_dt is not None:
            low, high = step_range(layer)
            nn.init.uniform_(log_dt, math.log(low), math.log(high))
        if frequency is None:
            return
        nn.init.uniform_(frequency, 0, layer.max_angle)
        if has_linear_state(layer):
            turns = torch.arange(len(frequency), device=frequency.device) % FADING_PAIRS != 0
            raw = whole(weights_of(layer, suffix).rate)
            assign(frequency, free_frequency(layer, raw, whole(frequency) * turns))
            frequency.div_(layer.dt if log_dt is None else log_dt[: len(frequency)].exp())
        else:
            frequency.mul_(math.pi / 2 / largest_angle(layer)).tan_()  # the inverse of `bounded_angle`

    def run(
        self, layer: Layer, suffix: str, x: Tensor, h0: Tensor | None, lengths: Tensor | None, episodes: Episodes
    ) -> tuple[Tensor, Tensor]:
        """One scan; a single unit of an oscillating layer has a partner at zero, which no one else sees."""
        width = layer.hidden_size
        alone = layer.functions(suffix) is functional
        if alone and lengths is None and takes_triton(layer.backend, x.device):
            weight, bias, raw = weights_of(layer, suffix)
            modes = (raw, frequency_of(layer, suffix), _log_dt(layer, suffix))
            inputs = Inputs(x, weight, bias, *modes, h0, episodes.resets)
            if runs_at_once(layer, layer.backend, inputs):
                return elementwise_layer(layer, inputs, episodes.reset_to)
        if h0 is not None and layer.oscillating and width % 2:
            h0 = F.pad(h0, (0, 1))
        scan = _scan_linear if has_linear_state(layer) else _scan_nonlinear
        e, h, h_last = scan(layer, suffix, x, h0, lengths, episodes)
        return h[..., :width].to(e.dtype), final_state(h, h_last, lengths)[..., :width]

    def cell(self, layer: Layer, suffix: str) -> StepCell:
        """Units with learnable steps have the recurrence of h / s, brought to h."""
        weights = weights_of(layer, suffix)
        encoder = _padded(layer, weights)
        if has_linear_state(layer):
            decay, gain = decay_and_gain(layer, suffix, weights.rate)
            return Cell.of(*amplified(*encoder, gain), decay)
        stretch = _stretch(layer, suffix)
        modes = modes_of(layer, weights.rate, frequency_of(layer, suffix), stretch)
        scale = input_scale(layer, weights.rate, modes, stretch)
        rate, frequency, dt, discretization = modes
        if frequency is None:
            pull = effective_rate(rate, dt, discretization)
        else:
            pull = torch.complex(*effective_pair(rate, frequency, dt, discretization))
        return Cell.of(
            *amplified(*encoder, None if scale is None else per_unit(layer, scale)),
            -pull if stretch is None else -pull / stretch,
            dt if stretch is None else dt * per_unit(layer, stretch),
            layer.nonlinearity,
        )

    def modes(self, layer: Layer, suffix: str) -> Modes:
        """As they are."""
        free, log_dt = frequency_of(layer, suffix), _log_dt(layer, suffix)
        stretch = None if log_dt is None else stretch_of(layer, whole(log_dt))
        return modes_of(layer, whole(weights_of(layer, suffix).rate), None if free is None else whole(free), stretch)

    def margin(self, layer: Layer, suffix: str) -> float:
        """The smallest rate, with steps of its own s times as large."""
        return float(modes_of(layer, weights_of(layer, suffix).rate, None, _stretch(layer, suffix)).rate.min())


def _scan_linear(
    layer: Layer, suffix: str, x: Tensor, h0: Tensor | None, lengths: Tensor | None, episodes: Episodes
) -> tuple[Tensor, Tensor, Tensor]:
    """Encoded input, states and last state."""
    weights = weights_of(layer, suffix)
    decay, gain = decay_and_gain(layer, suffix, weights.rate)
    e = _encoded(layer, weights, x, gain)
    scan, start = layer.functions(suffix).linear_scan, initial_state(h0, e)
    return e, *scan(drive(e, lengths), decay, start, **episodes.keywords(), backend=layer.backend)


def _scan_nonlinear(
    layer: Layer, suffix: str, x: Tensor, h0: Tensor | None, lengths: Tensor | None, episodes: Episodes
) -> tuple[Tensor, Tensor, Tensor]:
    """The same."""
    weights = weights_of(layer, suffix)
    free, log_dt = frequency_of(layer, suffix), _log_dt(layer, suffix)
    stretch = _stretch(layer, suffix)
    rates: dict[str, Any]
    if is_fused(layer, layer.backend, weights.rate, free, log_dt):
        first, scale = fused_coefficients(layer, weights.rate, free, log_dt)
        rate, frequency = (first, None) if free is None else first.unbind()
        rates = dict(frequency=frequency, parameterization="direct", discretization="euler")
    else:
        modes = modes_of(layer, weights.rate, free, stretch)
        scale = input_scale(layer, weights.rate, modes, stretch)
        scale = None if scale is None else per_unit(layer, scale)
        rate, named = (weights.rate, layer.parameterization) if stretch is None else (modes.rate, "direct")
        rates = dict(frequency=modes.frequency, parameterization=named, discretization=layer.discretization)
    e = _encoded(layer, weights, x, scale)
    state, start = state_dtype(e.dtype), initial_state(h0, e)
    units = None if stretch is None else per_unit(layer, stretch).to(state)
    h, h_last = layer.functions(suffix).rnn_scan(
        drive(e, lengths),
        rate.to(state),
        start if start is None or units is None else start / units,
        dt=layer.dt,
        nonlinearity=layer.nonlinearity,
        backend=layer.backend,
        **episodes.keywords(),
        **rates,
    )
    return (e, h, h_last) if units is None else (e, units * h, units * h_last)


def decay_and_gain(layer: Layer, suffix: str, raw: Tensor) -> tuple[Tensor, Tensor]:
    """l and g of a linear recurrence from its raw rates: one number for each unit, or a complex one for each pair."""
    free, log_dt = frequency_of(layer, suffix), _log_dt(layer, suffix)
    if is_fused(layer, layer.backend, raw, free, log_dt):
        decay, gain = fused_coefficients(layer, raw, free, log_dt)
        assert gain is not None  # a linear state has one
        return decay, gain
    decay, gain = linear_coefficients(layer, raw, free, _stretch(layer, suffix))
    return decay, gain if gain.is_complex() else per_unit(layer, gain)


def _encoded(layer: Layer, weights: Weights, x: Tensor, gain: Tensor | None) -> Tensor:
    """gain (U x + b), (B, T, D), and a channel of zeros beside the single unit of an oscillating layer."""
    return encode(x, *_padded(layer, weights), gain)


def _padded(layer: Layer, weights: Weights) -> tuple[Tensor, Tensor | None]:
    """U and b with a unit beside the single one of an oscillating layer."""
    weight, bias, _ = weights
    if layer.oscillating and layer.hidden_size % 2:
        return F.pad(weight, (0, 0, 0, 1)), None if bias is None else F.pad(bias, (0, 1))
    return weight, bias


def frequency_of(layer: Layer, suffix: str) -> Tensor | None:
    """The free parameter, or None where the units are single."""
    return getattr(layer, "frequency" + suffix) if layer.oscillating else None


def _log_dt(layer: Layer, suffix: str) -> Tensor | None:
    """The raw learnable steps, or None."""
    return getattr(layer, "log_dt" + suffix) if layer.learnable_dt else None


def _stretch(layer: Layer, suffix: str) -> Tensor | None:
    """s = dt[i] / dt, or None where every step is dt."""
    log_dt = _log_dt(layer, suffix)
    return None if log_dt is None else stretch_of(layer, log_dt)


def step_range(layer: Layer) -> tuple[float, float]:
    """Smallest and largest step of fresh units, by default those that remember 1 to `max_time_scale` steps."""
    largest = layer.dt if layer.dt_max is None else layer.dt_max
    return largest / layer.max_time_scale if layer.dt_min is None else layer.dt_min, largest


def per_unit(layer: Layer, per_mode: Tensor) -> Tensor:
    """One number for each unit from one for each mode."""
    return per_mode.repeat_interleave(2) if layer.oscillating else per_mode

"""What one step of an elementwise recurrence is made of, from the raw parameters of a layer and its options.

    linear state     h' = l h + g e               l, g of `modes.py`
    nonlinear act    h' = h + dt act(s e - a h)   s what normalised inputs are multiplied by

and e = U x + b. Here both are brought to one form, with the gain inside U and b, that fused operators and sweeps share:

    h' = h + dt act_in(U' x + b' - a h),   y = c^T act_out(h')

A pair of units (2k, 2k+1) that oscillates is one complex unit h[2k] + i h[2k+1]; the last one of an odd number has a
partner that stays at zero. Parameters may have leading dimensions: layers have none, K copies of a model one.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cofm_triton.step.discretization import effective_rate
from cofm_triton.step.modes import mode_gain, normalized_gain, step_size
from cofm_triton.step.oscillation import bounded_angle, contracting_angle, effective_pair
from cofm_triton.step.pairs import as_complex
from cofm_triton.step.parameterization import lru_normalization, parameterization


class Options(Protocol):
    """What a layer is besides its weights: a `StableRNN` with one rate for each unit or pair."""

    parameterization: str
    recurrence: str
    nonlinearity: str
    dt: float
    discretization: str
    normalize_input: bool | str


class Step(NamedTuple):
    """Coefficients of h' = h + dt act_in(U' x + b' - a h), y = c^T act_out(h'); complex for pairs of units.

    Attributes:
        rate: a, (..., m).
        encoder: U', (..., m, d).
        bias: b', (..., m).
        dt: step.
        act_in, act_out: names of the nonlinearities.
    """

    rate: Tensor
    encoder: Tensor
    bias: Tensor
    dt: float
    act_in: str
    act_out: str


def has_linear_state(options: Options) -> bool:
    """Whether h obeys a linear recurrence."""
    return options.recurrence == "ssm" or options.nonlinearity == "linear"


def largest_angle(options: Options) -> float:
    """By which a pair turns in a step at most, radians: at any angle where the recurrence is linear."""
    return math.pi if has_linear_state(options) else math.pi / 2


def mode_frequency(options: Options, raw: Tensor, free: Tensor) -> Tensor:
    """Radians per time, one for every rate.

    Args:
        options: of the layer.
        raw: w, (..., m).
        free: the parameter `frequency`, (..., m), or (..., m - 1) where the last unit is single.
    """
    frequency = F.pad(free, (0, raw.shape[-1] - free.shape[-1]))
    if has_linear_state(options):
        return frequency
    bound: float | Tensor = largest_angle(options)
    if options.nonlinearity == "relu":  # gradients of faster pairs grow without bound: relu never saturates upwards
        rate = parameterization(options.parameterization).rate(raw).to(free.dtype)
        bound = contracting_angle(rate, options.dt, options.discretization).clamp(max=bound)
    return bounded_angle(frequency, bound) / options.dt


def input_gain(options: Options, raw: Tensor, frequency: Tensor | None) -> Tensor:
    """Gain g of a linear recurrence, one for each rate; complex for pairs whose inputs are not normalised.

    Args:
        options: of the layer.
        raw: w, (..., m).
        frequency: radians per time, (..., m); None: units are single.
    """
    step = parameterization(options.parameterization).rate(raw), frequency, options.dt, options.discretization
    if options.normalize_input is True:
        return normalized_gain(*step)
    gain = mode_gain(*step)
    return gain * lru_normalization(raw) if options.normalize_input else gain


def input_scale(options: Options, raw: Tensor, frequency: Tensor | None) -> Tensor | None:
    """What the encoded input of a nonlinear recurrence is multiplied by, (..., m); arguments as above."""
    if not options.normalize_input:
        return None
    if options.normalize_input == "paper":
        return lru_normalization(raw)
    step = parameterization(options.parameterization).rate(raw), frequency, options.dt, options.discretization
    if options.nonlinearity == "relu":  # states only rise, to what the largest input holds: that is handed on
        return step_size(*step)
    return normalized_gain(*step) / options.dt


def step_coefficients(options: Options, raw: Tensor, free: Tensor | None, encoder: Tensor, bias: Tensor) -> Step:
    """One step of an elementwise recurrence, differentiable.

    Args:
        options: of the layer.
        raw: w, (..., m).
        free: the parameter `frequency`, see `mode_frequency`; None: units are single.
        encoder: U, (..., D, d).
        bias: b, (..., D).
    """
    rate = parameterization(options.parameterization).rate(raw)
    frequency = None if free is None else mode_frequency(options, raw, free)
    if frequency is None:
        step_rate = effective_rate(rate, options.dt, options.discretization)
    else:
        step_rate = torch.complex(*effective_pair(rate, frequency, options.dt, options.discretization))
        encoder, bias = in_modes(encoder.mT).mT, in_modes(bias)
    if not has_linear_state(options):
        scale = input_scale(options, raw, frequency)
        if scale is not None:
            encoder, bias = scale[..., None] * encoder, scale * bias
        return Step(step_rate, encoder, bias, options.dt, options.nonlinearity, "linear")
    # h <- l h + g e is a step of length 1 with a = 1 - l; as 1 - l = dt * step_rate it
    # keeps its relative accuracy for slow modes.
    gain = input_gain(options, raw, frequency)
    act_out = options.nonlinearity if options.recurrence == "ssm" else "linear"
    return Step(options.dt * step_rate, gain[..., None] * encoder, gain * bias, 1.0, "linear", act_out)


def in_modes(units: Tensor) -> Tensor:
    """(..., D) numbers of units as (..., D / 2 rounded up) complex ones of pairs; a single unit's partner is 0."""
    return as_complex(F.pad(units, (0, units.shape[-1] % 2)))

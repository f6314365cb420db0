"""What one step of a recurrence is made of, from the raw parameters of a layer and its options.

Elementwise recurrences ("ssm", "diagonal"), with e = U x + b:

    linear state     h' = l h + g e               l, g of `modes.py`
    nonlinear act    h' = h + dt act(s e - a h)   s what normalised inputs are multiplied by

`step_coefficients` brings both to one form, with the gain inside U and b, that fused operators and sweeps share:

    h' = h + dt act_in(U' x + b' - a h),   y = c^T act_out(h')

A pair of units (2k, 2k+1) that oscillates is one complex unit h[2k] + i h[2k+1]; the last one of an odd number has a
partner that stays at zero. Parameters may have leading dimensions: layers have none, K copies of a model one.

A unit with a learnable step dt[i] = s dt is a unit whose time runs s times as fast: with rate s r, and frequency s w
where that is a parameter, it takes steps of length dt. What is left of s multiplies the gain of a linear state; of a
nonlinear one the recurrence is that of h / s.

Frequencies of linear states have units: w = u q, where q is the parameter. Adam moves every parameter by about the
learning rate, whatever its gradient. A pair that remembers n steps sees its phase move by n times that, so that slow
pairs lose theirs unless they have a smaller unit. From the slowest pair of a fresh layer to the fastest u rises from
1 / sqrt(max_time_scale) to 1, evenly in its logarithm. (With learnable steps s does this, where nonlinearities are
inside q is bounded: u = 1.)

Recurrences with a matrix ("orthogonal", "dense") have this form with a matrix A in place of a, `matrix_coefficients`.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cofm_triton.step.activations import properties
from cofm_triton.step.cayley import cayley
from cofm_triton.step.discretization import effective_matrix, effective_rate, matrix_step
from cofm_triton.step.modes import mode_decay, mode_gain, normalized_gain, step_size
from cofm_triton.step.oscillation import bounded_angle, contracting_angle, effective_pair
from cofm_triton.step.pairs import as_complex
from cofm_triton.step.parameterization import lru_normalization, parameterization
from cofm_triton.step.recurrent_matrix import congruence, diagonal_plus
from cofm_triton.step.wide import widened

_LARGEST_SHARE = 0.98  # of the largest angle; the parameter of the largest one would be infinite


class Options(Protocol):
    """What a layer is besides its weights, such as a `StableRNN`."""

    parameterization: str
    recurrence: str
    nonlinearity: str
    dt: float
    discretization: str
    normalize_input: bool | str
    constrained: bool
    oscillating: bool
    learnable_dt: bool
    max_time_scale: float
    pair_places: tuple[int, int] | None  # of a part of a layer: its first pair, and how many the layer has


class Modes(NamedTuple):
    """The modes of an elementwise recurrence: the arguments of the functions of `modes.py`.

    Attributes:
        rate: r, (..., m), float32 at least, 1 / time.
        frequency: w, like `rate`, radians per time; None: units are single.
        dt: step, time.
        discretization: "exact" or "euler".
    """

    rate: Tensor
    frequency: Tensor | None
    dt: float
    discretization: str


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
    return options.recurrence == "ssm" or properties(options.nonlinearity).is_linear


def only_rises(options: Options) -> bool:
    """Whether no step makes a state smaller: the nonlinearity is inside, and nowhere negative."""
    return not has_linear_state(options) and properties(options.nonlinearity).values[0] >= 0


def largest_angle(options: Options) -> float:
    """By which a pair turns in a step at most, radians: at any angle where the recurrence is linear."""
    return math.pi if has_linear_state(options) else math.pi / 2


def unit_span(options: Options) -> float:
    """The largest unit of frequencies in those of the smallest; 1: units are 1."""
    has_units = options.oscillating and has_linear_state(options) and not options.learnable_dt
    return math.sqrt(options.max_time_scale) if has_units else 1.0


def unit_steps(span: float, pairs: int, places: tuple[int, int] | None = None) -> tuple[float, float]:
    """The logarithm of the first pair's unit, and what it rises by from pair to pair; a single pair is in the middle.

    Args:
        span: see `unit_span`.
        pairs: how many there are.
        places: of pairs that are a part of a layer's, see `Options.pair_places`.

    Example:
        >>> unit_steps(math.e, 3), unit_steps(math.e, 1), unit_steps(math.e, 1, (1, 3))
        ((-1.0, 0.5), (-0.5, 0.0), (-0.5, 0.5))
    """
    (before, total), whole = places or (0, pairs), math.log(span)
    if total == 1:
        return -whole / 2, 0.0
    rise = whole / (total - 1)
    return before * rise - whole, rise


def _units(options: Options, like: Tensor) -> Tensor | float:
    """u, one for each frequency of `like`, (..., m)."""
    span, pairs = unit_span(options), like.shape[-1]
    if span == 1:
        return 1.0
    first, rise = unit_steps(span, pairs, options.pair_places)
    places = torch.arange(pairs, dtype=torch.float64, device=like.device)
    return places.mul(rise).add(first).exp().to(like.dtype)


def rates(options: Options, raw: Tensor) -> Tensor:
    """f(w), the shape of w, float32 at least, 1 / time."""
    return parameterization(options.parameterization).rate(raw)


def stretch_of(options: Options, log_dt: Tensor) -> Tensor:
    """s = dt[i] / dt of learnable steps, (..., m), float32 at least, from the parameter `log_dt`."""
    return widened(log_dt).exp().div(options.dt).to(torch.promote_types(log_dt.dtype, torch.float32))


def modes_of(options: Options, raw: Tensor, free: Tensor | None, stretch: Tensor | None = None) -> Modes:
    """Rates and frequencies.

    Args:
        options: of the layer.
        raw: w, (..., m).
        free: the parameter `frequency`, (..., m), or (..., m - 1) where the last unit is single; None: all are.
        stretch: s of learnable steps, see `stretch_of`; None: 1.
    """
    rate = rates(options, raw)
    rate = rate if stretch is None else stretch * rate
    frequency = None if free is None else _frequency(options, rate, free.to(rate.dtype), stretch)
    return Modes(rate, frequency, options.dt, options.discretization)


def _frequency(options: Options, rate: Tensor, free: Tensor, stretch: Tensor | None) -> Tensor:
    """Radians per time, one for every rate."""
    frequency = F.pad(_units(options, free) * free, (0, rate.shape[-1] - free.shape[-1]))
    if has_linear_state(options):
        return frequency if stretch is None else stretch * frequency
    return bounded_angle(frequency, angle_bound(options, rate)) / options.dt


def free_frequency(options: Options, raw: Tensor, frequency: Tensor) -> Tensor:
    """The parameter `frequency` of pairs that turn by so many radians per time: the inverse of `mode_frequency`.

    Pairs that would turn faster than the layer allows turn by 0.98 of that.

    Args:
        options: of the layer.
        raw: w, (..., m).
        frequency: radians per time, (..., m), or (..., m - 1) where the last unit is single.
    """
    if has_linear_state(options):
        return frequency / _units(options, frequency)
    bound = angle_bound(options, rates(options, raw).to(frequency.dtype))
    if isinstance(bound, Tensor):
        bound = bound[..., : frequency.shape[-1]]
    share = (options.dt * frequency / bound).clamp(-_LARGEST_SHARE, _LARGEST_SHARE)
    return torch.tan(math.pi / 2 * share)


def angle_bound(options: Options, rate: Tensor) -> float | Tensor:
    """What angles of pairs with the nonlinearity inside stay below: a number, or one for each rate."""
    bound = largest_angle(options)
    if properties(options.nonlinearity).is_bounded:
        return bound
    # Gradients of faster pairs grow without bound.
    return contracting_angle(rate, options.dt, options.discretization).clamp(max=bound)


def input_scale(options: Options, raw: Tensor, modes: Modes, stretch: Tensor | None = None) -> Tensor | None:
    """What the encoded input of a nonlinear recurrence is multiplied by, one number for each rate; None: nothing."""
    if not options.normalize_input:
        return None
    if options.normalize_input == "paper":
        return lru_normalization(raw)
    # States that only rise do so to what the largest input holds: that is handed on.
    scale = step_size(*modes) if only_rises(options) else normalized_gain(*modes) / options.dt
    return scale if stretch is None else scale / stretch


def linear_coefficients(
    options: Options, raw: Tensor, free: Tensor | None, stretch: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Decay l and gain g of a linear recurrence; arguments of `modes_of`.

    Returns:
        l, complex for pairs, and g, complex for pairs whose inputs are not normalised; one number for each rate.
    """
    modes = modes_of(options, raw, free, stretch)
    return mode_decay(*modes), _input_gain(options, raw, modes, stretch)


def _input_gain(options: Options, raw: Tensor, modes: Modes, stretch: Tensor | None = None) -> Tensor:
    if options.normalize_input is True:
        return normalized_gain(*modes)
    gain = mode_gain(*modes) if stretch is None else stretch * mode_gain(*modes)
    return gain * lru_normalization(raw) if options.normalize_input else gain


def step_coefficients(options: Options, raw: Tensor, free: Tensor | None, encoder: Tensor, bias: Tensor) -> Step:
    """One step of an elementwise recurrence, differentiable.

    Args:
        options: of the layer.
        raw: w, (..., m).
        free: the parameter `frequency`, see `modes_of`; None: units are single.
        encoder: U, (..., D, d).
        bias: b, (..., D).
    """
    modes = modes_of(options, raw, free)
    if modes.frequency is None:
        step_rate = effective_rate(modes.rate, modes.dt, modes.discretization)
    else:
        step_rate = torch.complex(*effective_pair(modes.rate, modes.frequency, modes.dt, modes.discretization))
        encoder, bias = in_modes(encoder.mT).mT, in_modes(bias)
    if not has_linear_state(options):
        scale = input_scale(options, raw, modes)
        if scale is not None:
            encoder, bias = scale[..., None] * encoder, scale * bias
        return Step(step_rate, encoder, bias, options.dt, options.nonlinearity, "linear")
    # h <- l h + g e is a step of length 1 with a = 1 - l; as 1 - l = dt * step_rate it
    # keeps its relative accuracy for slow modes.
    gain = _input_gain(options, raw, modes)
    act_out = options.nonlinearity if options.recurrence == "ssm" else "linear"
    return Step(options.dt * step_rate, gain[..., None] * encoder, gain * bias, 1.0, "linear", act_out)


def in_modes(units: Tensor) -> Tensor:
    """(..., D) numbers of units as (..., D / 2 rounded up) complex ones of pairs; a single unit's partner is 0."""
    return as_complex(F.pad(units, (0, units.shape[-1] % 2)))


def constrained_matrix(options: Options, free: Tensor) -> Tensor:
    """P or weight_hh from the parameter `basis` or `weight_hh`, (D, D); a constrained P in float64 (see `wide.py`)."""
    return cayley(free) if options.recurrence == "orthogonal" and options.constrained else free


def recurrent_matrix(options: Options, rate: Tensor, matrix: Tensor) -> Tensor:
    """W of  dh/dt = -W h + e, (D, D), float64 (see `wide.py`), 1 / time; arguments of `matrix_coefficients`."""
    rate, matrix = widened(rate), widened(matrix)
    if options.recurrence == "orthogonal":
        return congruence(rate, matrix)
    return diagonal_plus(rate, matrix, skew=options.constrained)


def matrix_coefficients(
    options: Options, rate: Tensor, matrix: Tensor, encoder: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A, U' and b' of one step  h + dt act(U' x + b' - A h)  of an orthogonal or dense recurrence.

    Args:
        options: of the layer.
        rate: f(w), (D,).
        matrix: of `constrained_matrix`, (D, D).
        encoder: U, (D, d).
        bias: b, (D,), or None.

    Returns:
        A, (D, D), 1 / time, formed in float64 (see `wide.py`) and rounded once to the dtype of the rates; U' and b'
        in the dtype of U and b, which they are unless the recurrence is linear.
    """
    dt, discretization = options.dt, options.discretization
    if options.recurrence == "orthogonal" and options.constrained:
        step_rate = effective_rate(widened(rate), dt, discretization)
        return congruence(step_rate, matrix).to(rate.dtype), encoder, bias
    recurrent = recurrent_matrix(options, rate, matrix)
    if not properties(options.nonlinearity).is_linear:
        return effective_matrix(recurrent, dt, discretization).to(rate.dtype), encoder, bias
    driven = encoder if bias is None else torch.cat((encoder, bias.unsqueeze(1)), 1)
    step, driven = matrix_step(recurrent, driven, dt, discretization)
    width = encoder.shape[1]
    return step.to(rate.dtype), driven[:, :width], None if bias is None else driven[:, width]

"""The paper's hypothesis  y = c^T h + d  over a stable recurrence, arXiv 2305.19190 eq (1).

The model is a function of its parameters, which are named as in `RNNFunctional`:

    rnn.weight_ih_l0 (D, d)   U          rnn.rate_l0    (D,)     w, raw recurrent weight
    rnn.bias_l0      (D,)     b          readout.weight (p, D)   c^T
                                         readout.bias   (p,)     d
The two biases may be missing. Oscillating models have one rate for every pair of units (2k, 2k+1), the last one of an
odd D being single, and

    rnn.frequency_l0 (D // 2,)  radians per time, in units of `frequency_unit`;
                                with act inside the recurrence a free number, `turning_frequency`

Two recurrences have a matrix besides:

    rnn.basis_l0     (D, D)   X, "orthogonal":   W = P^T diag(f(w)) P, P by Cayley's map of X
    rnn.weight_hh_l0 (D, D)   V, "dense":        W = diag(f(w)) + (V - V^T) / 2
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from .cayley import cayley
from .dense_rnn import dense_rnn
from .discretization import (
    effective_matrix,
    effective_rate,
    matrix_gain,
)
from .linear_scan import linear_scan
from .nonlinearity import nonlinearity as lookup_nonlinearity
from .oscillation import effective_pair, frequency_unit, mode_decay, mode_gain, normalized_gain, turning_frequency
from .parameterization import lru_normalization
from .parameterization import parameterization as lookup_parameterization
from .rnn_scan import rnn_scan

RECURRENCES = ("diagonal", "orthogonal", "dense", "ssm")

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class Dynamics:
    """What a model is besides its weights.

    Attributes:
        parameterization: f in rate = f(w).
        recurrence: "diagonal", "orthogonal" or "dense" (act inside the recurrence) or "ssm"
            (diagonal linear recurrence, act on the output).
        nonlinearity: act.
        dt: step, time.
        discretization: "exact" or "euler" (the paper's).
        constrained: whether W = diag(f(w)) + (V - V^T) / 2 in "dense", diag(f(w)) + V otherwise;
            and whether P is Cayley's map of X in "orthogonal", P = X otherwise.
        oscillating: whether units are pairs that turn ("diagonal" and "ssm").
        normalize_input: whether the gain of a unit is sqrt(1 - |l|^2), where relu is inside the recurrence |1 - l|;
            "paper": e is multiplied by sqrt(1 - f(w)^2) (the paper's LRU).
        max_time_scale: memory of the slowest fresh pair in steps, which gives frequencies of linear states their units.

    Raises:
        ValueError: unknown recurrence.
    """

    parameterization: str = "softplus"
    recurrence: str = "diagonal"
    nonlinearity: str = "hardtanh"
    dt: float = 1.0
    discretization: str = "exact"
    constrained: bool = True
    oscillating: bool = False
    normalize_input: bool | str = False
    max_time_scale: float = 1000.0

    def __post_init__(self) -> None:
        """Refuse an unknown recurrence at once; the other names are checked where they are used."""
        if self.recurrence not in RECURRENCES:
            raise ValueError(f"recurrence must be one of {RECURRENCES}, got {self.recurrence!r}")

    @property
    def linear_state(self) -> bool:
        """Whether h obeys a linear recurrence."""
        return self.recurrence == "ssm" or self.nonlinearity == "linear"

    def rate(self, params: Parameters) -> Tensor:
        """Rates f(w), (D,), 1 / time."""
        return lookup_parameterization(self.parameterization).rate(params["rnn.rate_l0"])

    @property
    def has_matrix(self) -> bool:
        """Whether W is more than its rates."""
        return self.recurrence in ("orthogonal", "dense")

    def matrix(self, params: Parameters) -> Tensor:
        """W of a recurrence that has one, (D, D), 1 / time."""
        rate = self.rate(params)
        if self.recurrence == "orthogonal":
            basis = params["rnn.basis_l0"]
            basis = cayley(basis) if self.constrained else basis
            return basis.T @ torch.diag(rate) @ basis
        free = params["rnn.weight_hh_l0"]
        return torch.diag(rate) + ((free - free.T) / 2 if self.constrained else free)

    def _unit_rate(self, params: Parameters) -> Tensor:
        """Rates of units that do not see each other."""
        if self.has_matrix:
            raise ValueError(f"{self.recurrence!r} has a matrix in place of one rate for each unit")
        return self.rate(params)

    def frequency(self, params: Parameters) -> Tensor | None:
        """Radians per time, one for every rate; None for single units."""
        if not self.oscillating:
            return None
        rate, raw = self._unit_rate(params), params["rnn.frequency_l0"]
        unit = frequency_unit(len(raw), self.max_time_scale).to(raw) if self.linear_state else 1
        raw = torch.cat((unit * raw, raw.new_zeros(len(rate) - len(raw))))
        if self.linear_state:
            return raw
        return turning_frequency(raw, rate, self.nonlinearity, self.dt, self.discretization)

    def _step(self, params: Parameters) -> tuple[Tensor, Tensor | None, float, str]:
        return self._unit_rate(params), self.frequency(params), self.dt, self.discretization

    def effective_rate(self, params: Parameters) -> Tensor:
        """Rate a in the nonlinear step h + dt act(e - a h), (D,) of single units."""
        return effective_rate(self._unit_rate(params), self.dt, self.discretization)

    def decay(self, params: Parameters) -> Tensor:
        """Decay l in the linear step l h + g e, (D,), or complex and one for every pair."""
        return mode_decay(*self._step(params))

    def gain(self, params: Parameters) -> Tensor:
        """Gain g in the linear step l h + g e, like the decay."""
        if self.normalize_input and self.normalize_input != "paper":
            return normalized_gain(*self._step(params)).to(self.decay(params).dtype)
        return mode_gain(*self._step(params)) * self.input_scale(params)

    def input_scale(self, params: Parameters) -> Tensor:
        """What e is multiplied by in the nonlinear step, one number for every rate."""
        rate, frequency, dt, discretization = self._step(params)
        if self.normalize_input == "paper":
            return lru_normalization(params["rnn.rate_l0"])
        if self.normalize_input and self.nonlinearity == "relu":
            turned = torch.zeros_like(rate) if frequency is None else frequency
            return torch.hypot(*effective_pair(rate, turned, dt, discretization))
        if self.normalize_input:
            return normalized_gain(rate, frequency, dt, discretization) / dt
        return torch.ones_like(rate)


def encode(params: Parameters, x: Tensor) -> Tensor:
    """Encoder e = U x + b: (..., d) to (..., D)."""
    e = x @ params["rnn.weight_ih_l0"].T
    return e + params["rnn.bias_l0"] if "rnn.bias_l0" in params else e


def in_pairs(units: Tensor) -> Tensor:
    """Numbers of units (..., D) as complex ones of pairs (..., D / 2 rounded up); a single unit's partner is 0."""
    return torch.view_as_complex(pad(units, (0, units.shape[-1] % 2)).unflatten(-1, (-1, 2)).contiguous())


def hidden(params: Parameters, x: Tensor, dynamics: Dynamics, h0: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """States h[k + 1] after each input x[k].

        nonlinear act in the recurrence:  h[k+1] = h[k] + dt act(e[k] - a h[k])
        linear state (act linear, ssm):   h[k+1] = l h[k] + g e[k]

    with e = U x + b and a, l, g from `Dynamics`. For Euler's method the second line is the first with act(z) = z. With
    a matrix W the same holds for matrices a, l = I - dt a and g; units of oscillating models come in pairs.

    Args:
        params: see the module.
        x: (B, T, d).
        dynamics: the model's options.
        h0: (B, D), zeros when None.

    Returns:
        h (B, T, D) and h_last (B, D).
    """
    e = encode(params, x)
    if dynamics.has_matrix:
        return _hidden_dense(params, e, dynamics, h0)
    if dynamics.oscillating and e.shape[-1] % 2:  # a partner for the single unit, which stays at 0
        h0 = None if h0 is None else pad(h0, (0, 1))
        h, h_last = _hidden_elementwise(params, pad(e, (0, 1)), dynamics, h0)
        return h[..., :-1], h_last[..., :-1]
    return _hidden_elementwise(params, e, dynamics, h0)


def _hidden_elementwise(params: Parameters, e: Tensor, dynamics: Dynamics, h0: Tensor | None) -> tuple[Tensor, Tensor]:
    """`hidden` for single units or pairs."""
    if dynamics.linear_state:
        gain = dynamics.gain(params)
        if dynamics.oscillating:
            e = torch.view_as_real(gain * torch.view_as_complex(e.unflatten(-1, (-1, 2)))).flatten(-2)
        else:
            e = gain * e
        return linear_scan(e, dynamics.decay(params), h0)
    rate, frequency = dynamics.effective_rate(params), dynamics.frequency(params)
    scale = dynamics.input_scale(params)
    if frequency is not None:
        scale = scale.repeat_interleave(2)
        rate, frequency = effective_pair(dynamics.rate(params), frequency, dynamics.dt, dynamics.discretization)
    return rnn_scan(scale * e, rate, h0, dt=dynamics.dt, nonlinearity=dynamics.nonlinearity, frequency=frequency)


def _hidden_dense(params: Parameters, e: Tensor, dynamics: Dynamics, h0: Tensor | None) -> tuple[Tensor, Tensor]:
    """`hidden` for a matrix W; the linear step is h + dt (g e / dt - a h)."""
    matrix, dt = dynamics.matrix(params), dynamics.dt
    effective = effective_matrix(matrix, dt, dynamics.discretization)
    if dynamics.linear_state:
        e = e @ matrix_gain(matrix, dt, dynamics.discretization).T / dt
    return dense_rnn(e, effective, h0, dt=dt, nonlinearity=dynamics.nonlinearity)


def read_out(params: Parameters, h: Tensor, dynamics: Dynamics) -> Tensor:
    """Output y = c^T h + d, or c^T act(h) + d for "ssm": (..., D) to (..., p)."""
    if dynamics.recurrence == "ssm":
        h = lookup_nonlinearity(dynamics.nonlinearity).act(h)
    y = h @ params["readout.weight"].T
    return y + params["readout.bias"] if "readout.bias" in params else y


def rnn_functional(params: Parameters, x: Tensor, dynamics: Dynamics) -> Tensor:
    """The whole model, y[k] = c^T h[k+1] + d from h[0] = 0 (ssm: c^T act(h[k+1]) + d).

    Args:
        params: see the module.
        x: (B, T, d).
        dynamics: the model's options.

    Returns:
        (B, T, p).
    """
    return read_out(params, hidden(params, x, dynamics)[0], dynamics)

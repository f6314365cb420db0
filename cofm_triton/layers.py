"""Stable recurrent layers with the surface of torch.nn.RNN, and the paper's hypothesis model.

With e[k] = U x[k] + b, rate = f(w), and a, l, g from `discretization.py`:

    diagonal, nonlinear act    h[k+1] = h[k] + dt * act(e[k] - a h[k])       output[k] = h[k+1]
    diagonal, linear           h[k+1] = l h[k] + g e[k]                      output[k] = h[k+1]
    ssm                        h[k+1] = l h[k] + g e[k]                      output[k] = act(h[k+1])
        oscillating            the same for pairs of units, a and l turn them: `modes.py`, `oscillation.py`
    orthogonal, dense          the same with matrices, rate = W:
        orthogonal             W = P^T diag(f(w)) P,  P kept orthogonal
        dense                  W = diag(f(w)) + S,    S the skew-symmetric part of a free matrix

Source: arXiv 2305.19190, eq 1 (model) and eq 16 (stable reparameterisation); arXiv 2303.06349, section 3 (turning
modes, normalised inputs).
"""

import math
import warnings
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import type_before_parametrizations
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from cofm_triton.activation import activation
from cofm_triton.discretization import effective_matrix, effective_rate, is_exact, linear_gain, matrix_gain
from cofm_triton.functional import dense_rnn, linear_scan, rnn_scan
from cofm_triton.matrix_cache import kept
from cofm_triton.modes import mode_decay, mode_gain, normalized_gain, step_size
from cofm_triton.ops.backends import BACKENDS, resolve
from cofm_triton.ops.dtypes import REAL_DTYPES, state_dtype
from cofm_triton.ops.rnn_readout import apply_rnn_readout, is_fused
from cofm_triton.oscillation import bounded_angle, contracting_angle, raw_angle
from cofm_triton.parameterization import lru_normalization, spread_rates
from cofm_triton.parameterization import parameterization as look_up
from cofm_triton.recurrent_matrix import congruence, decay_rate, diagonal_plus
from cofm_triton.scalars import check_dtype, check_number

RECURRENCES = ("diagonal", "orthogonal", "dense", "ssm")
# The matrix that a recurrence has besides its rates.
_MATRICES = {"orthogonal": "basis", "dense": "weight_hh"}
# What a fresh layer hands to the next one for an input of variance 1. Outputs act(h) of a linear recurrence vary by the
# standard deviation of act(z), z ~ N(0, 1). States with act inside have about the variance of the input; with relu,
# which lets them rise only, the root mean square of relu(z).
_OUTPUT_SIZE = {"linear": 1.0, "tanh": 0.628, "hardtanh": 0.718, "relu": 0.584}
_STATE_SIZE = {"linear": 1.0, "tanh": 1.0, "hardtanh": 1.0, "relu": 0.707}


class StableRNN(nn.Module):
    """A stack of recurrent layers whose decay rates are f(w) > 0 of a free parameter w.

    Arguments, shapes and conventions are those of `torch.nn.RNN`, after the star come ours.

    Args:
        input_size: d, features of the input.
        hidden_size: D, recurrent units of each layer and direction.
        num_layers: stacked layers; each reads the outputs of the one before.
        nonlinearity: "linear", "tanh", "hardtanh" or "relu".
        bias: whether the encoder has a bias b.
        batch_first: batched tensors are (B, T, features) instead of (T, B, features).
        dropout: probability, on the outputs of every layer but the last while training.
        bidirectional: a second set of units runs backward in time.
        parameterization: f, one of `PARAMETERIZATIONS`.
        recurrence: "ssm" (elementwise linear recurrence, nonlinearity on the output); "diagonal" (elementwise,
            nonlinearity inside); "orthogonal" (W = P^T diag(rate) P); or "dense" (W = diag(rate) + S, S the
            skew-symmetric part of weight_hh: the rates bound every mode, and turns are free).
        dt: step, time.
        discretization: "exact" (stable for every rate > 0) or "euler" (the paper's; only while
            dt * rate < 2).
        constrained: whether P stays orthogonal (`torch.nn.utils.parametrizations.orthogonal`, by Cayley's map) and only
            the skew-symmetric part of weight_hh counts. Without, P and W = diag(rate) + weight_hh move freely: the
            paper's way, with no guarantee that W stays stable.
        oscillating: whether units (2k, 2k+1) form a pair that decays with one rate and turns with a frequency, so that
            a layer sees rhythms and order instead of fading sums; the last one of an odd number stays single. None:
            yes where the recurrence is elementwise ("ssm" and "diagonal"), which it needs.
        max_angle: largest angle by which a pair of a fresh layer turns in one step, radians; None: pi, or pi / 2 where
            the nonlinearity is inside. There pairs never turn faster than pi / 2, whatever their weights.
        normalize_input: whether the gain of every unit is sqrt(1 - |decay|^2), so that a fresh unit has the variance
            of its input, whatever its memory; None: yes where the recurrence is elementwise, which it needs. "paper":
            sqrt(1 - rate^2), the LRU cell of the paper's code; needs parameterization "lru" and recurrence "diagonal".
        max_time_scale: memory of the slowest unit of a fresh layer, in steps. Where it is longer than the sequences,
            oscillating layers learn as well (`bench/README.md`); without oscillation set it to about their length.
        backend: passed on to the scans; None takes the fastest.
        device, dtype: of the parameters.

    Attributes:
        weight_ih_l0: U, (D, d); in layers above, (D, directions * D).
        bias_l0: b, (D,); None without bias.
        rate_l0: w, the raw recurrent weight, (D,), or (D / 2 rounded up,) if oscillating: one for each pair.
        frequency_l0: of oscillating layers, (D // 2,): radians per time; where the nonlinearity is inside, a free
            number q, and the angle of a step is atan(q) (`oscillation.bounded_angle`).
        basis_l0: P, (D, D), of "orthogonal"; its free parameter is parametrizations.basis_l0.original if constrained.
            Constrained layers are copied through `copy.deepcopy` or `state_dict`, not pickled, and compute in float32
            or float64; `torch.nn.utils.parametrize.remove_parametrizations(layer, "basis_l0")` lifts both.
        weight_hh_l0: (D, D), of "dense".
        Layer k has the suffix `_l{k}`, the backward direction `_l{k}_reverse`.

    Shapes:
        input (T, B, d), (B, T, d) with `batch_first`, (T, d) unbatched, or a `PackedSequence`;
        hx (num_layers * directions, B, D), unbatched (num_layers * directions, D), default zeros; in the input's dtype
        or, so that chunks of 16-bit sequences continue from all its digits, in float32 (not packed: there the last
        states are taken from the output).
        output as the input with directions * D features, h_n as hx. T may be 0. With "ssm" h_n is
        the state h, not the output act(h), so that a sequence can be continued from it.

    Raises:
        TypeError: an option of the wrong type.
        ValueError: an unknown name or a number out of range.

    Example:
        >>> layer = StableRNN(3, 5, batch_first=True)
        >>> output, h_n = layer(torch.randn(2, 7, 3))
        >>> output.shape, h_n.shape
        (torch.Size([2, 7, 5]), torch.Size([1, 2, 5]))
    """

    weight_ih_l0: Tensor
    bias_l0: Tensor | None
    rate_l0: Tensor
    basis_l0: Tensor
    weight_hh_l0: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "relu",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        parameterization: str = "softplus",
        recurrence: str = "ssm",
        dt: float = 1.0,
        discretization: str = "exact",
        constrained: bool = True,
        oscillating: bool | None = None,
        max_angle: float | None = None,
        normalize_input: bool | str | None = None,
        max_time_scale: float = 1000.0,
        backend: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_size("input_size", input_size)
        _check_size("hidden_size", hidden_size)
        _check_size("num_layers", num_layers)
        _check_bool("bias", bias)
        _check_bool("batch_first", batch_first)
        _check_bool("bidirectional", bidirectional)
        _check_bool("constrained", constrained)
        _check_dropout(dropout, num_layers)
        check_number("dt", dt)
        check_number("max_time_scale", max_time_scale, above=1.0)
        if dtype is not None:
            check_dtype("dtype", dtype, REAL_DTYPES)
        if recurrence not in RECURRENCES:
            raise ValueError(f"recurrence must be one of {RECURRENCES}, got {recurrence!r}")
        if backend is not None and backend not in BACKENDS:
            raise ValueError(f"backend must be None or one of {BACKENDS}, got {backend!r}")
        for look_up_or_raise, name in (
            (activation, nonlinearity),
            (look_up, parameterization),
            (is_exact, discretization),
        ):
            look_up_or_raise(name)
        oscillating = _elementwise_option("oscillating", oscillating, recurrence)
        if not isinstance(normalize_input, str):
            normalize_input = _elementwise_option("normalize_input", normalize_input, recurrence)
        elif normalize_input != "paper":
            raise ValueError(f"normalize_input must be True, False or 'paper', got {normalize_input!r}")
        elif (parameterization, recurrence) != ("lru", "diagonal") or oscillating:
            raise ValueError(
                "normalize_input='paper' needs parameterization='lru', recurrence='diagonal' and oscillating=False, "
                f"got {parameterization!r}, {recurrence!r} and {oscillating}"
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.nonlinearity = nonlinearity
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.parameterization = parameterization
        self.recurrence = recurrence
        self.dt = float(dt)
        self.discretization = discretization
        self.constrained = constrained
        self.oscillating = oscillating
        self.normalize_input = normalize_input
        self.max_angle = _check_angle(max_angle, self._largest_angle)
        self.max_time_scale = float(max_time_scale)
        self.backend = backend
        self._suffixes = [
            [f"_l{layer}{direction}" for direction in ("", "_reverse")[: self._directions]]
            for layer in range(num_layers)
        ]
        for layer, suffixes in enumerate(self._suffixes):
            width = input_size if layer == 0 else hidden_size * self._directions
            for suffix in suffixes:
                self._add_parameters(suffix, width, device, dtype)
        self.reset_parameters()

    def _add_parameters(
        self,
        suffix: str,
        width: int,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        def empty(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.register_parameter("weight_ih" + suffix, empty(self.hidden_size, width))
        bias = empty(self.hidden_size) if self.bias else None
        self.register_parameter("bias" + suffix, bias)
        self.register_parameter("rate" + suffix, empty(self._modes))
        if self.oscillating:
            self.register_parameter("frequency" + suffix, empty(self.hidden_size // 2))
        if self.recurrence in _MATRICES:
            name = _MATRICES[self.recurrence] + suffix
            self.register_parameter(name, empty(self.hidden_size, self.hidden_size))
            if self.recurrence == "orthogonal" and self.constrained:
                _constrain(self, name)

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def _modes(self) -> int:
        """How many rates a layer has."""
        return (self.hidden_size + 1) // 2 if self.oscillating else self.hidden_size

    @property
    def _has_linear_state(self) -> bool:
        """Whether h obeys a linear recurrence."""
        return self.recurrence == "ssm" or self.nonlinearity == "linear"

    @property
    def _largest_angle(self) -> float:
        """By which a pair of a fresh layer turns in a step: at any angle where the recurrence is linear."""
        return math.pi if self._has_linear_state else math.pi / 2

    def reset_parameters(self) -> None:
        """Draw fresh weights.

        Rates are spread log-uniformly from one step to `max_time_scale` steps (`spread_rates`), so
        every parameterisation starts stable. Angles per step are uniform in [0, max_angle). With normalised inputs, U is
        uniform with the variance that hands on the variance of the input, through nonlinearities too, so that a stack
        keeps its size at any depth; otherwise it is uniform within 1 / sqrt(D), as in `nn.RNN`: its
        norm then stays bounded as D grows, which the paper's theorem assumes. b starts at 0,
        because a slow unit integrates it up to b / rate. P is a random orthogonal matrix, weight_hh
        is 0: a fresh dense layer is a diagonal one, stable in Euler form too.
        """
        kind = look_up(self.parameterization)
        rates = spread_rates(self._modes, kind, dt=self.dt, max_time_scale=self.max_time_scale)
        raw = kind.inverse(rates)
        for suffix in chain.from_iterable(self._suffixes):
            weight, bias, rate = self._raw(suffix)
            bound = self._encoder_bound(weight, is_first=suffix in self._suffixes[0])
            nn.init.uniform_(weight, -bound, bound)
            if self.oscillating:
                self._draw_frequencies(getattr(self, "frequency" + suffix))
            if bias is not None:
                nn.init.zeros_(bias)
            with torch.no_grad():
                rate.copy_(raw)
                if self.recurrence == "dense":
                    self._matrix(suffix).zero_()
                elif self.recurrence == "orthogonal":
                    self._set_basis(suffix, _random_orthogonal(self.hidden_size))

    def _encoder_bound(self, weight: Tensor, *, is_first: bool) -> float:
        """Entries of a fresh U are uniform in [-bound, bound]."""
        if not self.normalize_input:
            return 1 / math.sqrt(self.hidden_size)
        size = 1.0
        if not is_first:
            size = (_OUTPUT_SIZE if self.recurrence == "ssm" else _STATE_SIZE)[self.nonlinearity]
        return math.sqrt(3 / weight.shape[1]) / size

    @torch.no_grad()
    def _draw_frequencies(self, frequency: Tensor) -> None:
        """Angles uniform in [0, max_angle), as raw numbers."""
        frequency.uniform_(0, self.max_angle)
        if self._has_linear_state:
            frequency.div_(self.dt)
        else:
            frequency.copy_(raw_angle(frequency, self._largest_angle))

    def _frequency(self, suffix: str, dtype: torch.dtype) -> Tensor | None:
        """Radians per time, one for every rate; None if the units are single."""
        if not self.oscillating:
            return None
        frequency: Tensor = getattr(self, "frequency" + suffix).to(dtype)
        if self.hidden_size % 2:
            frequency = F.pad(frequency, (0, 1))
        if self._has_linear_state:
            return frequency
        bound: float | Tensor = self._largest_angle
        if self.nonlinearity == "relu":  # gradients of faster pairs grow without bound: relu never saturates upwards
            bound = contracting_angle(self._rate(suffix).to(dtype), self.dt, self.discretization).clamp(max=bound)
        return bounded_angle(frequency, bound) / self.dt

    def _set_basis(self, suffix: str, basis: Tensor) -> None:
        """Replace P; under the constraint that means to find the parameter that gives it."""
        current = self._matrix(suffix)
        if self.constrained:
            with _without_autocast(current.device):
                setattr(self, "basis" + suffix, basis.to(current))
        else:
            current.copy_(basis)

    def _matrix(self, suffix: str) -> Tensor:
        """P or weight_hh, (D, D), in the dtype of the parameters: P made by autocast's products is not orthogonal."""
        name, made = _MATRICES[self.recurrence] + suffix, self.recurrence == "orthogonal" and self.constrained
        with _without_autocast(self._raw(suffix)[0].device) if made else nullcontext():
            matrix: Tensor = getattr(self, name)
        return matrix

    def _raw(self, suffix: str) -> tuple[Tensor, Tensor | None, Tensor]:
        weight: Tensor = getattr(self, "weight_ih" + suffix)
        bias: Tensor | None = getattr(self, "bias" + suffix)
        rate: Tensor = getattr(self, "rate" + suffix)
        return weight, bias, rate

    def _rate(self, suffix: str) -> Tensor:
        """f(w), (D,), float32 at least."""
        return look_up(self.parameterization).rate(self._raw(suffix)[2])

    @overload
    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]: ...

    @overload
    def forward(self, input: PackedSequence, hx: Tensor | None = None) -> tuple[PackedSequence, Tensor]: ...

    def forward(
        self, input: Tensor | PackedSequence, hx: Tensor | None = None
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """Run over whole sequences; shapes are those of the class.

        Raises:
            TypeError: `input` or `hx` is no tensor.
            ValueError: wrong shape, dtype or device of `input` or `hx`.
        """
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx)
        self._check_input(input, (2, 3))
        batched = input.dim() == 3
        x = input.unsqueeze(0) if not batched else self._batch_first(input)
        self._check_state(hx, x, None if not batched else x.shape[0])
        h0 = hx.unsqueeze(1) if hx is not None and not batched else hx
        output, h_n = self._stack(x, h0, None)
        if not batched:
            return output.squeeze(0), h_n.squeeze(1)
        return self._batch_first(output), h_n

    def step(self, x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One time step, the same as `forward` over a sequence of length 1.

        Every call makes the coefficients of a step from the raw parameters; for orthogonal and dense recurrences, which
        have matrices of them, that takes longer than the step. Inside `torch.nn.utils.parametrize.cached()` they are
        made once.

        Args:
            x: (B, d), or (d,) unbatched.
            hx: as in `forward`.

        Returns:
            output (B, D) or (D,), and h_n, to be passed to the next step.

        Raises:
            TypeError: an argument is no tensor.
            ValueError: wrong shape, dtype or device; or the layer is bidirectional.

        Example:
            >>> layer = StableRNN(3, 5)
            >>> output, h = layer.step(torch.randn(2, 3))
            >>> output, h = layer.step(torch.randn(2, 3), h)
        """
        if self.bidirectional:
            raise ValueError("step needs bidirectional=False: the backward units need the future")
        self._check_input(x, (1, 2), "x")
        time = 1 if self.batch_first and x.dim() == 2 else 0
        output, h_n = self.forward(x.unsqueeze(time), hx)
        return output.squeeze(time), h_n

    def flatten_parameters(self) -> None:
        """Nothing: code that calls it on `torch.nn.RNN`, whose weights cuDNN wants in one piece, still runs."""

    @torch.no_grad()
    def stability_margin(self) -> float:
        """The smallest rate f(w) of all layers, 1 / time; positive means that h decays.

        Unconstrained matrices W have the smallest real part of their eigenvalues instead. In Euler
        form the decay 1 - dt * rate, or the eigenvalues of I - dt W, must lie inside the unit circle
        as well.
        """
        return min(self._margin(suffix) for suffix in chain.from_iterable(self._suffixes))

    def _margin(self, suffix: str) -> float:
        rate = self._rate(suffix)
        if self.recurrence in _MATRICES and not self.constrained:
            return decay_rate(self._recurrent_matrix(suffix, rate))
        return float(rate.min())

    def _recurrent_matrix(self, suffix: str, rate: Tensor) -> Tensor:
        """W (D, D) in the dtype of the rates."""
        matrix = self._matrix(suffix).to(rate.dtype)
        if self.recurrence == "orthogonal":
            return congruence(rate, matrix)
        return diagonal_plus(rate, matrix, skew=self.constrained)

    def _batch_first(self, sequence: Tensor) -> Tensor:
        """Swap the first two dimensions unless the user's are ours; its own inverse."""
        return sequence if self.batch_first else sequence.transpose(0, 1)

    def _forward_packed(self, input: PackedSequence, hx: Tensor | None) -> tuple[PackedSequence, Tensor]:
        data, batch_sizes, order, restore = input
        self._check_input(data, (2,))
        self._check_state(hx, data, int(batch_sizes[0]), (data.dtype,))
        # Sequences stay in the order of their lengths, only the states follow the user's order.
        sorted_input = PackedSequence(data, batch_sizes)
        x, lengths = pad_packed_sequence(sorted_input, batch_first=True)
        h0 = hx if hx is None or order is None else hx.index_select(1, order)
        output, h_n = self._stack(x, h0, lengths.to(data.device))
        packed = pack_padded_sequence(output, lengths, batch_first=True)
        h_n = h_n if restore is None else h_n.index_select(1, restore)
        return PackedSequence(packed.data, batch_sizes, order, restore), h_n

    def _stack(self, x: Tensor, h0: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """All layers and directions: x (B, T, d), h0 (layers * directions, B, D), lengths (B,)."""
        states: list[Tensor] = []
        for layer, suffixes in enumerate(self._suffixes):
            if layer > 0:
                x = F.dropout(x, self.dropout, self.training)
            outputs = []
            for direction, suffix in enumerate(suffixes):
                start = None if h0 is None else h0[len(states)]
                source = _reverse(x, lengths) if direction == 1 else x
                output, state = self._run(suffix, source, start, lengths)
                outputs.append(_reverse(output, lengths) if direction == 1 else output)
                states.append(state)
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
        return x, torch.stack(states)

    def _run(self, suffix: str, x: Tensor, h0: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """One direction of one layer: x (B, T, d) to output (B, T, D) and state (B, D)."""
        if self.recurrence not in _MATRICES:
            run = self._run_elementwise
        elif self.recurrence == "orthogonal" and self.constrained and self.nonlinearity == "linear":
            run = self._run_rotated
        else:
            run = self._run_dense
        h, h_last = run(suffix, x, h0)
        if lengths is not None:
            rows = torch.arange(len(lengths), device=h.device)
            h_last = h[rows, lengths - 1]
        output = activation(self.nonlinearity)(h) if self.recurrence == "ssm" else h
        return output, h_last

    def _encode(self, suffix: str, x: Tensor, gain: Tensor | None = None) -> Tensor:
        """gain (U x + b), (B, T, D), and a channel of zeros beside a single unit of an oscillating layer.

        `gain` is None, (D,), (D, D), or complex and of pairs. It goes into the encoder: D * d products instead of
        B * T * D.
        """
        weight, bias, _ = self._raw(suffix)
        if self.oscillating and self.hidden_size % 2:
            weight, bias = F.pad(weight, (0, 0, 0, 1)), None if bias is None else F.pad(bias, (0, 1))
        if gain is not None:
            weight, bias = _amplify(gain, weight), None if bias is None else _amplify(gain, bias)
        return F.linear(x, weight, bias)

    def _run_elementwise(self, suffix: str, x: Tensor, h0: Tensor | None) -> tuple[Tensor, Tensor]:
        """Recurrences of units, or pairs of units, that do not see each other."""
        width = self.hidden_size
        if h0 is not None and self.oscillating and width % 2:
            h0 = F.pad(h0, (0, 1))
        if self._has_linear_state:
            decay, gain = self._linear_coefficients(suffix)
            e = self._encode(suffix, x, gain)
            h, h_last = linear_scan(e, decay, _like(h0, e), backend=self.backend)
        else:
            e = self._encode(suffix, x, self._input_scale(suffix))
            h, h_last = self._scan_nonlinear(suffix, e, _like(h0, e))
        return h[..., :width], h_last[..., :width]

    def _scan_nonlinear(self, suffix: str, e: Tensor, h0: Tensor | None) -> tuple[Tensor, Tensor]:
        w = self._raw(suffix)[2]
        frequency = self._frequency(suffix, state_dtype(e.dtype))
        return rnn_scan(
            e,
            w,
            h0,
            frequency=frequency,
            dt=self.dt,
            nonlinearity=self.nonlinearity,
            parameterization=self.parameterization,
            discretization=self.discretization,
            backend=self.backend,
        )

    def _linear_coefficients(self, suffix: str) -> tuple[Tensor, Tensor]:
        """Decay and gain of a linear recurrence, one for each unit or complex ones for each pair."""

        def coefficients() -> tuple[Tensor, Tensor]:
            rate = self._rate(suffix)
            step = rate, self._frequency(suffix, rate.dtype), self.dt, self.discretization
            if self.normalize_input is True:
                return mode_decay(*step), self._per_unit(normalized_gain(*step))
            scale = self._input_scale(suffix)
            return mode_decay(*step), mode_gain(*step) if scale is None else mode_gain(*step) * scale

        def sources() -> tuple[Tensor, ...]:
            raw = self._raw(suffix)[2]
            return (raw, getattr(self, "frequency" + suffix)) if self.oscillating else (raw,)

        name = ("linear_coefficients", suffix, self.parameterization, self.discretization, self.dt)
        return kept(self, name, sources, coefficients)

    def _input_scale(self, suffix: str) -> Tensor | None:
        """What the encoded input of a nonlinear recurrence is multiplied by, (D,)."""
        if not self.normalize_input:
            return None
        if self.normalize_input == "paper":
            return lru_normalization(self._raw(suffix)[2])
        rate = self._rate(suffix)
        frequency = self._frequency(suffix, rate.dtype)
        if self.nonlinearity == "relu":  # states only rise, to what the largest input holds: that is handed on
            return self._per_unit(step_size(rate, frequency, self.dt, self.discretization))
        return self._per_unit(normalized_gain(rate, frequency, self.dt, self.discretization) / self.dt)

    def _per_unit(self, per_mode: Tensor) -> Tensor:
        return per_mode.repeat_interleave(2) if self.oscillating else per_mode

    def _run_rotated(self, suffix: str, x: Tensor, h0: Tensor | None) -> tuple[Tensor, Tensor]:
        """The linear orthogonal recurrence in the basis P h, where it is diagonal."""
        basis = self._matrix(suffix)
        decay, gain = self._linear_coefficients(suffix)
        e = self._encode(suffix, x, gain.unsqueeze(1) * basis)
        with _without_autocast(basis.device):
            start = None if h0 is None else _like((h0.to(basis.dtype) @ basis.T).to(h0.dtype), e)
        h, h_last = linear_scan(e, decay, start, backend=self.backend)
        with _without_autocast(basis.device):
            h_last = h_last @ basis.to(h_last.dtype)
        return h @ basis.to(h.dtype), h_last

    def _run_dense(self, suffix: str, x: Tensor, h0: Tensor | None) -> tuple[Tensor, Tensor]:
        """Recurrences with a full matrix A in place of the rates."""
        raw = self._raw(suffix)

        def matrices() -> tuple[Tensor, Tensor | None]:
            with _without_autocast(raw[0].device):  # bfloat16 would move the smallest rates by more than they are
                return self.step_matrices(suffix, self._rate(suffix))

        name = ("step_matrices", suffix, self.parameterization, self.discretization, self.dt)
        matrix, gain = kept(self, name, lambda: (raw[2], self._matrix(suffix)), matrices)
        e = self._encode(suffix, x, gain)
        return dense_rnn(e, matrix, _like(h0, e), dt=self.dt, nonlinearity=self.nonlinearity, backend=self.backend)

    def step_matrices(self, suffix: str, rate: Tensor) -> tuple[Tensor, Tensor | None]:
        """The matrices of one step h + dt * act(G (U x + b) - A h) of an orthogonal or dense recurrence.

        Args:
            suffix: of the parameters, such as "_l0".
            rate: f(w), (D,).

        Returns:
            A and G, (D, D), 1 / time and without unit; G is None where it is the identity.
        """
        if self.recurrence == "orthogonal" and self.constrained:
            basis = self._matrix(suffix).to(rate.dtype)
            return congruence(effective_rate(rate, self.dt, self.discretization), basis), None
        recurrent = self._recurrent_matrix(suffix, rate)
        matrix = effective_matrix(recurrent, self.dt, self.discretization)
        if self.nonlinearity != "linear":
            return matrix, None
        return matrix, matrix_gain(recurrent, self.dt, self.discretization) / self.dt

    def _check_input(self, x: Tensor, dims: tuple[int, ...], argument: str = "input") -> None:
        if not isinstance(x, Tensor):
            raise TypeError(f"{argument} must be {_accepted(argument)}, got {type(x).__name__}")
        weight = self._raw("_l0")[0]
        if x.dim() not in dims:
            accepted = " or ".join(f"{dim}D" for dim in dims)
            raise ValueError(f"StableRNN: Expected {argument} to be {accepted}, got {x.dim()}D tensor instead")
        if x.shape[-1] != self.input_size:
            raise ValueError(
                f"{argument}.size(-1) must be equal to input_size. Expected {self.input_size}, got {x.shape[-1]}"
            )
        if x.device != weight.device:
            raise ValueError(f"StableRNN {argument} device ({x.device}) does not match weight device ({weight.device})")
        if x.dtype != weight.dtype and not _autocasts(x.device):
            raise ValueError(
                f"StableRNN {argument} dtype ({x.dtype}) does not match weight dtype "
                f"({weight.dtype}). Convert input: input.to({weight.dtype}), or convert model: "
                f"model.to({x.dtype})"
            )

    def _check_state(
        self, hx: Tensor | None, x: Tensor, batch: int | None, dtypes: tuple[torch.dtype, ...] | None = None
    ) -> None:
        """Check hx against the input x; `batch` is None for unbatched input, `dtypes` for x's and its state's."""
        if hx is None:
            return
        if not isinstance(hx, Tensor):
            raise TypeError(f"hx must be a torch.Tensor or None, got {type(hx).__name__}")
        count = self.num_layers * self._directions
        sizes = () if batch is None else (batch,)
        expected = (count, *sizes, self.hidden_size)
        if hx.dim() != len(expected):
            kind = "unbatched" if batch is None else "batched"
            raise ValueError(f"For {kind} input, hx should be {len(expected)}-D but got {hx.dim()}-D tensor")
        if tuple(hx.shape) != expected:
            raise ValueError(f"Expected hidden size of hx {expected}, got {list(hx.shape)}")
        if hx.device != x.device:
            raise ValueError(f"hx must be on the input's device {x.device}, got {hx.device}")
        accepted = dtypes or (x.dtype, state_dtype(x.dtype))
        if hx.dtype not in accepted and not _autocasts(x.device):
            raise ValueError(f"hx must have the input's dtype, {' or '.join(map(str, accepted))}, got {hx.dtype}")

    def extra_repr(self) -> str:
        """The sizes, and every option that is not the default."""
        defaults: dict[str, Any] = {
            "num_layers": 1,
            "nonlinearity": "relu",
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
            "parameterization": "softplus",
            "recurrence": "ssm",
            "dt": 1.0,
            "discretization": "exact",
            "constrained": True,
            "oscillating": self.recurrence not in _MATRICES,
            "max_angle": self._largest_angle,
            "normalize_input": self.recurrence not in _MATRICES,
            "max_time_scale": 1000.0,
            "backend": None,
        }
        chosen = [
            f"{name}={getattr(self, name)!r}" for name, default in defaults.items() if getattr(self, name) != default
        ]
        return ", ".join([str(self.input_size), str(self.hidden_size), *chosen])


class RNNFunctional(nn.Module):
    """The paper's hypothesis  y[k] = c^T h[k+1] + d  (for "ssm"  c^T act(h[k+1]) + d).

    Args:
        input_size: d, features of the input.
        hidden_size: m, the width.
        output_size: p, features of the output.
        options: those of `StableRNN`; always batch-first, and the paper's by default: nonlinearity="hardtanh",
            recurrence="diagonal", oscillating=False, normalize_input=False.

    Attributes:
        rnn: the `StableRNN`, with U, b and w.
        readout: `nn.Linear` with c and the bias d.

    Shapes:
        input (B, T, d), (T, d) unbatched, or a `PackedSequence`; the output has p features.

    Raises:
        TypeError: an option of the wrong type.
        ValueError: an unknown name or a number out of range; `batch_first=False`.

    Example:
        >>> model = RNNFunctional(1, 16, parameterization="exp", dtype=torch.float64)
        >>> model(torch.randn(4, 100, 1, dtype=torch.float64)).shape
        torch.Size([4, 100, 1])
    """

    def __init__(self, input_size: int, hidden_size: int, output_size: int = 1, **options: Any) -> None:
        super().__init__()
        _check_size("output_size", output_size)
        if options.setdefault("batch_first", True) is not True:
            raise ValueError(f"batch_first must be True, got {options['batch_first']!r}")
        paper = {"nonlinearity": "hardtanh", "recurrence": "diagonal", "oscillating": False, "normalize_input": False}
        options = {**paper, **options}
        self.rnn = StableRNN(input_size, hidden_size, **options)
        self.readout = nn.Linear(
            hidden_size * (2 if self.rnn.bidirectional else 1),
            output_size,
            device=options.get("device"),
            dtype=options.get("dtype"),
        )

    @overload
    def forward(self, input: Tensor) -> Tensor: ...

    @overload
    def forward(self, input: PackedSequence) -> PackedSequence: ...

    def forward(self, input: Tensor | PackedSequence) -> Tensor | PackedSequence:
        """y from whole sequences that start at rest; shapes are those of the class.

        Raises:
            TypeError: `input` is no tensor.
            ValueError: wrong shape, dtype or device of `input`.
        """
        if isinstance(input, PackedSequence):
            packed, _ = self.rnn(input)
            return PackedSequence(self.readout(packed.data), *packed[1:])
        if isinstance(input, Tensor) and self._is_fused(input):
            return self._read_out(input)
        output, _ = self.rnn(input)
        return self.readout(output)

    def _is_fused(self, input: Tensor) -> bool:
        """Whether encoder, recurrence and read-out run as one operator, which never stores a state.

        That takes one layer in one direction with an elementwise recurrence, modules that do no more than their class
        says, the dtype of the parameters, and sizes for which `ops/rnn_readout.py` has it.
        """
        rnn, readout = self.rnn, self.readout
        simple = rnn.num_layers == 1 and not rnn.bidirectional and rnn.recurrence not in _MATRICES
        simple = simple and not (rnn.normalize_input or rnn.oscillating)
        if not (simple and has_plain_parts(self)) or _autocasts(input.device):
            return False
        batch = input.shape[0] if input.dim() == 3 else 1
        return is_fused(batch, rnn.input_size, readout.out_features, resolve(rnn.backend, input.device))

    def _read_out(self, input: Tensor) -> Tensor:
        """y by one operator; input as in `forward`."""
        rnn, readout = self.rnn, self.readout
        rnn._check_input(input, (2, 3))
        weight, bias, w = rnn._raw("_l0")
        bias = weight.new_zeros(rnn.hidden_size) if bias is None else bias
        offset = weight.new_zeros(readout.out_features) if readout.bias is None else readout.bias
        rate = look_up(rnn.parameterization).rate(w)
        step_rate = effective_rate(rate, rnn.dt, rnn.discretization)
        act_in, act_out, dt = rnn.nonlinearity, "linear", rnn.dt
        if rnn.recurrence == "ssm" or rnn.nonlinearity == "linear":
            # h <- l h + g e is a step of length 1 with the rate 1 - l = dt * step_rate, accurate for slow units.
            gain = linear_gain(rate, rnn.dt, rnn.discretization)
            weight, bias, step_rate = gain.unsqueeze(1) * weight, gain * bias, rnn.dt * step_rate
            act_in, act_out, dt = "linear", rnn.nonlinearity, 1.0
        x = input if input.dim() == 3 else input.unsqueeze(0)
        y = apply_rnn_readout(
            x, weight, bias, step_rate.to(state_dtype(x.dtype)), readout.weight, offset, dt, act_in, act_out,
            resolve(rnn.backend, x.device),
        )  # fmt: skip
        return y if input.dim() == 3 else y.squeeze(0)

    def step(self, x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One time step: x (B, d) or (d,), hx as in `StableRNN.step`; returns y and the state.

        Raises:
            TypeError: an argument is no tensor.
            ValueError: wrong shape, dtype or device; or the model is bidirectional.
        """
        output, h_n = self.rnn.step(x, hx)
        return self.readout(output), h_n

    def stability_margin(self) -> float:
        """The smallest rate of the recurrence, 1 / time."""
        return self.rnn.stability_margin()


def _accepted(argument: str) -> str:
    """`forward` takes packed sequences, `step` does not."""
    return "a torch.Tensor or PackedSequence" if argument == "input" else "a torch.Tensor"


def _autocasts(device: torch.device) -> bool:
    """Whether autocast is on for tensors there; PyTorch raises an error if asked about the meta device."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Products in the dtype of their factors."""
    return torch.autocast(device.type, enabled=False) if _autocasts(device) else nullcontext()


def has_plain_parts(model: RNNFunctional) -> bool:
    """Whether layer and read-out do no more than their class says, so that others may compute what they do."""
    rnn, readout = model.rnn, model.readout
    plain = type_before_parametrizations(rnn) is StableRNN and type(readout) is nn.Linear  # P is parametrised
    return plain and not (has_hooks(rnn) or has_hooks(readout))


def has_hooks(module: nn.Module) -> bool:
    """Whether something listens to calls of the module, which therefore have to happen."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)


def _reverse(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Flip every sequence of x (B, T, d) within its own length; the padding stays behind it."""
    if lengths is None:
        return x.flip(1)
    time = torch.arange(x.shape[1], device=x.device)
    mirrored = lengths[:, None] - 1 - time
    index = torch.where(mirrored >= 0, mirrored, time)
    return x.gather(1, index[:, :, None].expand_as(x))


def _like(h0: Tensor | None, e: Tensor) -> Tensor | None:
    """The state in the dtype of the encoded input, which autocast may have made narrower, or in its state's."""
    return h0 if h0 is None or h0.dtype == state_dtype(e.dtype) else h0.to(e.dtype)


def _amplify(gain: Tensor, values: Tensor) -> Tensor:
    """gain times values (D,) or (D, d), in their dtype: a matrix, one number for every row, or for two as one."""
    wide = values.to(gain.real.dtype)
    if gain.dim() == 2:
        product = gain @ wide
    else:
        factors = gain.reshape(-1, *[1] * (values.dim() - 1))
        if gain.is_complex():
            pairs = wide.unflatten(0, (-1, 2))
            product = torch.view_as_real(factors * torch.complex(pairs[:, 0], pairs[:, 1])).movedim(-1, 1).flatten(0, 1)
        else:
            product = factors * wide
    return product.to(values.dtype)


def _constrain(layer: nn.Module, name: str) -> None:
    """Keep a square parameter orthogonal from now on."""
    parameter = layer.get_parameter(name)
    if parameter.device.type == "meta":
        raise ValueError("device='meta' needs constrained=False where recurrence='orthogonal'")
    if parameter.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            "dtype must be torch.float32 or torch.float64 where recurrence='orthogonal' and constrained=True, "
            f"got {parameter.dtype}"
        )
    nn.init.eye_(parameter)  # what is registered must be orthogonal
    with _without_autocast(parameter.device):  # PyTorch makes sure that it is
        parametrizations.orthogonal(layer, name, orthogonal_map="cayley")


def _random_orthogonal(size: int) -> Tensor:
    """A random orthogonal matrix, (size, size) float64 on the CPU."""
    return nn.init.orthogonal_(torch.empty(size, size, dtype=torch.float64, device="cpu"))


def _check_size(argument: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} should be of type int, got: {type(value).__name__}")
    if value <= 0:
        raise ValueError(f"{argument} must be greater than zero, got {value}")


def _check_bool(argument: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{argument} should be of type bool, got: {type(value).__name__}")


def _elementwise_option(argument: str, value: bool | None, recurrence: str) -> bool:
    """An option that elementwise recurrences have, on unless it is switched off."""
    is_elementwise = recurrence not in _MATRICES
    if value is None:
        return is_elementwise
    _check_bool(argument, value)
    if value and not is_elementwise:
        raise ValueError(f"{argument}=True needs recurrence 'ssm' or 'diagonal', got {recurrence!r}")
    return value


def _check_angle(max_angle: float | None, largest: float) -> float:
    if max_angle is None:
        return largest
    check_number("max_angle", max_angle)
    if max_angle > largest:
        raise ValueError(f"max_angle must be at most {largest:g} for this recurrence, got {max_angle!r}")
    return float(max_angle)


def _check_dropout(dropout: float, num_layers: int) -> None:
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout <= 1:
        raise ValueError(
            "dropout should be a number in range [0, 1] representing the probability of an "
            f"element being zeroed, got {dropout!r}"
        )
    if dropout > 0 and num_layers == 1:
        warnings.warn(
            "dropout option adds dropout after all but last recurrent layer, so non-zero dropout "
            f"expects num_layers greater than 1, but got dropout={dropout} and num_layers=1",
            stacklevel=3,
        )

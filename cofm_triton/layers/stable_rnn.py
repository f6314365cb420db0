"""Stable recurrent layers with the surface of torch.nn.RNN, and the paper's hypothesis model.

With e[k] = U x[k] + b, rate = f(w), and a, l, g from `discretization.py`:

    diagonal, nonlinear act    h[k+1] = h[k] + dt * act(e[k] - a h[k])       output[k] = h[k+1]
    diagonal, linear           h[k+1] = l h[k] + g e[k]                      output[k] = h[k+1]
    ssm                        h[k+1] = l h[k] + g e[k]                      output[k] = act(h[k+1])
        oscillating            the same for pairs of units, a and l turn them: `modes.py`, `oscillation.py`
    orthogonal, dense          the same with matrices, rate = W:
        orthogonal             W = P^T diag(f(w)) P,  P orthogonal, made of a free matrix (`cayley.py`)
        dense                  W = diag(f(w)) + S,    S the skew-symmetric part of a free matrix

Source: arXiv 2305.19190, eq 1 (model) and eq 16 (stable reparameterisation); arXiv 2303.06349, section 3 (turning
modes, normalised inputs).
"""

import math
import warnings
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, Literal, TypeGuard, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from cofm_triton.functional import dense_rnn, linear_scan, rnn_scan
from cofm_triton.modules.hooked_weights import remake_weights
from cofm_triton.modules.options import OptionsInState
from cofm_triton.modules.plain import Kind, are_distinct, behaves_as, holds
from cofm_triton.ops.backends import BACKENDS, resolve
from cofm_triton.ops.dtypes import REAL_DTYPES, state_dtype
from cofm_triton.ops.rnn_readout import apply_rnn_readout, is_fused
from cofm_triton.parameter_groups import UndecayedRecurrence
from cofm_triton.step.activation import activation
from cofm_triton.step.cayley import cayley, cayley_inverse, convert_parametrization
from cofm_triton.step.coefficients import (
    has_linear_state,
    input_gain,
    input_scale,
    largest_angle,
    mode_frequency,
    step_coefficients,
)
from cofm_triton.step.discretization import effective_matrix, effective_rate, is_exact, matrix_step
from cofm_triton.step.initialization import assign, random_orthogonal
from cofm_triton.step.matrix_cache import kept
from cofm_triton.step.modes import mode_decay
from cofm_triton.step.parameterization import parameterization as look_up
from cofm_triton.step.parameterization import spread_weights
from cofm_triton.step.recurrent_matrix import congruence, decay_rate, diagonal_plus
from cofm_triton.step.wide import widened
from cofm_triton.support.scalars import as_bool, as_int, as_number, check_dtype, check_number, described

_NO_SCRIPT = (
    "torch.jit.script does not take cofm_triton's layers: use torch.export.export(model, inputs) or, inside a scripted "
    "model, torch.jit.trace(layer, inputs)"
)
RECURRENCES = ("diagonal", "orthogonal", "dense", "ssm")
# The matrix that a recurrence has besides its rates.
_MATRICES = {"orthogonal": "basis", "dense": "weight_hh"}
# What a fresh layer hands to the next one for an input of variance 1. Outputs act(h) of a linear recurrence vary by the
# standard deviation of act(z), z ~ N(0, 1). States with act inside have about the variance of the input; with relu,
# which lets them rise only, the root mean square of relu(z).
_OUTPUT_SIZE = {"linear": 1.0, "tanh": 0.628, "hardtanh": 0.718, "relu": 0.584}
_STATE_SIZE = {"linear": 1.0, "tanh": 1.0, "hardtanh": 1.0, "relu": 0.707}


class StableRNN(OptionsInState, UndecayedRecurrence):
    """A stack of recurrent layers whose decay rates are f(w) > 0 of a free parameter w.

    Arguments, shapes and conventions are those of `torch.nn.RNN`, after the star come ours. Two things differ. h_n are
    the states h, which in "ssm" have not passed the nonlinearity that the output has. And h_n of a 16-bit layer, or of
    any layer under 16-bit autocast, is float32 as the states are: a stream that is carried from chunk to chunk
    (`output, h = layer(chunk, h)`, h None at first) keeps all their digits; hx in 16 bits gives h_n so.

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
        constrained: whether P stays orthogonal, as Cayley's map of basis_l0 (`cayley.py`), and only the skew-symmetric
            part of weight_hh counts. Without, P = basis_l0 and W = diag(rate) + weight_hh move freely: the paper's
            way, with no guarantee that W stays stable.
        oscillating: whether units (2k, 2k+1) form a pair that decays with one rate and turns with a frequency, so that
            a layer sees rhythms and order instead of fading sums; the last one of an odd number stays single. None:
            yes where the recurrence is elementwise ("ssm" and "diagonal"), which it needs. Pairs of "ssm" are stable
            for every weight and every input. With the nonlinearity inside, states stay bounded for every weight, but
            gradients may grow along some inputs (`oscillation.py`); relu's pairs turn no faster than that allows.
        max_angle: largest angle by which a pair of a fresh layer turns in one step, radians; None: pi, or pi / 2 where
            the nonlinearity is inside. There pairs never turn faster than pi / 2, whatever their weights.
        normalize_input: whether the gain of every unit is sqrt(1 - |decay|^2), so that a fresh unit has the variance
            of its input, whatever its memory, and fresh stacks keep their size; None: yes where the recurrence is
            elementwise, which it needs. "paper": sqrt(1 - rate^2), the LRU cell of the paper's code; needs
            parameterization "lru", recurrence "diagonal" and oscillating=False.
        max_time_scale: memory of the slowest unit of a fresh layer, in steps. Oscillating layers learn sequences that
            are much shorter as well; without oscillation set it to about their length.
        backend: passed on to the scans; None takes the fastest.
        device, dtype: of the parameters.

    Attributes:
        weight_ih_l0: U, (D, d); in layers above, (D, directions * D).
        bias_l0: b, (D,); None without bias.
        rate_l0: w, the raw recurrent weight, (D,), or (D / 2 rounded up,) if oscillating: one for each pair.
        frequency_l0: of oscillating layers, (D // 2,): radians per time; where the nonlinearity is inside, a free
            number q, and a step turns the pair by atan(q) (`oscillation.bounded_angle`).
        basis_l0: (D, D), of "orthogonal": P if not constrained, otherwise the free matrix that P is made of. `basis()`
            gives P; `cayley.cayley_inverse(P)` is a free matrix for a given P.
        weight_hh_l0: (D, D), of "dense".
        Layer k has the suffix `_l{k}`, the backward direction `_l{k}_reverse`.

    Weight decay:
        pulls raw rates to 0, where units forget at once. Give optimisers with decay, such as `torch.optim.AdamW`, the
        groups of `cofm_triton.parameter_groups(model, weight_decay=...)`. Helpers that follow timm's method
        `no_weight_decay()` or the marks `_no_weight_decay` and `_optim` of mamba and S4 find them here.

    Saving:
        the `state_dict` holds, as `_extra_state`, the options that give the weights their meaning (`options.py`), and
        a layer with other options refuses it.

    Shapes:
        input (T, B, d), (B, T, d) with `batch_first`, (T, d) unbatched, or a `PackedSequence`;
        hx (num_layers * directions, B, D), unbatched (num_layers * directions, D), default zeros; in the input's dtype
        or in that of its states, float32 for 16 bits.
        output as the input with directions * D features. h_n as hx, without hx in the dtype of the states. T may be 0.
        With "ssm" h_n is the state h, not the output act(h), so that a sequence can be continued from it.

    Graphs:
        `torch.compile` and `torch.export` take any batch size and length once they are told that these vary
        (`dynamic=True`, `torch.export.Dim`), and so does `torch.jit.trace`; `torch.jit.script` is refused. An exported
        program runs on the fastest backend of the machine it is loaded on, after `import cofm_triton`.

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
        input_size = _check_size("input_size", input_size)
        hidden_size = _check_size("hidden_size", hidden_size)
        num_layers = _check_size("num_layers", num_layers)
        bias = _check_bool("bias", bias)
        batch_first = _check_bool("batch_first", batch_first)
        bidirectional = _check_bool("bidirectional", bidirectional)
        constrained = _check_bool("constrained", constrained)
        dropout = _check_dropout(dropout, num_layers)
        dt = check_number("dt", dt)
        max_time_scale = check_number("max_time_scale", max_time_scale, above=1.0)
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
            raise ValueError(f"normalize_input must be a bool or 'paper', got {normalize_input!r}")
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
        self.dropout = dropout
        self.bidirectional = bidirectional
        self.parameterization = parameterization
        self.recurrence = recurrence
        self.dt = dt
        self.discretization = discretization
        self.constrained = constrained
        self.oscillating = oscillating
        self.normalize_input = normalize_input
        self.max_angle = _check_angle(max_angle, self._largest_angle)
        self.max_time_scale = max_time_scale
        self.backend = backend
        self._suffixes = [
            [f"_l{layer}{direction}" for direction in ("", "_reverse")[: self._directions]]
            for layer in range(num_layers)
        ]
        for layer, suffixes in enumerate(self._suffixes):
            width = input_size if layer == 0 else hidden_size * self._directions
            for suffix in suffixes:
                self._add_parameters(suffix, width, device, dtype)
        self._mark()
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
        return has_linear_state(self)

    @property
    def _largest_angle(self) -> float:
        """By which a pair of a fresh layer turns in a step."""
        return largest_angle(self)

    def reset_parameters(self) -> None:
        """Draw fresh weights.

        Rates are spread log-uniformly from one step to `max_time_scale` steps (`spread_rates`), so
        every parameterisation starts stable. Angles per step are uniform in [0, max_angle). With
        normalised inputs, U is uniform with the variance that hands on the variance of the input,
        through nonlinearities too, so that a stack keeps its size at any depth; otherwise it is
        uniform within 1 / sqrt(D), as in `nn.RNN`: its
        norm then stays bounded as D grows, which the paper's theorem assumes. b starts at 0,
        because a slow unit integrates it up to b / rate. P is a random orthogonal matrix, weight_hh
        is 0: a fresh dense layer is a diagonal one, stable in Euler form too.

        It works on parameters without numbers (device "meta") and on those that FSDP2 has sharded as well.
        """
        kind = look_up(self.parameterization)
        raw = spread_weights(self._modes, kind, dt=self.dt, max_time_scale=self.max_time_scale)
        for suffix in chain.from_iterable(self._suffixes):
            weight, bias, rate = self._raw(suffix)
            bound = self._encoder_bound(weight, is_first=suffix in self._suffixes[0])
            nn.init.uniform_(weight, -bound, bound)
            if self.oscillating:
                self._draw_frequencies(getattr(self, "frequency" + suffix))
            if bias is not None:
                nn.init.zeros_(bias)
            assign(rate, raw)
            if self.recurrence == "dense":
                nn.init.zeros_(self._free_matrix(suffix))
            elif self.recurrence == "orthogonal":
                free = self._free_matrix(suffix)
                basis = random_orthogonal(self.hidden_size, free.device)
                assign(free, cayley_inverse(basis) if self.constrained else basis)

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
        nn.init.uniform_(frequency, 0, self.max_angle)
        if self._has_linear_state:
            frequency.div_(self.dt)
        else:
            frequency.mul_(math.pi / 2 / self._largest_angle).tan_()  # the inverse of `bounded_angle`

    def _frequency(self, suffix: str, dtype: torch.dtype) -> Tensor | None:
        """Radians per time, one for every rate; None if the units are single."""
        if not self.oscillating:
            return None
        return mode_frequency(self, self._raw(suffix)[2], getattr(self, "frequency" + suffix).to(dtype))

    def _load_from_state_dict(self, *arguments: Any) -> None:
        """Weights of earlier versions too, which kept P by `torch.nn.utils.parametrizations.orthogonal`."""
        if self.recurrence == "orthogonal" and self.constrained:
            for suffix in chain.from_iterable(self._suffixes):
                convert_parametrization(arguments[0], arguments[1], "basis" + suffix)
        super()._load_from_state_dict(*arguments)

    def basis(self, suffix: str = "_l0") -> Tensor:
        """P of an orthogonal layer, differentiable.

        Args:
            suffix: of the parameters, such as "_l0" or "_l1_reverse".

        Returns:
            P, (D, D), in the dtype of the parameters; if constrained, in float32 at least.

        Raises:
            ValueError: the recurrence is another one, or no parameter has this suffix.

        Example:
            >>> P = StableRNN(3, 5, recurrence="orthogonal").basis()
            >>> torch.allclose(P @ P.T, torch.eye(5), atol=1e-6)
            True
        """
        if self.recurrence != "orthogonal":
            raise ValueError(f"basis needs recurrence='orthogonal', got {self.recurrence!r}")
        known = tuple(chain.from_iterable(self._suffixes))
        if suffix not in known:
            raise ValueError(f"suffix must be one of {known}, got {suffix!r}")
        free, basis = self._free_matrix(suffix), self._matrix(suffix)
        return basis.to(state_dtype(free.dtype)) if self.constrained else basis

    def _matrix(self, suffix: str) -> Tensor:
        """P or weight_hh, (D, D); P in float64 if constrained (see `wide.py`)."""
        free = self._free_matrix(suffix)
        if self.recurrence != "orthogonal" or not self.constrained:
            return free
        return kept(self, ("basis", suffix), lambda: (free,), lambda: cayley(free))

    def _free_matrix(self, suffix: str) -> Tensor:
        """The parameter that `_matrix` is made of, (D, D)."""
        free: Tensor = getattr(self, _MATRICES[self.recurrence] + suffix)
        return free

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
        h_n = h_n if hx is None else h_n.to(hx.dtype)
        if not batched:
            return output.squeeze(0), h_n.squeeze(1)
        return self._batch_first(output), h_n

    def step(self, x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One time step: a call of the layer with a sequence of length 1, which is what hooks on the layer see.

        Every call makes the coefficients of a step from the raw parameters; for orthogonal and dense recurrences, which
        have matrices of them, that takes longer than the step. Inside `torch.nn.utils.parametrize.cached()` they are
        made once.

        Args:
            x: (B, d), or (d,) unbatched.
            hx: as in `forward`.

        Returns:
            output (B, D) or (D,), and h_n, to be passed to the next step; its dtype is that of `forward`.

        Raises:
            TypeError: an argument is no tensor.
            ValueError: wrong shape, dtype or device; or the layer is bidirectional.

        Example:
            >>> layer = StableRNN(3, 5)
            >>> output, h = layer.step(torch.randn(2, 3))
            >>> output, h = layer.step(torch.randn(2, 3), h)
        """
        self._check_step(x)
        time = 1 if self.batch_first and x.dim() == 2 else 0
        output, h_n = self(x.unsqueeze(time), hx)
        return output.squeeze(time), h_n

    def flatten_parameters(self) -> None:
        """Nothing: code that calls it on `torch.nn.RNN`, whose weights cuDNN wants in one piece, still runs."""

    @torch.no_grad()
    def stability_margin(self) -> float:
        """The smallest rate f(w) of all layers, 1 / time; positive means that h decays.

        Unconstrained matrices W have the smallest real part of their eigenvalues instead. In Euler
        form the decay 1 - dt * rate, or the eigenvalues of I - dt W, must lie inside the unit circle
        as well. Weights that `torch.nn.utils` makes before every call (`weight_norm`, `spectral_norm`, `prune`) are
        made anew first.
        """
        remake_weights(self)
        return min(self._margin(suffix) for suffix in chain.from_iterable(self._suffixes))

    def _margin(self, suffix: str) -> float:
        rate = self._rate(suffix)
        if self.recurrence in _MATRICES and not self.constrained:
            return decay_rate(self._recurrent_matrix(suffix, rate))
        return float(rate.min())

    def _recurrent_matrix(self, suffix: str, rate: Tensor) -> Tensor:
        """W (D, D) in float64 (see `wide.py`)."""
        rate, matrix = widened(rate), widened(self._matrix(suffix))
        if self.recurrence == "orthogonal":
            return congruence(rate, matrix)
        return diagonal_plus(rate, matrix, skew=self.constrained)

    def _batch_first(self, sequence: Tensor) -> Tensor:
        """Swap the first two dimensions unless the user's are ours; its own inverse."""
        return sequence if self.batch_first else sequence.transpose(0, 1)

    def _forward_packed(self, input: PackedSequence, hx: Tensor | None) -> tuple[PackedSequence, Tensor]:
        data, batch_sizes, order, restore = input
        self._check_input(data, (2,))
        self._check_state(hx, data, int(batch_sizes[0]))
        # Sequences stay in the order of their lengths, only the states follow the user's order.
        sorted_input = PackedSequence(data, batch_sizes)
        x, lengths = pad_packed_sequence(sorted_input, batch_first=True)
        h0 = hx if hx is None or order is None else hx.index_select(1, order)
        output, h_n = self._stack(x, h0, lengths.to(data.device))
        packed = pack_padded_sequence(output, lengths, batch_first=True)
        h_n = h_n if restore is None else h_n.index_select(1, restore)
        h_n = h_n if hx is None else h_n.to(hx.dtype)
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
        h, h_last = run(suffix, x, h0, lengths)
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

    def _run_elementwise(
        self, suffix: str, x: Tensor, h0: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Recurrences of units, or pairs of units, that do not see each other."""
        width = self.hidden_size
        if h0 is not None and self.oscillating and width % 2:
            h0 = F.pad(h0, (0, 1))
        if self._has_linear_state:
            decay, gain = self._linear_coefficients(suffix)
            e = self._encode(suffix, x, gain)
            h, h_last = linear_scan(_drive(e, lengths), decay, _start(h0, e), backend=self.backend)
        else:
            e = self._encode(suffix, x, self._input_scale(suffix))
            h, h_last = self._scan_nonlinear(suffix, _drive(e, lengths), _start(h0, e))
        return h[..., :width].to(e.dtype), _final(h, h_last, lengths)[..., :width]

    def _scan_nonlinear(self, suffix: str, e: Tensor, h0: Tensor | None) -> tuple[Tensor, Tensor]:
        state = state_dtype(e.dtype)
        return rnn_scan(
            e,
            self._raw(suffix)[2].to(state),
            h0,
            frequency=self._frequency(suffix, state),
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
            frequency = self._frequency(suffix, rate.dtype)
            gain = input_gain(self, self._raw(suffix)[2], frequency)
            decay = mode_decay(rate, frequency, self.dt, self.discretization)
            return decay, gain if gain.is_complex() else self._per_unit(gain)

        def sources() -> tuple[Tensor, ...]:
            raw = self._raw(suffix)[2]
            return (raw, getattr(self, "frequency" + suffix)) if self.oscillating else (raw,)

        name = ("linear_coefficients", suffix, self.parameterization, self.discretization, self.dt)
        return kept(self, name, sources, coefficients)

    def _input_scale(self, suffix: str) -> Tensor | None:
        """What the encoded input of a nonlinear recurrence is multiplied by, (D,)."""
        raw = self._raw(suffix)[2]
        scale = input_scale(self, raw, self._frequency(suffix, state_dtype(raw.dtype)))
        return None if scale is None else self._per_unit(scale)

    def _per_unit(self, per_mode: Tensor) -> Tensor:
        return per_mode.repeat_interleave(2) if self.oscillating else per_mode

    def _run_rotated(self, suffix: str, x: Tensor, h0: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """The linear orthogonal recurrence in the basis P h, where it is diagonal."""
        decay, gain = self._linear_coefficients(suffix)
        basis = self._matrix(suffix).to(gain.dtype)
        e = self._encode(suffix, x, gain.unsqueeze(1) * basis)
        wide, start = basis.to(state_dtype(e.dtype)), _start(h0, e)
        with _without_autocast(basis.device):
            start = None if start is None else start.to(wide.dtype) @ wide.T
        h, h_last = linear_scan(_drive(e, lengths), decay, start, backend=self.backend)
        h_last = _final(h, h_last, lengths)
        with _without_autocast(basis.device):
            h_last = (h_last.to(wide.dtype) @ wide).to(h_last.dtype)
        h = h.to(e.dtype)
        return h @ basis.to(h.dtype), h_last

    def _run_dense(self, suffix: str, x: Tensor, h0: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Recurrences with a full matrix A in place of the rates."""
        raw = self._raw(suffix)

        def coefficients() -> tuple[Tensor, Tensor, Tensor | None]:
            with _without_autocast(raw[0].device):  # bfloat16 would move the smallest rates by more than they are
                return self.step_coefficients(suffix, self._rate(suffix))

        name = ("step_coefficients", suffix, self.parameterization, self.discretization, self.dt)
        sources = (self._free_matrix(suffix), *(parameter for parameter in raw if parameter is not None))
        matrix, weight, bias = kept(self, name, lambda: sources, coefficients)
        e = F.linear(x, weight, bias)
        h, h_last = dense_rnn(
            _drive(e, lengths), matrix, _start(h0, e), dt=self.dt, nonlinearity=self.nonlinearity, backend=self.backend
        )
        return h.to(e.dtype), _final(h, h_last, lengths)

    def step_coefficients(self, suffix: str, rate: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """What one step h + dt * act(U' x + b' - A h) of an orthogonal or dense recurrence is made of.

        Args:
            suffix: of the parameters, such as "_l0".
            rate: f(w), (D,).

        Returns:
            A, (D, D), 1 / time, formed in float64 (see `wide.py`) and rounded once to the dtype of the rates; U' and b'
            in the dtype of U and b, which they are unless the recurrence is linear.
        """
        weight, bias, _ = self._raw(suffix)
        if self.recurrence == "orthogonal" and self.constrained:
            step_rate = effective_rate(widened(rate), self.dt, self.discretization)
            return congruence(step_rate, self._matrix(suffix)).to(rate.dtype), weight, bias
        recurrent = self._recurrent_matrix(suffix, rate)
        if self.nonlinearity != "linear":
            return effective_matrix(recurrent, self.dt, self.discretization).to(rate.dtype), weight, bias
        encoder = weight if bias is None else torch.cat((weight, bias.unsqueeze(1)), 1)
        matrix, encoder = matrix_step(recurrent, encoder, self.dt, self.discretization)
        width = weight.shape[1]
        return matrix.to(rate.dtype), encoder[:, :width], None if bias is None else encoder[:, width]

    def _check_step(self, x: Tensor) -> None:
        """What can be said of a step's input before hooks have made weights; `forward` says the rest."""
        if self.bidirectional:
            raise ValueError("step needs bidirectional=False: the backward units need the future")
        self._check_features(x, (1, 2), "x")

    def _check_input(self, x: Tensor, dims: tuple[int, ...]) -> None:
        self._check_features(x, dims, "input")
        weight = self._raw("_l0")[0]
        if x.device != weight.device:
            raise ValueError(f"StableRNN input device ({x.device}) does not match weight device ({weight.device})")
        if x.dtype != weight.dtype and not _autocasts(x.device):
            raise ValueError(
                f"StableRNN input dtype ({x.dtype}) does not match weight dtype "
                f"({weight.dtype}). Convert input: input.to({weight.dtype}), or convert model: "
                f"model.to({x.dtype})"
            )

    def _check_features(self, x: Tensor, dims: tuple[int, ...], argument: str) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(f"{argument} must be {_accepted(argument)}, got {type(x).__name__}")
        if x.dim() not in dims:
            accepted = " or ".join(f"{dim}D" for dim in dims)
            raise ValueError(f"StableRNN: Expected {argument} to be {accepted}, got {x.dim()}D tensor instead")
        if x.shape[-1] != self.input_size:
            raise ValueError(
                f"{argument}.size(-1) must be equal to input_size. Expected {self.input_size}, got {x.shape[-1]}"
            )

    def _check_state(self, hx: Tensor | None, x: Tensor, batch: int | None) -> None:
        """Check hx against the input x; `batch` is None for unbatched input."""
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
        state = state_dtype(x.dtype)
        if hx.dtype not in (x.dtype, state) and not _autocasts(x.device):
            accepted = str(x.dtype) if x.dtype == state else f"{x.dtype}, or that of its states, {state}"
            raise ValueError(f"hx must have the input's dtype, {accepted}, got {hx.dtype}")

    def __prepare_scriptable__(self) -> "StableRNN":
        raise RuntimeError(_NO_SCRIPT)

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
        input (B, T, d), (T, d) unbatched, or a `PackedSequence`; the output has p features. h0 and the state that
        comes back with `return_state=True` are hx and h_n of `StableRNN`.

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
        output_size = _check_size("output_size", output_size)
        hidden_size = _check_size("hidden_size", hidden_size)
        paper = {"nonlinearity": "hardtanh", "recurrence": "diagonal", "oscillating": False, "normalize_input": False}
        options = {"batch_first": True, **paper, **options}
        if as_bool(options["batch_first"]) is not True:
            raise ValueError(f"batch_first must be True, got {options['batch_first']!r}")
        self.rnn = StableRNN(input_size, hidden_size, **options)
        self.readout = nn.Linear(
            hidden_size * (2 if self.rnn.bidirectional else 1),
            output_size,
            device=options.get("device"),
            dtype=options.get("dtype"),
        )

    @overload
    def forward(self, input: Tensor, h0: Tensor | None = None, return_state: Literal[False] = False) -> Tensor: ...

    @overload
    def forward(
        self, input: PackedSequence, h0: Tensor | None = None, return_state: Literal[False] = False
    ) -> PackedSequence: ...

    @overload
    def forward(
        self, input: Tensor, h0: Tensor | None = None, *, return_state: Literal[True]
    ) -> tuple[Tensor, Tensor]: ...

    @overload
    def forward(
        self, input: PackedSequence, h0: Tensor | None = None, *, return_state: Literal[True]
    ) -> tuple[PackedSequence, Tensor]: ...

    def forward(
        self, input: Tensor | PackedSequence, h0: Tensor | None = None, return_state: bool = False
    ) -> Tensor | PackedSequence | tuple[Tensor | PackedSequence, Tensor]:
        """y from whole sequences that start at rest, or from h0; shapes are those of the class.

        Returns:
            y, or (y, h_n) with `return_state`.

        Raises:
            TypeError: `input` or `h0` is no tensor.
            ValueError: wrong shape, dtype or device of `input` or `h0`.
        """
        if isinstance(input, Tensor) and h0 is None and not return_state and self._is_fused(input):
            return self._read_out(input)
        output, h_n = self.rnn(input, h0)
        packed = isinstance(output, PackedSequence)
        y = PackedSequence(self.readout(output.data), *output[1:]) if packed else self.readout(output)
        return (y, h_n) if return_state else y

    def _is_fused(self, input: Tensor) -> bool:
        """Whether encoder, recurrence and read-out run as one operator, which never stores a state.

        That takes one layer in one direction with an elementwise recurrence of single units, modules that do no more
        than their class says, the dtype of the parameters, and sizes for which `ops/rnn_readout.py` has it.
        """
        if not is_plain(self) or self.rnn.oscillating or self.rnn.recurrence in _MATRICES or _autocasts(input.device):
            return False
        rnn, readout = self.rnn, self.readout
        batch = input.shape[0] if input.dim() == 3 else 1
        return is_fused(batch, rnn.input_size, readout.out_features, resolve(rnn.backend, input.device))

    def _read_out(self, input: Tensor) -> Tensor:
        """y by one operator; input as in `forward`."""
        rnn, readout = self.rnn, self.readout
        rnn._check_input(input, (2, 3))
        weight, bias, w = rnn._raw("_l0")
        bias = weight.new_zeros(rnn.hidden_size) if bias is None else bias
        offset = weight.new_zeros(readout.out_features) if readout.bias is None else readout.bias
        step = step_coefficients(rnn, w, None, weight, bias)
        x = input if input.dim() == 3 else input.unsqueeze(0)
        y = apply_rnn_readout(
            x, step.encoder, step.bias, step.rate.to(state_dtype(x.dtype)), readout.weight, offset,
            step.dt, step.act_in, step.act_out, resolve(rnn.backend, x.device),
        )  # fmt: skip
        return y if input.dim() == 3 else y.squeeze(0)

    def step(self, x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One time step: x (B, d) or (d,), hx as in `StableRNN.step`; returns y and the state.

        It is a call of the model with a sequence of length 1: hooks on the model see that sequence and hx, and
        (y, h_n), hooks on its parts what they see in every call.

        Raises:
            TypeError: an argument is no tensor.
            ValueError: wrong shape, dtype or device; or the model is bidirectional.
        """
        self.rnn._check_step(x)
        y, h_n = self(x.unsqueeze(-2), hx, return_state=True)
        return y.squeeze(-2), h_n

    def no_weight_decay(self) -> set[str]:
        """As `StableRNN.no_weight_decay`: helpers ask the outermost module."""
        return {f"rnn.{name}" for name in self.rnn.no_weight_decay()}

    def stability_margin(self) -> float:
        """The smallest rate of the recurrence, 1 / time."""
        return self.rnn.stability_margin()

    def __prepare_scriptable__(self) -> "RNNFunctional":
        raise RuntimeError(_NO_SCRIPT)


def _accepted(argument: str) -> str:
    """`forward` takes packed sequences, `step` does not."""
    return "a torch.Tensor or PackedSequence" if argument == "input" else "a torch.Tensor"


def _autocasts(device: torch.device) -> bool:
    """Whether autocast is on for tensors there; PyTorch raises an error if asked about the meta device."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Products in the dtype of their factors."""
    return torch.autocast(device.type, enabled=False) if _autocasts(device) else nullcontext()


_FUNCTIONAL, _RNN, _LINEAR = Kind(RNNFunctional), Kind(StableRNN), Kind(nn.Linear)


def is_plain(model: nn.Module) -> TypeGuard[RNNFunctional]:
    """Whether a model is the equation of its class, of one layer in one direction: all shortcuts ask this.

    Its parts do no more than their classes say (`plain.py`).
    """
    return (
        isinstance(model, RNNFunctional)
        and behaves_as(model, _FUNCTIONAL)
        and holds(model, {}, parts=("rnn", "readout"))
        and _is_plain_layer(model.rnn)
        and _is_plain_linear(model.readout, model.rnn.hidden_size)
        and are_distinct((model.rnn, model.readout))
    )


def reads_out_states(model: nn.Module) -> TypeGuard[RNNFunctional]:
    """Whether a model is a read-out, of any kind, of the states of a `StableRNN`."""
    is_ours = isinstance(model, RNNFunctional) and behaves_as(model, _FUNCTIONAL, or_inherits=True)
    return is_ours and behaves_as(model.get_submodule("rnn"), _RNN)


def _is_plain_linear(readout: nn.Linear, width: int) -> bool:
    if not behaves_as(readout, _LINEAR):
        return False
    shapes = {"weight": (readout.out_features, width), "bias": (readout.out_features,)}
    return holds(readout, shapes, optional=("bias",))


def _is_plain_layer(rnn: StableRNN) -> bool:
    if not behaves_as(rnn, _RNN) or rnn.num_layers > 1 or rnn.bidirectional:
        return False
    return holds(rnn, _shapes(rnn), optional=("bias_l0",))


def _shapes(rnn: StableRNN) -> dict[str, tuple[int, ...]]:
    """Of the parameters of one layer in one direction."""
    width = rnn.hidden_size
    shapes = {"weight_ih_l0": (width, rnn.input_size), "bias_l0": (width,), "rate_l0": (rnn._modes,)}
    if rnn.oscillating:
        return shapes | {"frequency_l0": (width // 2,)}
    return shapes | ({_MATRICES[rnn.recurrence] + "_l0": (width, width)} if rnn.recurrence in _MATRICES else {})


def _reverse(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Flip every sequence of x (B, T, d) within its own length; the padding stays behind it."""
    if lengths is None:
        return x.flip(1)
    time = torch.arange(x.shape[1], device=x.device)
    mirrored = lengths[:, None] - 1 - time
    index = torch.where(mirrored >= 0, mirrored, time)
    return x.gather(1, index[:, :, None].expand_as(x))


def _start(h0: Tensor | None, e: Tensor) -> Tensor | None:
    """The initial state in the dtype of the states, where it is not that of the encoded input: the last one has it."""
    state = state_dtype(e.dtype)
    if h0 is None:
        return None if e.dtype == state else e.new_zeros(e.shape[0], e.shape[2], dtype=state)
    return h0.to(state)


def _drive(e: Tensor, lengths: Tensor | None) -> Tensor:
    """The encoded input (B, T, D); for padded sequences in the dtype of the states, whose last one is one of them."""
    return e if lengths is None else e.to(state_dtype(e.dtype))


def _final(h: Tensor, h_last: Tensor, lengths: Tensor | None) -> Tensor:
    """The state (B, D) after the last step of each sequence, of all of them h (B, T, D) if lengths (B,) differ."""
    return h_last if lengths is None else h[torch.arange(len(lengths), device=h.device), lengths - 1]


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


def _check_size(argument: str, value: Any) -> int:
    number = as_int(value)
    if number is None:
        raise TypeError(f"{argument} should be of type int, got: {described(value)}")
    if number <= 0:
        raise ValueError(f"{argument} must be greater than zero, got {number}")
    return number


def _check_bool(argument: str, value: Any) -> bool:
    flag = as_bool(value)
    if flag is None:
        raise TypeError(f"{argument} should be of type bool, got: {described(value)}")
    return flag


def _elementwise_option(argument: str, value: Any, recurrence: str) -> bool:
    """An option that elementwise recurrences have, on unless it is switched off."""
    is_elementwise = recurrence not in _MATRICES
    if value is None:
        return is_elementwise
    value = _check_bool(argument, value)
    if value and not is_elementwise:
        raise ValueError(f"{argument}=True needs recurrence 'ssm' or 'diagonal', got {recurrence!r}")
    return value


def _check_angle(max_angle: Any, largest: float) -> float:
    if max_angle is None:
        return largest
    max_angle = check_number("max_angle", max_angle)
    if max_angle > largest:
        raise ValueError(f"max_angle must be at most {largest:g} for this recurrence, got {max_angle!r}")
    return max_angle


def _check_dropout(dropout: Any, num_layers: int) -> float:
    share = as_number(dropout)
    if share is None or not 0 <= share <= 1:
        raise ValueError(
            "dropout should be a number in range [0, 1] representing the probability of an "
            f"element being zeroed, got {dropout!r}"
        )
    if share > 0 and num_layers == 1:
        warnings.warn(
            "dropout option adds dropout after all but last recurrent layer, so non-zero dropout "
            f"expects num_layers greater than 1, but got dropout={share} and num_layers=1",
            stacklevel=3,
        )
    return share

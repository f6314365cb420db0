"""Stable recurrent layers with the surface of torch.nn.RNN.

With e[k] = U x[k] + b, rate = f(w), and a, l, g of `step/coefficients.py`:

    diagonal, nonlinear act    h[k+1] = h[k] + dt * act(e[k] - a h[k])       output[k] = h[k+1]
    diagonal, linear           h[k+1] = l h[k] + g e[k]                      output[k] = h[k+1]
    ssm                        h[k+1] = l h[k] + g e[k]                      output[k] = act(h[k+1])
        oscillating            the same for pairs of units, a and l turn them: `modes.py`, `oscillation.py`
        gated                  l and g from the input in every step: `recurrences/gated.py`
    orthogonal, dense          the same with matrices, rate = W:
        orthogonal             W = P^T diag(f(w)) P,  P orthogonal, made of a free matrix (`cayley.py`)
        dense                  W = diag(f(w)) + S,    S the skew-symmetric part of a free matrix

Source: arXiv 2305.19190, eq 1 (model) and eq 16 (stable reparameterisation); arXiv 2303.06349, section 3 (turning
modes, normalised inputs).
"""

from __future__ import annotations

import inspect
from itertools import chain
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from cofm_triton.layers.checks import (
    check_angle,
    check_backend,
    check_direction,
    check_dropout,
    check_elementwise,
    check_episodes,
    check_flag,
    check_gated,
    check_input,
    check_known,
    check_learnable_dt,
    check_normalization,
    check_size,
    check_slopes,
    check_state,
    check_step,
)
from cofm_triton.layers.initialization import reset_direction
from cofm_triton.layers.padding import end_to_end, padded, padded_resets, reverse, reverse_resets
from cofm_triton.layers.recurrences.contract import Episodes, Layer, Recurrence, Shapes
from cofm_triton.layers.recurrences.gated import GATED
from cofm_triton.layers.recurrences.orthogonal import Orthogonal
from cofm_triton.layers.recurrences.table import RECURRENCES
from cofm_triton.layers.recurrences.table import recurrence as look_up_recurrence
from cofm_triton.layers.sequence import TensorOrPacked
from cofm_triton.layers.stepper import NOT_PREPARED, Stepper, remembered
from cofm_triton.modules.hooked_weights import remake_weights
from cofm_triton.modules.options import OptionsInState
from cofm_triton.modules.plain import Kind, behaves_as, holds
from cofm_triton.ops.checks import check_seq_starts
from cofm_triton.ops.dtypes import REAL_DTYPES, state_dtype
from cofm_triton.optim import UndecayedRecurrence
from cofm_triton.step.activation import activation
from cofm_triton.step.coefficients import largest_angle, unit_span
from cofm_triton.step.discretization import is_exact
from cofm_triton.step.parameterization import Parameterization
from cofm_triton.step.parameterization import parameterization as look_up_parameterization
from cofm_triton.support.scalars import check_dtype, check_number

__all__ = ["RECURRENCES", "StableRNN"]

NO_SCRIPT = (
    "torch.jit.script does not take cofm_triton's layers: use torch.export.export(model, inputs) or, inside a scripted "
    "model, torch.jit.trace(layer, inputs)"
)


class StableRNN(OptionsInState, UndecayedRecurrence, Layer):
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
        parameterization: f, one of `PARAMETERIZATIONS`, or what `cofm.parameterization` gives: "inverse" has numbers of
            its own, `cofm.parameterization("inverse", a=1.0, b=0.5)`. The layer keeps the name.
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
            of its input, whatever its memory; None: yes where the recurrence is elementwise, which it needs. With None
            or True fresh stacks keep their size, with matrices too, False keeps the paper's start. "paper":
            sqrt(1 - rate^2), the LRU cell of the paper's code; needs parameterization "lru", recurrence "diagonal" and
            oscillating=False.
        max_time_scale: memory of the slowest unit of a fresh layer, in steps. Oscillating layers learn sequences that
            are much shorter as well; for longer ones, or without oscillation, set it to their length. Units of
            frequencies are made of it, see frequency_l0.
        learnable_dt: whether every unit, or pair, has a step dt[i] = exp(log_dt_l0) of its own, as in S4, S5 and mamba:
            an elementwise recurrence, fresh rates that are all the fastest, and fresh steps that are log-uniform.
        dt_min, dt_max: between which fresh learnable steps are, time; None: dt / max_time_scale, and dt, so that units
            remember 1 to `max_time_scale` steps.
        gated: whether rates depend on the input, and stay stable for every weight and every input: "rg_lru" (True),
            "mingru", "minlstm" or "s6", the rows of `cofm_triton.gated_rnn`, with rate dt * f(w) per step. Needs
            recurrence "ssm" and discretization "exact"; the gates normalise the input. Without steps of its own.
        backend: passed on to the scans; None takes the fastest.
        device, dtype: of the parameters.

    Attributes:
        weight_ih_l0: U, (D, d); in layers above, (D, directions * D).
            With gates, further D rows for the rate's logits and, for "rg_lru" and "minlstm", D for the input's.
        bias_l0: b, (D,), with gates as many as U has rows; None without bias.
        rate_l0: w, the raw recurrent weight, (D,), or (D / 2 rounded up,) if oscillating: one for each pair.
        frequency_l0: of oscillating layers, (D // 2,): radians per time, in units that rise from
            1 / sqrt(max_time_scale) for the first pair, the slowest, to 1 for the last (`step/coefficients.py` says
            why); 1 per time with learnable steps. Where the nonlinearity is inside, a free number q, and a step turns
            the pair by atan(q) (`oscillation.bounded_angle`).
        log_dt_l0: of layers with learnable steps, the logarithm of dt[i], like rate_l0.
        basis_l0: (D, D), of "orthogonal": P if not constrained, otherwise the free matrix that P is made of. `basis()`
            gives P; `cayley.cayley_inverse(P)` is a free matrix for a given P.
        weight_hh_l0: (D, D), of "dense". Layer k has the suffix `_l{k}`, the backward direction `_l{k}_reverse`.

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
        parameterization: str | Parameterization = "softplus",
        recurrence: str = "ssm",
        dt: float = 1.0,
        discretization: str = "exact",
        constrained: bool = True,
        oscillating: bool | None = None,
        max_angle: float | None = None,
        normalize_input: bool | str | None = None,
        max_time_scale: float = 1000.0,
        learnable_dt: bool = False,
        dt_min: float | None = None,
        dt_max: float | None = None,
        gated: bool | str = False,
        backend: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.num_layers = check_size("num_layers", num_layers)
        self.nonlinearity = check_known(activation, nonlinearity)
        self.bias = check_flag("bias", bias)
        self.batch_first = check_flag("batch_first", batch_first)
        self.dropout = check_dropout(dropout, self.num_layers)
        self.bidirectional = check_flag("bidirectional", bidirectional)
        self.parameterization = look_up_parameterization(parameterization).name
        self.recurrence = check_known(look_up_recurrence, recurrence)
        self.dt = check_number("dt", dt)
        self.discretization = check_known(is_exact, discretization)
        check_slopes(self)
        self.constrained = check_flag("constrained", constrained)
        self.oscillating = check_elementwise(self, "oscillating", oscillating)
        self.normalize_input = check_normalization(self, normalize_input)
        self.keeps_size = self.normalize_input is True or normalize_input is None
        self.max_angle = check_angle(max_angle, largest_angle(self))
        self.max_time_scale = check_number("max_time_scale", max_time_scale, above=1.0)
        self.learnable_dt, self.dt_min, self.dt_max = check_learnable_dt(self, learnable_dt, dt_min, dt_max)
        self.gated = check_gated(self, gated)
        self.backend = check_backend(backend)
        if dtype is not None:
            check_dtype("dtype", dtype, REAL_DTYPES)
        directions = ("", "_reverse")[: self._directions]
        self._suffixes = [[f"_l{layer}{direction}" for direction in directions] for layer in range(self.num_layers)]
        for name, shape in self._shapes().items():
            is_there = self.bias or not name.startswith("bias")
            values = nn.Parameter(torch.empty(shape, device=device, dtype=dtype)) if is_there else None
            self.register_parameter(name, values)
        self._mark()
        self.reset_parameters()

    def _shapes(self) -> Shapes:
        """Of all parameters; biases, which may be None, included."""
        shapes: Shapes = {}
        for layer, suffixes in enumerate(self._suffixes):
            inputs = self.input_size if layer == 0 else self.hidden_size * self._directions
            rows = self._cell.encoded(self) * self.hidden_size
            own = {"weight_ih": (rows, inputs), "bias": (rows,), **self._cell.shapes(self)}
            shapes |= {name + suffix: shape for suffix in suffixes for name, shape in own.items()}
        return shapes

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def _cell(self) -> Recurrence:
        return GATED if self.gated else look_up_recurrence(self.recurrence)

    def reset_parameters(self) -> None:
        """Draw fresh weights.

        Rates are spread log-uniformly from one step to `max_time_scale` steps (`spread_rates`), so every
        parameterisation starts stable; learnable steps are spread instead, at random. With "ssm" and exact steps they
        start at a fifth of a step: some units have no memory, and the nonlinearity behind them sees inputs one by one.
        Angles per step are uniform in [0, max_angle), but every fourth pair of a linear recurrence, from the slowest to
        the fastest, starts at angle 0: it sums up, over every time scale, which few random angles are small enough for.
        Rows of U are uniform with the size that hands on the size of noise, and of constants, at any depth
        (`fresh_size.py`). b starts at 0. P is a random orthogonal matrix, with the nonlinearity inside 1; pairs of a
        fresh dense layer turn like those of an elementwise one, by the skew-symmetric part of weight_hh.

        With normalize_input=False, U is uniform within 1 / sqrt(D), as in `nn.RNN`: its norm then stays bounded as D
        grows, which the paper's theorem assumes. weight_hh is then 0, as it is with Euler steps or if not constrained:
        a fresh dense layer is a diagonal one.

        It works on parameters without numbers (device "meta") and on those that FSDP2 has sharded as well.
        """
        for layer, suffixes in enumerate(self._suffixes):
            for suffix in suffixes:
                reset_direction(self, self._cell, suffix, depth=layer)

    def _options(self) -> dict[str, Any]:
        """The time scale gives weights a meaning where frequencies have units."""
        return super()._options() | ({} if unit_span(self) != 1 else {"max_time_scale": None})

    def _load_from_state_dict(self, *arguments: Any) -> None:
        """Weights of earlier versions too."""
        for suffix in chain.from_iterable(self._suffixes):
            self._cell.upgrade(self, arguments[0], arguments[1], suffix)
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
        cell, known = self._cell, tuple(chain.from_iterable(self._suffixes))
        if not isinstance(cell, Orthogonal):
            raise ValueError(f"basis needs recurrence='orthogonal', got {self.recurrence!r}")
        if suffix not in known:
            raise ValueError(f"suffix must be one of {known}, got {suffix!r}")
        basis = cell.matrix(self, suffix)
        return basis.to(state_dtype(cell.free(self, suffix).dtype)) if self.constrained else basis

    def forward(
        self,
        input: TensorOrPacked,
        hx: Tensor | None = None,
        *,
        seq_starts: Tensor | None = None,
        resets: Tensor | None = None,
        reset_to: str = "zero",
    ) -> tuple[TensorOrPacked, Tensor]:
        """Run over whole sequences; shapes are those of the class.

        Args:
            input: see the class.
            hx: see the class.
            seq_starts: (S,) int32 or int64, where sequences packed end to end into the one row of `input` (B = 1)
                start, the first at 0. Each has a state of its own: hx and h_n have S in place of B. They are padded
                inside, as those of a `PackedSequence`.
            resets: bool, of the shape of `input` without features, True where a new episode begins: nothing that was
                before is seen from there on, backward units see nothing beyond, and no gradient crosses. Everything
                is as if the pieces were passed one by one, h_n the states at the end. None: no episodes.
            reset_to: what episodes that begin inside start from: "zero", as a call without hx, or "h0", hx again. The
                default is that for chunks of a longer sequence, whose hx is the state of an episode that goes on. Where
                the first step is a reset, "zero" drops hx.

        Raises:
            TypeError: `input`, `hx` or `resets` is no tensor, or `resets` is not bool.
            ValueError: wrong shape, dtype or device of `input`, `hx` or `resets`; `resets` with a `PackedSequence`.
        """
        if isinstance(input, PackedSequence):
            if seq_starts is not None:
                raise ValueError("seq_starts must be None for a PackedSequence, which says where sequences start")
            if resets is not None:
                raise ValueError("resets must be None for a PackedSequence: pad sequences, or pack them by seq_starts")
            return self._forward_packed(input, hx)
        if seq_starts is not None:
            return self._forward_end_to_end(input, hx, seq_starts, resets, reset_to)
        check_input(self, input, (2, 3))
        check_episodes(resets, reset_to, input)
        batched = input.dim() == 3
        x = self._batch_first(input) if batched else input.unsqueeze(0)
        check_state(self, hx, x, None if not batched else x.shape[0])
        h0 = hx.unsqueeze(1) if hx is not None and not batched else hx
        if resets is not None:
            resets = self._batch_first(resets) if batched else resets.unsqueeze(0)
        output, h_n = self._stack(x, h0, None, Episodes(resets, reset_to))
        h_n = h_n if hx is None else h_n.to(hx.dtype)
        if not batched:
            return output.squeeze(0), h_n.squeeze(1)
        return self._batch_first(output), h_n

    def step(self, x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One time step: a call of the layer with a sequence of length 1, which is what hooks on the layer see.

        Where gradients are recorded, and on GPUs, every call makes the coefficients of a step from the raw parameters;
        for orthogonal and dense recurrences, which have matrices of them, that takes longer than the step. The steps of
        `prepared()` have them ready. A sequence whose new episode begins gets zeros in its rows of hx.

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
        check_step(self, x)
        if (stepper := self._stepper(x, hx)) is not None:
            return stepper.step(x, hx)
        time = 1 if self.batch_first and x.dim() == 2 else 0
        output, h_n = self(x.unsqueeze(time), hx)
        return output.squeeze(time), h_n

    def _stepper(self, x: Tensor, hx: Tensor | None) -> Stepper | None:
        """What gives the same step sooner, see `remembered`."""
        if not is_stable_rnn(self):
            return None
        return remembered(self, self._cell, [suffix for (suffix,) in self._suffixes], self._shapes, x, hx)

    def prepared(self) -> Stepper:
        """Steps with the weights of this moment: the way to run a stream.

        Whatever is done to the layer afterwards changes nothing in them. In evaluation mode: without dropout. Under
        `torch.no_grad()` they are numbers; otherwise gradients of all their steps reach the layer's parameters.

        Raises:
            ValueError: the layer is bidirectional, or something is added to it that a step would miss: hooks, another
                `forward` or `step`.

        Example:
            >>> layer = StableRNN(3, 5, recurrence="dense")
            >>> with torch.no_grad():
            ...     stepper, h = layer.prepared(), None
            ...     for x in torch.randn(7, 2, 3):
            ...         output, h = stepper.step(x, h)
        """
        return self._prepared(None)

    def _prepared(self, readout: nn.Linear | None) -> Stepper:
        """The same, with a read-out of the outputs."""
        check_direction(self, "prepared")
        if not behaves_as(self, _STABLE_RNN, or_inherits=True) or type(self).step is not StableRNN.step:
            raise ValueError(f"prepared {NOT_PREPARED}")
        return Stepper(self, self._cell, [suffix for (suffix,) in self._suffixes], readout)

    def flatten_parameters(self) -> None:
        """Nothing: code that calls it on `torch.nn.RNN`, whose weights cuDNN wants in one piece, still runs."""

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """The parameters of every layer and direction, in the order of h_n, as `torch.nn.RNN` lists its own."""
        return [
            [value for name, value in self.named_parameters(recurse=False) if name.partition("_l")[2] == suffix[2:]]
            for suffix in chain.from_iterable(self._suffixes)
        ]

    @property
    def mode(self) -> str:
        """Which cell it is, "STABLE_SSM" and so on: none of those of `torch.nn.RNN`."""
        return f"STABLE_{self.recurrence.upper()}"

    @property
    def proj_size(self) -> int:
        """0: outputs and states are not projected."""
        return 0

    @torch.no_grad()
    def stability_margin(self) -> float:
        """The smallest rate f(w) of all layers, 1 / time, f(w) dt[i] / dt with learnable steps; positive: h decays.

        Unconstrained matrices W have the smallest real part of their eigenvalues instead. In Euler
        form the decay 1 - dt * rate, or the eigenvalues of I - dt W, must lie inside the unit circle
        as well. Gated layers have the infimum over all inputs: 0 where gates see the input, which may hold a state as
        long as it likes, and never makes it grow. Weights that `torch.nn.utils` makes before every call
        (`weight_norm`, `spectral_norm`, `prune`) are made anew first.
        """
        remake_weights(self)
        return min(self._cell.margin(self, suffix) for suffix in chain.from_iterable(self._suffixes))

    def _batch_first(self, sequence: Tensor) -> Tensor:
        """Swap the first two dimensions unless the user's are ours; its own inverse."""
        return sequence if self.batch_first else sequence.transpose(0, 1)

    def _forward_packed(self, input: PackedSequence, hx: Tensor | None) -> tuple[PackedSequence, Tensor]:
        data, batch_sizes, order, restore = input
        check_input(self, data, (2,))
        check_state(self, hx, data, int(batch_sizes[0]))
        # Sequences stay in the order of their lengths, only the states follow the user's order.
        sorted_input = PackedSequence(data, batch_sizes)
        x, lengths = pad_packed_sequence(sorted_input, batch_first=True)
        h0 = hx if hx is None or order is None else hx.index_select(1, order)
        output, h_n = self._stack(x, h0, lengths.to(data.device), Episodes())
        packed = pack_padded_sequence(output, lengths, batch_first=True)
        h_n = h_n if restore is None else h_n.index_select(1, restore)
        h_n = h_n if hx is None else h_n.to(hx.dtype)
        return PackedSequence(packed.data, batch_sizes, order, restore), h_n

    def _forward_end_to_end(
        self, input: Tensor, hx: Tensor | None, seq_starts: Tensor, resets: Tensor | None, reset_to: str
    ) -> tuple[Tensor, Tensor]:
        check_input(self, input, (3,))
        check_episodes(resets, reset_to, input)
        x = self._batch_first(input)
        check_seq_starts(seq_starts, x)
        check_state(self, hx, x, len(seq_starts))
        if x.shape[1] == 0:
            output, h_n = self._stack(x.expand(len(seq_starts), -1, -1), hx, None, Episodes())
            return self._batch_first(output[:1]), h_n if hx is None else h_n.to(hx.dtype)
        rows, lengths = padded(x, seq_starts)
        cuts = None if resets is None else padded_resets(self._batch_first(resets), seq_starts)
        output, h_n = self._stack(rows, hx, lengths, Episodes(cuts, reset_to))
        start = torch.zeros_like(h_n) if hx is None else hx.to(h_n.dtype)
        h_n = torch.where(lengths[:, None] > 0, h_n, start)
        return self._batch_first(end_to_end(output, lengths)), h_n if hx is None else h_n.to(hx.dtype)

    def _stack(self, x: Tensor, h0: Tensor | None, lengths: Tensor | None, episodes: Episodes) -> tuple[Tensor, Tensor]:
        """All layers and directions: x (B, T, d), h0 (layers * directions, B, D), lengths (B,)."""
        states: list[Tensor] = []
        backward = episodes
        if self.bidirectional:  # not `_replace`, which the compiler of PyTorch 2.8 does not follow
            backward = Episodes(reverse_resets(episodes.resets, lengths), episodes.reset_to)
        for layer, suffixes in enumerate(self._suffixes):
            if layer > 0:
                x = F.dropout(x, self.dropout, self.training)
            outputs = []
            for direction, suffix in enumerate(suffixes):
                start = None if h0 is None else h0[len(states)]
                source = reverse(x, lengths) if direction == 1 else x
                output, state = self._run(suffix, source, start, lengths, backward if direction == 1 else episodes)
                outputs.append(reverse(output, lengths) if direction == 1 else output)
                states.append(state)
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
        return x, states[0].unsqueeze(0) if len(states) == 1 else torch.stack(states)

    def _run(
        self, suffix: str, x: Tensor, h0: Tensor | None, lengths: Tensor | None, episodes: Episodes
    ) -> tuple[Tensor, Tensor]:
        """One direction of one layer: x (B, T, d) to output (B, T, D) and state (B, D)."""
        return self._cell.run(self, suffix, x, h0, lengths, episodes)

    def __prepare_scriptable__(self) -> StableRNN:
        raise RuntimeError(NO_SCRIPT)

    def extra_repr(self) -> str:
        """The sizes, and every option that is not the default."""
        is_elementwise, angle = self._cell.is_elementwise, largest_angle(self)
        resolved = {"oscillating": is_elementwise, "normalize_input": is_elementwise, "max_angle": angle}
        options = inspect.signature(StableRNN).parameters.values()
        defaults = {option.name: option.default for option in options if hasattr(self, option.name)} | resolved
        given = {name: getattr(self, name) for name in defaults}
        sizes = [str(given.pop(name)) for name in ("input_size", "hidden_size")]
        return ", ".join([*sizes, *(f"{name}={value!r}" for name, value in given.items() if value != defaults[name])])


_STABLE_RNN = Kind(StableRNN)


def is_stable_rnn(module: nn.Module) -> TypeGuard[StableRNN]:
    """Whether a call of the module is `StableRNN.forward`, see `plain.py`."""
    return behaves_as(module, _STABLE_RNN)


def is_plain_layer(module: nn.Module) -> TypeGuard[StableRNN]:
    """The same of one layer in one direction, without gates, whose parameters are nothing but that."""
    if not is_stable_rnn(module) or module.gated or module.num_layers > 1 or module.bidirectional:
        return False
    return holds(module, module._shapes(), optional=("bias_l0",))

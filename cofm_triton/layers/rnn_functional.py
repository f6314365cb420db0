"""The paper's hypothesis model: a `StableRNN` and a linear read-out of its outputs.

Source: arXiv 2305.19190, eq 1.
"""

from __future__ import annotations

from typing import Any, Literal, TypeGuard, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cofm_triton.layers.autocast import autocasts
from cofm_triton.layers.checks import check_input, check_size, check_step
from cofm_triton.layers.encoder import amplified
from cofm_triton.layers.recurrences.contract import weights_of
from cofm_triton.layers.sequence import TensorOrPacked, at_every_step
from cofm_triton.layers.stable_rnn import NO_SCRIPT, StableRNN, is_plain_layer, is_stable_rnn
from cofm_triton.layers.stepper import NOT_PREPARED, Stepper
from cofm_triton.modules.plain import Kind, are_distinct, behaves_as, holds
from cofm_triton.ops.backends import resolve
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.ops.mode_coefficients import fused_coefficients
from cofm_triton.ops.mode_coefficients import is_fused as has_fused_coefficients
from cofm_triton.ops.rnn_readout import apply_rnn_readout, is_fused
from cofm_triton.step.coefficients import has_linear_state, step_coefficients
from cofm_triton.step.pairs import as_reals
from cofm_triton.support.scalars import as_bool


class RNNFunctional(nn.Module):
    """The paper's hypothesis  y[k] = c^T h[k+1] + d  (for "ssm"  c^T act(h[k+1]) + d).

    Args:
        input_size: d, features of the input.
        hidden_size: m, the width.
        output_size: p, features of the output.
        options: those of `StableRNN`; always batch-first, and the paper's by default: nonlinearity="hardtanh",
            recurrence="diagonal", oscillating=False, normalize_input=False; with `gated` recurrence="ssm" and
            normalize_input=True, which gates need.

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
        output_size = check_size("output_size", output_size)
        hidden_size = check_size("hidden_size", hidden_size)
        paper = {"nonlinearity": "hardtanh", "recurrence": "diagonal", "oscillating": False, "normalize_input": False}
        if options.get("gated"):
            paper |= {"recurrence": "ssm", "normalize_input": True}
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
    def forward(
        self,
        input: TensorOrPacked,
        h0: Tensor | None = None,
        return_state: Literal[False] = False,
        *,
        seq_starts: Tensor | None = None,
        resets: Tensor | None = None,
        reset_to: str = "zero",
    ) -> TensorOrPacked: ...

    @overload
    def forward(
        self,
        input: TensorOrPacked,
        h0: Tensor | None = None,
        *,
        return_state: Literal[True],
        seq_starts: Tensor | None = None,
        resets: Tensor | None = None,
        reset_to: str = "zero",
    ) -> tuple[TensorOrPacked, Tensor]: ...

    def forward(
        self,
        input: TensorOrPacked,
        h0: Tensor | None = None,
        return_state: bool = False,
        *,
        seq_starts: Tensor | None = None,
        resets: Tensor | None = None,
        reset_to: str = "zero",
    ) -> TensorOrPacked | tuple[TensorOrPacked, Tensor]:
        """y from whole sequences that start at rest, or from h0; shapes are those of the class.

        `seq_starts`, `resets` and `reset_to` as for `StableRNN.forward`.

        Returns:
            y, or (y, h_n) with `return_state`.

        Raises:
            TypeError: `input` or `h0` is no tensor.
            ValueError: wrong shape, dtype or device of `input` or `h0`.
        """
        options: dict[str, Any] = {} if seq_starts is None else {"seq_starts": seq_starts}
        if resets is not None or reset_to != "zero":
            options |= {"resets": resets, "reset_to": reset_to}
        from_rest = h0 is None and not options and not return_state
        if isinstance(input, Tensor) and from_rest and not input.is_nested and self._is_fused(input):
            return self._read_out(input)
        output, h_n = self.rnn(input, h0, **options)  # what hooks see is what users pass
        y = at_every_step(self.readout, output)
        return (y, h_n) if return_state else y

    def _is_fused(self, input: Tensor) -> bool:
        """Whether encoder, recurrence and read-out run as one operator, which never stores a state.

        That takes one layer in one direction with an elementwise recurrence, modules that do no more than their class
        says, the dtype of the parameters, and sizes for which `ops/rnn_readout.py` has it.
        """
        if not is_plain(self) or self.rnn.learnable_dt or not self.rnn._cell.is_elementwise or autocasts(input.device):
            return False
        rnn, outputs = self.rnn, self.readout.out_features
        batch = input.shape[0] if input.dim() == 3 else 1
        kind = dict(paired=rnn.oscillating, double=input.dtype == torch.float64)
        return is_fused(batch, rnn.input_size, outputs, resolve(rnn.backend, input.device), **kind)

    def _read_out(self, input: Tensor) -> Tensor:
        """y by one operator; input as in `forward`."""
        rnn, readout = self.rnn, self.readout
        check_input(rnn, input, (2, 3))
        weight, bias, w = weights_of(rnn, "_l0")
        bias = weight.new_zeros(rnn.hidden_size) if bias is None else bias
        offset = weight.new_zeros(readout.out_features) if readout.bias is None else readout.bias
        state, frequency, decoder = state_dtype(input.dtype), getattr(rnn, "frequency_l0", None), readout.weight
        if rnn.hidden_size % 2 and rnn.oscillating:
            decoder = F.pad(decoder, (0, 1))
        if not has_linear_state(rnn) and has_fused_coefficients(rnn, rnn.backend, w, frequency):
            rate, turn, encoder, bias = _made_at_once(rnn, w, frequency, weight, bias)
            kind = rnn.dt, rnn.nonlinearity, "linear"
        else:
            step = step_coefficients(rnn, w, None if frequency is None else frequency.to(state), weight, bias)
            encoder, bias, rate, turn = step.encoder, step.bias, step.rate, None
            if rnn.oscillating:
                encoder, bias = as_reals(step.encoder.mT).mT, as_reals(step.bias)
                rate, turn = rate.real, rate.imag.to(state)
            kind = step.dt, step.act_in, step.act_out
        x = input if input.dim() == 3 else input.unsqueeze(0)
        chosen = resolve(rnn.backend, x.device)
        y = apply_rnn_readout(x, encoder, bias, rate.to(state), decoder, offset, *kind, chosen, turn)
        return y if input.dim() == 3 else y.squeeze(0)

    def step(self, x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One time step: x (B, d) or (d,), hx as in `StableRNN.step`; returns y and the state.

        It is a call of the model with a sequence of length 1: hooks on the model see that sequence and hx, and
        (y, h_n), hooks on its parts what they see in every call.

        Raises:
            TypeError: an argument is no tensor.
            ValueError: wrong shape, dtype or device; or the model is bidirectional.
        """
        check_step(self.rnn, x)
        rnn, readout = self.rnn, self.readout
        quick = behaves_as(self, _FUNCTIONAL) and behaves_as(readout, _LINEAR) and isinstance(rnn, StableRNN)
        if quick and (stepper := rnn._stepper(x, hx)) is not None:
            output, h_n = stepper.step(x, hx)
            return readout(output), h_n
        y, h_n = self(x.unsqueeze(-2), hx, return_state=True)
        return y.squeeze(-2), h_n

    def prepared(self) -> Stepper:
        """Steps with the weights of this moment, those of the read-out included: see `StableRNN.prepared`.

        Raises:
            ValueError: as there, of the model and its parts.

        Example:
            >>> model = RNNFunctional(1, 16)
            >>> with torch.no_grad():
            ...     stepper, h = model.prepared(), None
            ...     for x in torch.randn(7, 2, 1):
            ...         y, h = stepper.step(x, h)
            >>> y.shape
            torch.Size([2, 1])
        """
        is_ours = behaves_as(self, _FUNCTIONAL, or_inherits=True) and type(self).step is RNNFunctional.step
        if not (is_ours and isinstance(self.rnn, StableRNN) and behaves_as(self.readout, _LINEAR)):
            raise ValueError(f"prepared {NOT_PREPARED}")
        return self.rnn._prepared(self.readout)

    def no_weight_decay(self) -> set[str]:
        """As `StableRNN.no_weight_decay`: helpers ask the outermost module."""
        return {f"rnn.{name}" for name in self.rnn.no_weight_decay()}

    def stability_margin(self) -> float:
        """The smallest rate of the recurrence, 1 / time."""
        return self.rnn.stability_margin()

    def __prepare_scriptable__(self) -> RNNFunctional:
        raise RuntimeError(NO_SCRIPT)


def _made_at_once(
    rnn: StableRNN, raw: Tensor, frequency: Tensor | None, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Rate, turn, U and b of a nonlinear recurrence, by few kernels."""
    first, scale = fused_coefficients(rnn, raw, frequency, None)
    rate, turn = (first, None) if frequency is None else first.unbind()
    if rnn.hidden_size % 2 and rnn.oscillating:
        weight, bias = F.pad(weight, (0, 0, 0, 1)), F.pad(bias, (0, 1))
    encoder, gained = amplified(weight, bias, scale)
    return rate, turn, encoder, bias if gained is None else gained


_FUNCTIONAL, _LINEAR = Kind(RNNFunctional), Kind(nn.Linear)


def is_plain(model: nn.Module) -> TypeGuard[RNNFunctional]:
    """Whether a model is the equation of its class, of one layer in one direction: all shortcuts ask this.

    Its parts do no more than their classes say (`plain.py`).
    """
    return (
        isinstance(model, RNNFunctional)
        and behaves_as(model, _FUNCTIONAL)
        and holds(model, {}, parts=("rnn", "readout"))
        and is_plain_layer(model.rnn)
        and _is_plain_linear(model.readout, model.rnn.hidden_size)
        and are_distinct((model.rnn, model.readout))
    )


def reads_out_states(model: nn.Module) -> TypeGuard[RNNFunctional]:
    """Whether a model is a read-out, of any kind, of the states of a `StableRNN`."""
    is_ours = isinstance(model, RNNFunctional) and behaves_as(model, _FUNCTIONAL, or_inherits=True)
    return is_ours and is_stable_rnn(model.get_submodule("rnn"))


def _is_plain_linear(readout: nn.Linear, width: int) -> bool:
    if not behaves_as(readout, _LINEAR):
        return False
    shapes = {"weight": (readout.out_features, width), "bias": (readout.out_features,)}
    return holds(readout, shapes, optional=("bias",))

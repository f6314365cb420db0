"""Streams: steps with coefficients that are made once, where a layer makes them anew in every call.

`prepared` makes them when it is asked to, and keeps them, whatever happens to the layer. A layer's own `step` remembers
them where nobody sees the difference: on the CPU and without gradients, they are made anew as soon as one number of one
weight is another. That is looked at in every step; the version counters of tensors would miss changes by `.data`.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from operator import attrgetter
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from cofm_triton.layers.autocast import autocasts, without_autocast
from cofm_triton.layers.cell import affine
from cofm_triton.layers.checks import check_input, check_state
from cofm_triton.layers.recurrences.contract import Layer, Recurrence
from cofm_triton.ops.derivatives import observed, wanted
from cofm_triton.step.activation import activation

NOT_PREPARED = (
    "needs modules that do what their classes say: without hooks (those of weight_norm included), another forward or "
    "another step, all of which step calls"
)


class Stepper:
    """The steps of a `StableRNN`, or an `RNNFunctional`, with the weights that it had when `prepared` was called.

    What is done to the layer afterwards (training, loading, moving) changes nothing here: call `prepared` again. A step
    is one or two matrix products and a few elementwise operations. It allocates its results only, where no gradients
    are recorded; it never waits for the device, so that a CUDA graph can hold it.

    Example:
        >>> from cofm_triton import StableRNN
        >>> with torch.no_grad():
        ...     stepper = StableRNN(3, 5).prepared()
        ...     output, h = stepper.step(torch.randn(2, 3))
        ...     output, h = stepper.step(torch.randn(2, 3), h)
        >>> output.shape, h.shape
        (torch.Size([2, 5]), torch.Size([1, 2, 5]))
    """

    bidirectional = False

    def __init__(
        self, layer: Layer, recurrence: Recurrence, suffixes: list[str], readout: nn.Linear | None = None
    ) -> None:
        self.input_size, self.hidden_size, self.num_layers = layer.input_size, layer.hidden_size, layer.num_layers
        with without_autocast(layer.weight_ih_l0.device):
            self._cells = [recurrence.cell(layer, suffix) for suffix in suffixes]
        self._readout = None if readout is None else _transposed(readout)
        self._act = activation(layer.nonlinearity) if recurrence.acts_on_output else None
        self._records = any(_records(values) for values in (*self._cells, self._readout or ()))

    @property
    def weight_ih_l0(self) -> Tensor:
        """What inputs must fit to: the encoder of the first layer, transposed."""
        return self._cells[0].encoder

    def step(self, x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One time step; arguments, results and errors of the layer's or the model's `step`."""
        batched = isinstance(x, Tensor) and x.dim() == 2
        check_input(self, x, (1, 2), "x", "a torch.Tensor")
        check_state(self, hx, x, x.shape[0] if batched else None)
        in_place = not (self._records or torch.compiler.is_compiling() or wanted(x, hx))
        y, states = x if batched else x.unsqueeze(0), []
        for k, cell in enumerate(self._cells):
            start = None if hx is None else hx[k] if batched else hx[k : k + 1]
            h, dtype = cell.advance(y, start, self.hidden_size, in_place=in_place)
            states.append(h)
            y = h if h.dtype == dtype else h.to(dtype)
            y = y if self._act is None else self._act(y)
        if self._readout is not None:
            y = affine(y, *self._readout)
        elif y is h:
            y = h.clone()  # who changes the output in place does not mean the state
        h_n = h.unsqueeze(0) if len(states) == 1 else torch.stack(states)
        h_n = h_n if hx is None or h_n.dtype == hx.dtype else h_n.to(hx.dtype)
        return (y, h_n) if batched else (y.squeeze(0), h_n.squeeze(1))


def _transposed(readout: nn.Linear) -> tuple[Tensor, Tensor | None]:
    bias: Tensor | None = readout.bias
    return readout.weight.T.clone(**_LAYOUT), None if bias is None else bias.clone()


def _records(values: Iterable[Any]) -> bool:
    return any(isinstance(value, Tensor) and value.requires_grad for value in values)


class _Remembered(NamedTuple):
    options: Any
    values: dict[str, Tensor | None]
    stepper: Stepper


# Steppers of layers that were stepped, each with a copy of the weights it was made of.
_REMEMBERED: WeakKeyDictionary[nn.Module, _Remembered] = WeakKeyDictionary()
_PLAIN = (Tensor, nn.Parameter)
_LAYOUT: Any = dict(memory_format=torch.contiguous_format)
_difference = ctypes.CDLL("msvcrt" if os.name == "nt" else None).memcmp
_difference.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_options = attrgetter(
    "nonlinearity", "parameterization", "recurrence", "dt", "discretization", "constrained", "oscillating",
    "normalize_input", "max_time_scale", "learnable_dt", "gated", "num_layers",
)  # fmt: skip


def remembered(
    layer: Layer, recurrence: Recurrence, suffixes: list[str], names: Any, x: Tensor, hx: Tensor | None
) -> Stepper | None:
    """The stepper of a layer's weights as they are now, if a step on x and hx may be one of it.

    Args:
        layer: a plain one (`modules/plain.py`).
        recurrence: its row.
        suffixes: of its layers, first to last.
        names: gives the names of its parameters.
        x: of the step, not checked.
        hx: of the step, not checked.
    """
    drops = layer.training and layer.dropout > 0
    if torch.is_grad_enabled() or layer.backend is not None or drops or observed(()):
        return None
    if not _is_plain(x) or not (hx is None or _is_plain(hx)) or autocasts(x.device):
        return None
    values, found = layer._parameters, _REMEMBERED.get(layer)
    if found is not None and found.options == _options(layer) and _are_same(values, found.values):
        return found.stepper
    is_plain = all(value is None or _is_plain(value) for value in values.values())
    if layer._modules or layer._buffers or values.keys() != names().keys() or not is_plain:
        return None
    copies = {name: None if value is None else value.detach().clone(**_LAYOUT) for name, value in values.items()}
    _REMEMBERED[layer] = _Remembered(_options(layer), copies, Stepper(layer, recurrence, suffixes))
    return _REMEMBERED[layer].stepper


def _is_plain(value: Tensor) -> bool:
    return type(value) in _PLAIN and value.is_cpu


def _are_same(values: Any, copies: dict[str, Tensor | None]) -> bool:
    return values.keys() == copies.keys() and all(_is_same(values[name], copy) for name, copy in copies.items())


def _is_same(value: Tensor | None, copy: Tensor | None) -> bool:
    """Whether a parameter still has the bits of its copy. `torch.equal` would take ten times as long."""
    if value is None or copy is None:
        return value is copy
    alike = _is_plain(value) and value.dtype == copy.dtype and value.shape == copy.shape and value.is_contiguous()
    return alike and _difference(value.data_ptr(), copy.data_ptr(), copy.nbytes) == 0

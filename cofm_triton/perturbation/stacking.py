"""Our models as stacked coefficients (`cells.py`): which ones are understood, and K copies of one from its parameters.

Everything here is differentiable by autograd.
"""

from collections.abc import Mapping
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.func import vmap

from cofm_triton.layers.stable_rnn import RNNFunctional, StableRNN, is_plain
from cofm_triton.modules.module_state import OtherTensors
from cofm_triton.step.coefficients import in_modes, step_coefficients
from cofm_triton.step.parameterization import parameterization
from cofm_triton.step.stacked_cells import StackedCells

RATE, FREQUENCY, ENCODER, BIAS = "rnn.rate_l0", "rnn.frequency_l0", "rnn.weight_ih_l0", "rnn.bias_l0"
READOUT, OFFSET = "readout.weight", "readout.bias"

WIDEST_PAIRS = 256  # units up to which a matrix of blocks is faster than calls of the layer


def is_stackable(model: nn.Module) -> TypeGuard[RNNFunctional]:
    """Whether `stack` understands the model: one layer, one direction, and nothing but what its class says.

    Pairs of units that are read out through a nonlinearity have no form that a sweep knows, and those of wide layers
    with a nonlinearity inside are faster by calls of the layer than by a matrix.
    """
    if not is_plain(model):
        return False
    rnn = model.rnn
    if not rnn.oscillating or rnn.nonlinearity == "linear":
        return True
    return rnn.recurrence == "diagonal" and rnn.hidden_size <= WIDEST_PAIRS


def has_modes(model: nn.Module) -> TypeGuard[RNNFunctional]:
    """Whether `stack` gives the model one rate per unit, a complex one per pair."""
    if not is_stackable(model):
        return False
    rnn = model.rnn
    if rnn.oscillating:
        return rnn.nonlinearity == "linear"
    return rnn.recurrence in ("diagonal", "ssm") or _is_turned(rnn)


def _is_turned(rnn: StableRNN) -> bool:
    """Whether a linear recurrence is diagonal in an orthogonal basis."""
    return rnn.recurrence == "orthogonal" and rnn.constrained and rnn.nonlinearity == "linear"


def stack(model: RNNFunctional, parameters: Mapping[str, Tensor]) -> StackedCells:
    """Coefficients of K copies of a model.

    Args:
        model: a stackable model (see `is_stackable`); gives the options, not the values.
        parameters: {name as in `named_parameters()`: (K, *shape) float64}.

    Raises:
        ValueError: any other model.
    """
    if not is_stackable(model):
        raise ValueError(f"model must be a plain RNNFunctional of one layer and direction, got {type(model).__name__}")
    rnn = model.rnn
    raw = parameters[RATE]
    encoder, readout = parameters[ENCODER], parameters[READOUT]
    bias = parameters.get(BIAS, encoder.new_zeros(encoder.shape[:2]))
    offset = parameters.get(OFFSET, readout.new_zeros(readout.shape[:2]))
    if _is_turned(rnn):
        (basis,) = _recurrent(_Basis(rnn), parameters)
        encoder, bias, readout = basis @ encoder, (basis @ bias[..., None])[..., 0], readout @ basis.mT
    elif rnn.recurrence in ("orthogonal", "dense"):
        matrix, encoder, bias = _recurrent(_Step(rnn), parameters)
        return StackedCells(matrix, encoder, bias, readout, offset, rnn.dt, rnn.nonlinearity, "linear")
    step = step_coefficients(rnn, raw, parameters.get(FREQUENCY), encoder, bias)
    if rnn.oscillating:
        readout = in_modes(readout).conj().resolve_conj()  # Re(conj(C) H) = c[2k] h[2k] + c[2k+1] h[2k+1]
    return StackedCells(step.rate, step.encoder, step.bias, readout, offset, step.dt, step.act_in, step.act_out)


class _Basis(nn.Module):
    """P of an orthogonal layer, as a function of its parameters."""

    def __init__(self, rnn: StableRNN) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self) -> tuple[Tensor, ...]:
        return (self.rnn.basis(),)


class _Step(_Basis):
    """A, U' and b' of a layer, as functions of its parameters."""

    def forward(self) -> tuple[Tensor, ...]:
        rate = parameterization(self.rnn.parameterization).rate(self.rnn.rate_l0)
        matrix, encoder, bias = self.rnn.step_coefficients("_l0", rate)
        return matrix, encoder, torch.zeros_like(rate) if bias is None else bias


def _recurrent(module: _Basis, parameters: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """What the module makes of K copies of the layer's parameters, float64."""
    layer = {name: value for name, value in parameters.items() if name.startswith("rnn.")}

    def compute(one: dict[str, Tensor]) -> tuple[Tensor, ...]:
        with OtherTensors(module, one, dtype=torch.float64):
            return module.forward()

    made: tuple[Tensor, ...] = vmap(compute)(layer)
    return made

"""Our models as stacked coefficients (`cells.py`): which ones are understood, and K copies of one from its parameters.

Everything here is differentiable by autograd.
"""

from collections.abc import Mapping
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from cofm_triton.cells import StackedCells
from cofm_triton.discretization import effective_rate, linear_gain
from cofm_triton.layers import RNNFunctional, StableRNN, has_hooks, has_plain_parts
from cofm_triton.parameterization import parameterization

RATE, ENCODER, BIAS = "rnn.rate_l0", "rnn.weight_ih_l0", "rnn.bias_l0"
READOUT, OFFSET = "readout.weight", "readout.bias"
# What a recurrence has besides: the matrix, or what an orthogonal one is made of.
_MATRICES = {
    ("dense", True): "rnn.weight_hh_l0",
    ("dense", False): "rnn.weight_hh_l0",
    ("orthogonal", True): "rnn.parametrizations.basis_l0.original",
    ("orthogonal", False): "rnn.basis_l0",
}


def is_stackable(model: nn.Module) -> TypeGuard[RNNFunctional]:
    """Whether `stack` understands the model: one layer, one direction.

    Subclasses and modules with hooks, other parts, extra or re-parametrised tensors may compute anything: not them.
    """
    if type(model) is not RNNFunctional or has_hooks(model) or not has_plain_parts(model):
        return False
    if model.rnn.normalize_input or model.rnn.oscillating:
        return False
    names = {name for name, _ in model.named_parameters()}
    matrix = _MATRICES.get((model.rnn.recurrence, model.rnn.constrained))
    needed = {RATE, ENCODER, READOUT} | ({matrix} if matrix else set())
    return needed <= names <= needed | {BIAS, OFFSET}


def has_modes(model: nn.Module) -> TypeGuard[RNNFunctional]:
    """Whether `stack` gives the model one rate per unit."""
    return is_stackable(model) and (model.rnn.recurrence in ("diagonal", "ssm") or _is_turned(model.rnn))


def _is_turned(rnn: StableRNN) -> bool:
    """Whether a linear recurrence is diagonal in an orthogonal basis."""
    return rnn.recurrence == "orthogonal" and rnn.constrained and rnn.nonlinearity == "linear"


def stack(model: RNNFunctional, parameters: Mapping[str, Tensor]) -> StackedCells:
    """Coefficients of K copies of a model.

    Args:
        model: a stackable model (see `is_stackable`); gives the options, not the values.
        parameters: {name as in `named_parameters()`: (K, *shape) float64}.
    """
    rnn = model.rnn
    raw = parameters[RATE]
    encoder, readout = parameters[ENCODER], parameters[READOUT]
    bias = parameters.get(BIAS, torch.zeros_like(raw))
    offset = parameters.get(OFFSET, readout.new_zeros(readout.shape[:2]))
    if _is_turned(rnn):
        (basis,) = _recurrent(_Basis(rnn), parameters)
        encoder, bias, readout = basis @ encoder, (basis @ bias[..., None])[..., 0], readout @ basis.mT
    elif rnn.recurrence in ("orthogonal", "dense"):
        return _stack_dense(rnn, parameters, encoder, bias, readout, offset)
    rate = parameterization(rnn.parameterization).rate(raw)
    step_rate = effective_rate(rate, rnn.dt, rnn.discretization)
    if rnn.recurrence == "diagonal" and rnn.nonlinearity != "linear":
        return StackedCells(step_rate, encoder, bias, readout, offset, rnn.dt, rnn.nonlinearity, "linear")
    # h <- l h + g e is a step of length 1 with a = 1 - l; as 1 - l = dt * effective_rate it
    # keeps its relative accuracy for slow modes.
    gain = linear_gain(rate, rnn.dt, rnn.discretization)
    act_out = rnn.nonlinearity if rnn.recurrence == "ssm" else "linear"
    encoder, bias = gain[..., None] * encoder, gain * bias
    return StackedCells(rnn.dt * step_rate, encoder, bias, readout, offset, 1.0, "linear", act_out)


def _stack_dense(
    rnn: StableRNN, parameters: Mapping[str, Tensor], encoder: Tensor, bias: Tensor, readout: Tensor, offset: Tensor
) -> StackedCells:
    """Coefficients of copies whose a is a matrix."""
    matrix, gain = _recurrent(_StepMatrices(rnn), parameters)
    if rnn.nonlinearity == "linear":
        encoder, bias = gain @ encoder, (gain @ bias[..., None])[..., 0]
    return StackedCells(matrix, encoder, bias, readout, offset, rnn.dt, rnn.nonlinearity, "linear")


class _Basis(nn.Module):
    """P of an orthogonal layer, as a function of its parameters."""

    def __init__(self, rnn: StableRNN) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self) -> tuple[Tensor, ...]:
        return (self.rnn.basis_l0,)


class _StepMatrices(_Basis):
    """A and G of a layer, as functions of its parameters."""

    def forward(self) -> tuple[Tensor, ...]:
        rate = parameterization(self.rnn.parameterization).rate(self.rnn.rate_l0)
        matrix, gain = self.rnn.step_matrices("_l0", rate)
        return matrix, matrix.new_zeros(()) if gain is None else gain


def _recurrent(module: _Basis, parameters: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """What the module makes of K copies of the layer's parameters, float64."""
    buffers = {name: buffer.double() for name, buffer in module.named_buffers()}
    layer = {name: value for name, value in parameters.items() if name.startswith("rnn.")}

    def compute(one: dict[str, Tensor]) -> tuple[Tensor, ...]:
        result: tuple[Tensor, ...] = functional_call(module, {**buffers, **one}, ())
        return result

    made: tuple[Tensor, ...] = vmap(compute)(layer)
    return made

"""Our models as stacked coefficients (`stacked_cells.py`): which ones are understood, and K copies of one.

Everything here is differentiable by autograd.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.func import vmap

from cofm_triton.layers.rnn_functional import RNNFunctional, is_plain
from cofm_triton.layers.stable_rnn import StableRNN
from cofm_triton.step.activations import properties
from cofm_triton.step.coefficients import (
    constrained_matrix,
    has_linear_state,
    in_modes,
    matrix_coefficients,
    rates,
    step_coefficients,
)
from cofm_triton.step.stacked_cells import StackedCells, join

RATE, FREQUENCY, LOG_DT, ENCODER, BIAS = (
    "rnn.rate_l0",
    "rnn.frequency_l0",
    "rnn.log_dt_l0",
    "rnn.weight_ih_l0",
    "rnn.bias_l0",
)
BASIS, MATRIX = "rnn.basis_l0", "rnn.weight_hh_l0"
READOUT, OFFSET = "readout.weight", "readout.bias"

WIDEST_PAIRS = 256  # units up to which a matrix of blocks is faster than calls of the layer


def is_stackable(model: nn.Module) -> TypeGuard[RNNFunctional]:
    """Whether `stack` understands the model: one layer, one direction, and nothing but what its class says.

    Units with steps of their own are called, not stacked. So are pairs of wide layers with a nonlinearity inside: calls
    of the layer are faster than a matrix.
    """
    if not is_plain(model) or model.rnn.learnable_dt:
        return False
    rnn = model.rnn
    return not rnn.oscillating or has_linear_state(rnn) or rnn.hidden_size <= WIDEST_PAIRS


def has_modes(model: nn.Module) -> TypeGuard[RNNFunctional]:
    """Whether `stack` gives the model one rate per unit, a complex one per pair."""
    if not is_stackable(model):
        return False
    rnn = model.rnn
    if rnn.oscillating:
        return has_linear_state(rnn)
    return rnn.recurrence in ("diagonal", "ssm") or _is_turned(rnn)


def _is_turned(rnn: StableRNN) -> bool:
    """Whether a linear recurrence is diagonal in an orthogonal basis."""
    return rnn.recurrence == "orthogonal" and rnn.constrained and properties(rnn.nonlinearity).is_linear


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
        basis = vmap(partial(constrained_matrix, rnn))(parameters[BASIS])
        encoder, bias, readout = basis @ encoder, (basis @ bias[..., None])[..., 0], readout @ basis.mT
    elif rnn.recurrence in ("orthogonal", "dense"):
        layer = {name: value for name, value in parameters.items() if name.startswith("rnn.")}
        matrix, encoder, bias = vmap(partial(_matrix_step, rnn))(layer)
        return StackedCells(matrix, encoder, bias, readout, offset, rnn.dt, rnn.nonlinearity, "linear")
    step = step_coefficients(rnn, raw, parameters.get(FREQUENCY), encoder, bias)
    if rnn.oscillating:
        readout = in_modes(readout).conj().resolve_conj()  # Re(conj(C) H) = c[2k] h[2k] + c[2k+1] h[2k+1]
    return StackedCells(step.rate, step.encoder, step.bias, readout, offset, step.dt, step.act_in, step.act_out)


def stack_together(
    family: Sequence[tuple[nn.Module, Mapping[str, Tensor]]], *, linear: bool
) -> Iterator[tuple[list[int], list[int], StackedCells]]:
    """Copies of models of any widths, joined where their nonlinearities, steps, inputs and outputs agree.

    Args:
        family: models and the parameters of their copies; those without one rate per unit are passed by.
        linear: whether linear models are stacked too.

    Yields:
        Places of models in the family, how many copies each has, and all of these.
    """
    groups: dict[tuple[object, ...], list[tuple[int, StackedCells]]] = {}
    for index, (model, parameters) in enumerate(family):
        if has_modes(model) and (linear or not properties(model.rnn.nonlinearity).is_linear):
            cells = stack(model, parameters)
            groups.setdefault(cells.kind, []).append((index, cells))
    for members in groups.values():
        parts = [cells for _, cells in members]
        yield [index for index, _ in members], [part.count for part in parts], join(parts)


def _matrix_step(rnn: StableRNN, one: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """A, U' and b' of one copy."""
    rate, matrix = rates(rnn, one[RATE]), constrained_matrix(rnn, one[BASIS if BASIS in one else MATRIX])
    matrix, encoder, bias = matrix_coefficients(rnn, rate, matrix, one[ENCODER], one.get(BIAS))
    return matrix, encoder, torch.zeros_like(rate) if bias is None else bias

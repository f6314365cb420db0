"""K one-layer models of one shape as stacked coefficients: what the sweeps compute with.

Every model that the fused path knows is one recurrence with a read-out,

    h[k+1] = h[k] + dt act_in(U x[k] + b - a h[k]),  h[0] = 0,  y[k] = c^T act_out(h[k+1]) + d

where the parameterisation and the discretisation are already inside a, U, b and dt, and at most
one of the two nonlinearities is not linear. Everything here is differentiable by autograd.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeGuard

import torch
from torch import Tensor, nn

from cofm_triton.discretization import effective_rate, linear_gain
from cofm_triton.layers import RNNFunctional
from cofm_triton.parameterization import parameterization

RATE, ENCODER, BIAS = "rnn.rate_l0", "rnn.weight_ih_l0", "rnn.bias_l0"
READOUT, OFFSET = "readout.weight", "readout.bias"


@dataclass(frozen=True)
class StackedCells:
    """Coefficients of K models of width m with d inputs and p outputs, float64.

    Attributes:
        rate: (K, m), a.
        encoder: (K, m, d), U.
        bias: (K, m), b.
        readout: (K, p, m), c.
        offset: (K, p), d.
        dt: step.
        act_in, act_out: names of the nonlinearities, one of them "linear".
    """

    rate: Tensor
    encoder: Tensor
    bias: Tensor
    readout: Tensor
    offset: Tensor
    dt: float
    act_in: str
    act_out: str

    @property
    def count(self) -> int:
        """K."""
        return self.rate.shape[0]

    @property
    def is_linear(self) -> bool:
        """Whether y is a linear (affine) functional of x."""
        return self.act_in == self.act_out == "linear"

    def __getitem__(self, models: slice | Tensor) -> "StackedCells":
        """Some of the models."""
        return replace(
            self,
            rate=self.rate[models],
            encoder=self.encoder[models],
            bias=self.bias[models],
            readout=self.readout[models],
            offset=self.offset[models],
        )


def is_stackable(model: nn.Module) -> TypeGuard[RNNFunctional]:
    """Whether `stack` understands the model: one diagonal or ssm layer, one direction.

    Subclasses and modules with extra or re-parametrised tensors may compute anything: not them.
    """
    if type(model) is not RNNFunctional or model.rnn.recurrence not in ("diagonal", "ssm"):
        return False
    if model.rnn.normalize_input:
        return False
    names = {name for name, _ in model.named_parameters()}
    return {RATE, ENCODER, READOUT} <= names <= {RATE, ENCODER, BIAS, READOUT, OFFSET}


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
    rate = parameterization(rnn.parameterization).rate(raw)
    step_rate = effective_rate(rate, rnn.dt, rnn.discretization)
    if rnn.recurrence == "diagonal" and rnn.nonlinearity != "linear":
        return StackedCells(step_rate, encoder, bias, readout, offset, rnn.dt, rnn.nonlinearity, "linear")
    # h <- l h + g e is a step of length 1 with a = 1 - l; as 1 - l = dt * effective_rate it
    # keeps its relative accuracy for slow modes.
    gain = linear_gain(rate, rnn.dt, rnn.discretization)
    return StackedCells(
        rnn.dt * step_rate,
        gain[..., None] * encoder,
        gain * bias,
        readout,
        offset,
        1.0,
        "linear",
        rnn.nonlinearity,
    )


def impulse_response(cells: StackedCells, length: int) -> Tensor:
    """Kernels of linear models: y[k] = sum_{s <= k} kernel[s] (x, 1)[k - s].

        kernel[s] = sum_i dt c_i (U_i, b_i) (1 - dt a_i)^s + (0, d) [s = 0]

    Args:
        cells: K linear models.
        length: T.

    Returns:
        (K, p, d + 1, T) in the dtype of the cells; the last channel is the constant input 1.
    """
    drive = torch.cat((cells.encoder, cells.bias[..., None]), -1)
    weights = cells.dt * torch.einsum("kqi,kic->kqci", cells.readout, drive)
    kernel = torch.einsum("kqci,kit->kqct", weights, powers(1 - cells.dt * cells.rate, length))
    start = torch.zeros_like(kernel[:, :, -1])
    start[..., 0] = 1
    offset = start * cells.offset[..., None]
    return torch.cat((kernel[:, :, :-1], (kernel[:, :, -1] + offset)[:, :, None]), 2)


def powers(base: Tensor, length: int) -> Tensor:
    """base^s for s = 0..length-1 in a new last dimension, by doubling: any sign, any gradient."""
    result = torch.ones_like(base)[..., None]
    step = base
    while result.shape[-1] < length:
        result = torch.cat((result, result * step[..., None]), -1)
        step = step * step
    return result[..., :length]

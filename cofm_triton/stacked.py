"""K one-layer models of one shape as stacked coefficients: what the sweeps compute with.

Every model that the fused path knows is one recurrence with a read-out,

    h[k+1] = h[k] + dt act_in(U x[k] + b - a h[k]),  h[0] = 0,  y[k] = c^T act_out(h[k+1]) + d

where the parameterisation and the discretisation are already inside a, U, b and dt, and at most
one of the two nonlinearities is not linear. a is one rate per unit, or a matrix where the recurrence
is dense or orthogonal; linear orthogonal ones are turned into their basis, where they are diagonal.
Everything here is differentiable by autograd.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import pad

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


@dataclass(frozen=True)
class StackedCells:
    """Coefficients of K models of width m with d inputs and p outputs, float64.

    Attributes:
        rate: (K, m), a, or (K, m, m) if it is a matrix.
        encoder: (K, m, d), U.
        bias: (K, m), b.
        readout: (K, p, m), c.
        offset: (K, p), d.
        dt: step.
        act_in, act_out: names of the nonlinearities, one of them "linear".
        widths: (K,) int64, how many units each model has; the rest of its m are inert (all
            coefficients 0). None: m.

    Raises:
        ValueError: neither nonlinearity is linear.
    """

    rate: Tensor
    encoder: Tensor
    bias: Tensor
    readout: Tensor
    offset: Tensor
    dt: float
    act_in: str
    act_out: str
    widths: Tensor | None = None

    def __post_init__(self) -> None:
        if "linear" not in (self.act_in, self.act_out):
            raise ValueError(f"one of act_in and act_out must be 'linear', got {self.act_in!r} and {self.act_out!r}")

    @property
    def count(self) -> int:
        """K."""
        return self.rate.shape[0]

    @property
    def is_dense(self) -> bool:
        """Whether a is a matrix."""
        return self.rate.dim() == 3

    @property
    def is_linear(self) -> bool:
        """Whether y is a linear (affine) functional of x."""
        return self.act_in == self.act_out == "linear"

    def __getitem__(self, models: slice | Tensor) -> "StackedCells":
        """Some of the models."""
        some = self._each(lambda value: value[models])
        return some if self.widths is None else replace(some, widths=self.widths[models])

    @property
    def kind(self) -> tuple[object, ...]:
        """What models must share to be joined."""
        return (self.dt, self.act_in, self.act_out, self.encoder.shape[2], self.offset.shape[1], self.rate.device)

    def widened(self, width: int) -> "StackedCells":
        """The same with m = width: more units, all inert, or fewer, where the rest is inert."""
        more = width - self.rate.shape[1]
        rate, bias = (pad(value, (0, more)) for value in (self.rate, self.bias))
        encoder, readout = pad(self.encoder, (0, 0, 0, more)), pad(self.readout, (0, more))
        return replace(self, rate=rate, bias=bias, encoder=encoder, readout=readout)

    def as_leaves(self) -> "StackedCells":
        """The same numbers without their history, for derivatives by them."""
        return self._each(lambda value: value.detach().requires_grad_())

    def to(self, device: torch.device | str) -> "StackedCells":
        """The same on a device."""
        return self._each(lambda value: value.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "StackedCells":
        """The same with every coefficient changed."""
        rate, encoder, bias, readout, offset = map(
            change, (self.rate, self.encoder, self.bias, self.readout, self.offset)
        )
        return replace(self, rate=rate, encoder=encoder, bias=bias, readout=readout, offset=offset)


def join(parts: Sequence[StackedCells]) -> StackedCells:
    """Models of different width, one rate per unit, as one: narrow ones get inert units, whose states stay at zero.

    Args:
        parts: of the same inputs, outputs, step and nonlinearities.
    """
    width = max(part.rate.shape[1] for part in parts)
    wide = [part.widened(width) for part in parts]
    rate, bias, encoder, readout, offset = (
        torch.cat(column)
        for column in zip(*((w.rate, w.bias, w.encoder, w.readout, w.offset) for w in wide), strict=True)
    )
    widths = torch.cat([torch.full((part.count,), part.rate.shape[1], device=part.rate.device) for part in parts])
    return replace(parts[0], rate=rate, bias=bias, encoder=encoder, readout=readout, offset=offset, widths=widths)


def is_stackable(model: nn.Module) -> TypeGuard[RNNFunctional]:
    """Whether `stack` understands the model: one layer, one direction.

    Subclasses and modules with hooks, other parts, extra or re-parametrised tensors may compute anything: not them.
    """
    if type(model) is not RNNFunctional or has_hooks(model) or not has_plain_parts(model) or model.rnn.normalize_input:
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


def impulse_response(cells: StackedCells, length: int) -> Tensor:
    """Kernels of linear models: y[k] = sum_{s <= k} kernel[s] (x, 1)[k - s].

        kernel[s] = dt c^T (1 - dt a)^s (U, b) + (0, d) [s = 0]

    Args:
        cells: K linear models.
        length: T.

    Returns:
        (K, p, d + 1, T) in the dtype of the cells; the last channel is the constant input 1.
    """
    drive = cells.dt * torch.cat((cells.encoder, cells.bias[..., None]), -1)
    if cells.is_dense:
        states = [drive]
        for _ in range(length - 1):
            states.append(states[-1] - cells.dt * (cells.rate @ states[-1]))
        kernel = torch.einsum("kqi,tkic->kqct", cells.readout, torch.stack(states))
    else:
        weights = torch.einsum("kqi,kic->kqci", cells.readout, drive)
        # (1 - dt a)^s with s = j n + i, n = sqrt(T): 2 n powers of a unit instead of T, and a product of matrices.
        each = math.isqrt(length - 1) + 1
        base = 1 - cells.dt * cells.rate
        low = powers(base, each)
        high = powers(low[..., -1] * base, -(-length // each))
        blocks = weights[..., None, :] * high.mT[:, None, None]  # (k, q, c, j, i)
        kernel = (blocks.flatten(1, 3) @ low).view(*blocks.shape[:-1], each).flatten(3)[..., :length]
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

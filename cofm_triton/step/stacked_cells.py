"""K one-layer models of one shape as stacked coefficients: what the sweeps compute with.

Every model that the fused path knows is one recurrence with a read-out,

    h[k+1] = h[k] + dt act_in(U x[k] + b - a h[k]),  h[0] = 0,  y[k] = c^T act_out(h[k+1]) + d

where the parameterisation and the discretisation are already inside a, U, b and dt, and at most
one of the two nonlinearities is not linear. a is one rate per unit, or a matrix where the recurrence
is dense or orthogonal; linear orthogonal ones are turned into their basis, where they are diagonal. Pairs of units that
oscillate are complex units, whose two parts act takes one by one, and y is the real part.
Everything here is differentiable by autograd. Models are taken apart in `perturbation/stacking.py`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from cofm_triton.step.activations import properties
from cofm_triton.step.pairs import as_reals


@dataclass(frozen=True)
class StackedCells:
    """Coefficients of K models of width m with d inputs and p outputs, float64 or complex128.

    Attributes:
        rate: (K, m), a, or (K, m, m) if it is a matrix; complex, as are encoder, bias and readout, if units are pairs.
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
        if not (properties(self.act_in).is_linear or properties(self.act_out).is_linear):
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
    def is_complex(self) -> bool:
        """Whether units are pairs."""
        return self.rate.is_complex()

    @property
    def is_linear(self) -> bool:
        """Whether y is a linear (affine) functional of x."""
        return properties(self.act_in).is_linear and properties(self.act_out).is_linear

    @property
    def is_odd(self) -> bool:
        """Whether -x answers as x does, up to the sign."""
        return all(properties(name).is_odd for name in (self.act_in, self.act_out)) and not bool(self.bias.any())

    def __getitem__(self, models: slice | Tensor) -> "StackedCells":
        """Some of the models."""
        some = self._each(lambda value: value[models])
        return some if self.widths is None else replace(some, widths=self.widths[models])

    @property
    def kind(self) -> tuple[object, ...]:
        """What models must share to be joined."""
        sizes = self.encoder.shape[2], self.offset.shape[1]
        return (self.dt, self.act_in, self.act_out, *sizes, self.rate.dtype, self.rate.device)

    def widened(self, width: int) -> "StackedCells":
        """The same with m = width: more units, all inert, or fewer, where the rest is inert."""
        more = width - self.rate.shape[1]
        rate, bias = (pad(value, (0, more)) for value in (self.rate, self.bias))
        encoder, readout = pad(self.encoder, (0, 0, 0, more)), pad(self.readout, (0, more))
        return replace(self, rate=rate, bias=bias, encoder=encoder, readout=readout)

    def as_dense(self) -> "StackedCells":
        """Pairs as two real units each, which the matrix a = [[Re a, -Im a], [Im a, Re a]] turns into each other."""
        count, pairs = self.rate.shape
        a, b = self.rate.real, self.rate.imag
        blocks = torch.stack((a, -b, b, a), -1).view(count, pairs, 2, 2)
        apart = torch.eye(pairs, dtype=a.dtype, device=a.device)
        matrix = torch.einsum("kiab,ij->kiajb", blocks, apart).reshape(count, 2 * pairs, 2 * pairs)
        encoder, bias, readout = self.of_units()
        return StackedCells(matrix, encoder, bias, readout, self.offset, self.dt, self.act_in, self.act_out)

    def of_units(self) -> tuple[Tensor, Tensor, Tensor]:
        """Encoder, bias and read-out of real units, of which a pair is two."""
        if not self.is_complex:
            return self.encoder, self.bias, self.readout
        return as_reals(self.encoder.mT).mT, as_reals(self.bias), as_reals(self.readout.conj())

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


def impulse_response(cells: StackedCells, length: int) -> Tensor:
    """Kernels of linear models: y[k] = sum_{s <= k} kernel[s] (x, 1)[k - s].

        kernel[s] = dt c^T (1 - dt a)^s (U, b) + (0, d) [s = 0]

    Args:
        cells: K linear models.
        length: T.

    Returns:
        (K, p, d + 1, T) in the dtype of the offset; the last channel is the constant input 1.
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
        kernel = _real_product(blocks.flatten(1, 3), low).view(*blocks.shape[:-1], each).flatten(3)[..., :length]
    start = torch.zeros_like(kernel[:, :, -1])
    start[..., 0] = 1
    offset = start * cells.offset[..., None]
    return torch.cat((kernel[:, :, :-1], (kernel[:, :, -1] + offset)[:, :, None]), 2)


def _real_product(left: Tensor, right: Tensor) -> Tensor:
    """The real part of left @ right, (K, n, m) and (K, m, s): a product of real matrices of twice the inner size."""
    if not left.is_complex():
        return left @ right
    return as_reals(left) @ as_reals(right.mT.conj()).mT


def powers(base: Tensor, length: int) -> Tensor:
    """base^s for s = 0..length-1 in a new last dimension, by doubling: any sign, any gradient."""
    result = torch.ones_like(base)[..., None]
    step = base
    while result.shape[-1] < length:
        result = torch.cat((result, result * step[..., None]), -1)
        step = step * step
    return result[..., :length]

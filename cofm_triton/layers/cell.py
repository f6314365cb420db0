"""One step of one layer, with coefficients that are given: what streams run.

    linear state     h' = l h + U x + b
    nonlinear act    h' = h + dt act(U x + b - a h)

l and a are a number for each unit, a complex one for each pair of units, or a matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cofm_triton.layers.autocast import without_autocast
from cofm_triton.ops.derivatives import exporting
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.step.activation import bodies
from cofm_triton.step.pairs import as_complex, as_reals


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """weight^T x + bias for each row of x (B, d), weight (d, n): `F.linear` without a transposition in every call."""
    return x.mm(weight) if bias is None else torch.addmm(bias, x, weight)


class StepCell(Protocol):
    """What a stream needs of one layer."""

    @property
    def encoder(self) -> Tensor:
        """What inputs are multiplied by, (d, ...)."""

    def advance(self, x: Tensor, h: Tensor | None, width: int, *, in_place: bool) -> tuple[Tensor, torch.dtype]:
        """h' of x (B, d) and h (B, width), zeros when None, in the dtype of the states; and that of the encoded input.

        `in_place`: nobody needs the numbers on the way.
        """

    def __iter__(self) -> Iterator[Any]:
        """All coefficients."""


class Cell(NamedTuple):
    """Coefficients.

    Attributes:
        encoder: U transposed, (d, D), gains included; D is even where units are pairs.
        bias: b, (D,), or None.
        back: l or -a in the dtype of the states, (D,), complex (D / 2,), or transposed (D, D).
        dt: of the nonlinear form, or one for each unit, (D,).
        act: the name of the nonlinearity; None: the state is linear.
        state: dtype of the states.
    """

    encoder: Tensor
    bias: Tensor | None
    back: Tensor
    dt: float | Tensor
    act: str | None
    state: torch.dtype

    @classmethod
    def of(
        cls, weight: Tensor, bias: Tensor | None, back: Tensor, dt: float | Tensor = 1.0, act: str | None = None
    ) -> Cell:
        """The same from U, (D, d), and coefficients of any dtype; nothing shares memory with an argument."""
        state = state_dtype(weight.dtype)
        layout: Any = dict(memory_format=torch.contiguous_format)
        return cls(
            weight.T.clone(**layout),
            None if bias is None else bias.clone(),
            back.to(state.to_complex() if back.is_complex() else state).clone(**layout),
            dt.to(state) if isinstance(dt, Tensor) else dt,
            act,
            state,
        )

    def advance(self, x: Tensor, h: Tensor | None, width: int, *, in_place: bool) -> tuple[Tensor, torch.dtype]:
        """h' of x (B, d) and h (B, width), zeros when None, in the dtype of the states; and that of the encoded input.

        `in_place`: nobody needs the numbers on the way, so that h' is the only memory that is asked for.
        """
        e = affine(x, self.encoder, self.bias)
        given, state = e.dtype, self.state
        e = e if given == state else e.to(state)
        if h is None:
            h = e.new_zeros(e.shape)
        elif h.dtype != state:
            h = h.to(state)
        if h.shape[1] < e.shape[1]:  # the partner of the single unit
            h = F.pad(h, (0, 1))
        z = self._recur(e, h, in_place)
        if self.act is not None:
            z = self._move(h, z, in_place)
        return (z if width == z.shape[1] else z[:, :width].contiguous()), given

    def _recur(self, e: Tensor, h: Tensor, in_place: bool) -> Tensor:
        """e + l h, or e - a h."""
        if self.back.dim() == 2:
            with without_autocast(h.device):
                return e.addmm_(h, self.back) if in_place else e.addmm(h, self.back)
        if not self.back.is_complex():
            return e.addcmul_(self.back, h) if in_place else e.addcmul(self.back, h)
        if exporting():  # ONNX knows products and sums of complex numbers
            return as_reals(as_complex(e) + self.back * as_complex(h))
        if not in_place:
            return as_reals(as_complex(e).addcmul(self.back, as_complex(h)))
        if h.stride(1) != 1 or h.stride(0) % 2 or h.storage_offset() % 2:
            h = h.clone(memory_format=torch.contiguous_format)
        e.view(self.back.dtype).addcmul_(self.back, h.view(self.back.dtype))
        return e

    def _move(self, h: Tensor, z: Tensor, in_place: bool) -> Tensor:
        """h + dt act(z)."""
        act = bodies(self.act or "linear")
        z, out = (act.in_place(z), z) if in_place else (act.act(z), None)
        if isinstance(self.dt, Tensor):
            return torch.addcmul(h, self.dt, z, out=out)
        return torch.add(h, z, alpha=self.dt, out=out)

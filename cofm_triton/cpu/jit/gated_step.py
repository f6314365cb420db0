"""One step of a gated layer compiled for the CPU: products, gates and recurrence in one call, for streams.

    e, p, q = U x + b      h' = decay v + gain e,   v = h, of pairs cos h + sin swap(h)

Gates are those of `gates.py`. Units are done in blocks, whose numbers never leave the registers. U lies in the order in
which it is read, [block, input, part, unit]: a step of a few rows takes as long as reading U. Nothing is allocated but
the result.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cofm_triton.cpu.jit.compiled import entry, inlined
from cofm_triton.cpu.jit.gated_rnn import flag
from cofm_triton.cpu.jit.gates import constant, formed
from cofm_triton.cpu.jit.rows import BLOCK, SAMPLES, SHARED_SAMPLES
from cofm_triton.cpu.jit.vectors import load, store, swap
from cofm_triton.step.gates import Gates

DTYPES = (torch.float32, torch.float64)
# Up to so many products, one core is done before others have been woken: beyond, BLAS is faster.
MAX_PRODUCTS = 2**20


class GatedStep:
    """Coefficients of a layer, copied.

    Args:
        encoder: U transposed, (d, n D), contiguous, of one of `DTYPES`.
        bias: b, (n D,), or None.
        rate: dt f(w), (D,), of the same dtype.
        turn: exp(i angle) of pairs, complex (D / 2,), or None.
        gates: their row.
    """

    def __init__(
        self, encoder: Tensor, bias: Tensor | None, rate: Tensor, turn: Tensor | None, gates: Gates
    ) -> None:  # fmt: skip
        self.dtype, self.width, (self.inputs, total) = encoder.dtype, len(rate), encoder.shape
        shape, wide = (total // self.width, self.width), self.width - self.width % len(BLOCK)
        panels = encoder.view(self.inputs, *shape).movedim(2, 0)  # unit, input, part
        whole = panels[:wide].unflatten(0, (-1, len(BLOCK))).permute(0, 2, 3, 1)
        self._panels = torch.cat((whole.flatten(), panels[wide:].permute(1, 2, 0).flatten()))
        self._rows = torch.zeros(shape[0] + 3, self.width, dtype=self.dtype)  # b, then bits, cos and sin
        if bias is not None:
            self._rows[:-3] = bias.view(shape)
        self._rows[-3] = rate / math.log(2)
        if turn is not None:
            self._rows[-2] = turn.real.repeat_interleave(2)
            self._rows[-1] = torch.stack((-turn.imag, turn.imag), 1).flatten()
        self._known = (
            constant(gates.name), flag(turn is not None), (0,) * shape[0], (0,) * (self.width % len(BLOCK) or 1),
            self.inputs, self.width, SAMPLES[self.dtype], SHARED_SAMPLES[self.dtype],
        )  # fmt: skip

    def takes(self, x: Tensor, h: Tensor) -> bool:
        """Whether it can be called: with plain CPU tensors whose rows lie one after the other, and not too many."""
        alike = x.dtype == h.dtype == self.dtype and x.is_contiguous() and h.is_contiguous()
        return alike and x.shape[0] * self._panels.shape[0] <= MAX_PRODUCTS

    def __call__(self, x: Tensor, h: Tensor) -> Tensor:
        """h' of x (B, d) and h, both (B, D)."""
        result = torch.empty_like(h)
        tensors = (self._panels, self._rows, x, h, result)  # a copy of this object has its own
        _step(*self._known, x.shape[0], *[tensor.data_ptr() for tensor in tensors])
        return result


@inlined
def _units(
    kind: Any, turning: Any, parts: Any, lanes: Any, begin: int, end: int, inputs: int, sample: Any, shared: Any,
    panels: int, rows: int, row: int, x: int, before: int, result: int,
) -> None:  # fmt: skip
    size = sample.itemsize
    for k in range((end - begin) // len(lanes)):
        at = (begin + k * len(lanes)) * size
        value, p = load(lanes, rows + at, sample), load(lanes, rows + row + at, sample)
        q = load(lanes, rows + (len(parts) - 1) * row + at, sample)
        panel, step = panels + at * inputs * len(parts), len(lanes) * size
        for i in range(inputs):
            given = load(lanes, x + i * size, shared)
            value = value + given * load(lanes, panel, sample)
            p = p + given * load(lanes, panel + step, sample)
            if len(parts) == 3:
                q = q + given * load(lanes, panel + 2 * step, sample)
            panel += len(parts) * step
        coefficients, v = rows + len(parts) * row + at, load(lanes, before + at, sample)
        if len(turning) == 1:
            cos, sin = load(lanes, coefficients + row, sample), load(lanes, coefficients + 2 * row, sample)
            v = cos * v + sin * swap(v)
        decay, gain = formed(kind, load(lanes, coefficients, sample), p, q)
        store(decay * v + gain * value, result + at, sample, False)


@entry
def _step(
    kind: Any, turning: Any, parts: Any, lanes: Any, inputs: int, width: int, sample: Any, shared: Any, batch: int,
    panels: int, rows: int, x: int, before: int, result: int,
) -> None:  # fmt: skip
    size = sample.itemsize
    row, wide = width * size, width - width % len(BLOCK)
    for b in range(batch):
        known = (inputs, sample, shared, panels, rows, row, x + b * inputs * size, before + b * row, result + b * row)
        _units(kind, turning, parts, BLOCK, 0, wide, *known)
        _units(kind, turning, parts, lanes, wide, width, *known)

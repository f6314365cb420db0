"""Rows of a tensor inside compiled loops: given by address, stored in any dtype, computed in the state's.

A row is D numbers next to each other; rows may be any distance apart. bfloat16 is passed as uint16 (`bfloat16.py`), and
the two parts of a complex bfloat16 number as one int32. Compiled code learns the dtype from a sample, an array; a
sample with two axes means that each row is one number for all channels.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from numba import types
from numba.extending import intrinsic
from numba.np.numpy_support import carray
from torch import Tensor

from cofm_triton.cpu.jit.compiled import inlined, inner

# An array of each dtype that rows are stored in.
SAMPLES = {
    dtype: np.empty(0, stored)
    for dtype, stored in (
        (torch.bfloat16, np.uint16), (torch.float32, np.float32), (torch.float64, np.float64),
        (torch.complex64, np.complex64), (torch.complex128, np.complex128), (torch.int32, np.int32),
    )
}  # fmt: skip
# Without a dimension, which no array of states or inputs is.
SHARED_SAMPLES = {dtype: np.empty((), sample.dtype) for dtype, sample in SAMPLES.items()}


class Rows:
    """Where the rows of a (B, T, D) tensor lie: address of row (b, t), distance between rows, a sample of its dtype.
    Those of a (D,) tensor all lie at one address. `shared`: each row is one number, for all channels.
    """

    def __init__(self, tensor: Tensor, shared: bool = False) -> None:
        self.tensor = tensor  # keeps the memory alive
        self.base = tensor.data_ptr()
        dtype, strides = tensor.dtype, tensor.stride()
        size = dtype.itemsize
        self.stride_b, self.step = (strides[0] * size, strides[1] * size) if len(strides) == 3 else (0, 0)
        self.sample = (SHARED_SAMPLES if shared else SAMPLES)[dtype]

    def at(self, b: Any, t: Any) -> Any:
        """Address of row t of sequence b; arrays of them give an array."""
        return self.base + b * self.stride_b + t * self.step


def with_rows(tensor: Tensor) -> Tensor:
    """`tensor` with its channels next to each other, copied only when they are not; float16 becomes float32."""
    if tensor.dtype == torch.float16:
        tensor = tensor.float()
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    return tensor if tensor.stride(2) == 1 or tensor.shape[2] == 1 else tensor.contiguous()


def gate_rows(gates: Tensor, shape: tuple[int, ...]) -> Rows:
    """Rows of (D,) coefficients, or of gates that broadcast to `shape`, (B, T, D), without a copy."""
    if gates.dim() == 1:
        plain = gates.is_contiguous() and gates.dtype in SAMPLES and not gates.is_conj() and not gates.is_neg()
        if plain and gates.shape[0] == shape[2]:
            return Rows(gates)
        gates = gates.expand(1, 1, -1)
    shared = shape[2] > 1 and (gates.shape[2] == 1 or gates.stride(2) == 0)
    gates = with_rows(gates[..., :1] if shared else gates)
    return Rows(gates.expand(shape), shared)


def as_pairs(x: Tensor) -> Tensor:
    """A real (..., D) tensor as (..., D // 2) pairs, complex numbers to compiled code: in place, unless some pair does
    not lie where a complex number could, or is float16.
    """
    x = x.float() if x.dtype == torch.float16 else x
    dtype = torch.int32 if x.dtype == torch.bfloat16 else x.dtype.to_complex()
    if x.stride(-1) != 1 or any(place % 2 for place in (x.storage_offset(), *x.stride()[:-1])):
        x = x.contiguous()
    return x.view(dtype)


def as_numbers(pairs: Tensor, dtype: torch.dtype) -> Tensor:
    """Pairs as a real tensor of a dtype: the inverse of `as_pairs`."""
    stored = torch.bfloat16 if pairs.dtype == torch.int32 else pairs.dtype.to_real()
    return pairs.view(stored).to(dtype)


def in_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor.to(dtype)`, which takes a microsecond where there is nothing to do."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def numbers(tensor: Tensor) -> Any:
    """A tensor as an array that shares its memory. Taken before threads start, which know no autograd."""
    return tensor.detach().numpy()


def aligned(shape: tuple[int, ...], dtype: Any) -> Any:
    """An uninitialised array at the beginning of a cache line, where PyTorch's memory begins and numpy's need not: a
    state whose vectors lie across two lines makes a scan half as fast.
    """
    size = prod(shape) * np.dtype(dtype).itemsize
    return torch.empty(size, dtype=torch.uint8, device="cpu").numpy().view(dtype).reshape(shape)


def _pointer_to(_context: Any, address: Any, sample: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(sample.dtype)(address, sample), generate


# The address of a number of the sample's dtype, as a pointer.
_pointer: Any = intrinsic(_pointer_to)


@inner
def row(address: int, sample: Any, channels: int) -> Any:
    """The row at an address, as an array of the sample's dtype."""
    return carray(_pointer(address, sample), (channels,))


# Rows of up to so many channels are one vector, compiled for their width, with the state in registers. Wider rows are
# done in blocks, with the state in memory; the channels that are left after whole blocks are one more vector.
MAX_HELD = 64
BLOCK = (0,) * 32


def row_lanes(channels: int) -> tuple[int, ...]:
    """A tuple as long as a row has channels, or, beyond `MAX_HELD`, as many as are left after whole blocks."""
    return (0,) * (channels if channels <= MAX_HELD else channels % len(BLOCK) or 1)


@inlined
def across(channel: int, sample: Any) -> int:
    """Bytes from the beginning of a row to a channel of it."""
    return channel * sample.itemsize if sample.ndim == 1 else 0


@inlined
def block_at(k: int, lanes: Any, first: int, end: int, step: int) -> int:
    """First channel of the k-th block on [first, end), on a walk whose rows are `step` bytes apart.

    A walk that goes down goes down within rows too. Whole rows walked up one after the other from the last to the first
    run at half the speed of memory: prefetchers run ahead into the row that has just been done.
    """
    return first + k * len(lanes) if step > 0 else end - (k + 1) * len(lanes)

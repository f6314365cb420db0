"""Rows of a tensor inside compiled loops: by address, in any dtype a recurrence takes, computed in the state's.

A row is D numbers next to each other; rows may lie any distance apart. bfloat16, which numba does not know, travels as
uint16 and is widened and rounded (to nearest, ties to even) here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload
from numba.np.numpy_support import carray
from torch import Tensor

from cofm_triton.cpu.jit.bits import bits, number

# Fused multiply-adds are allowed, and nothing else: infinities and NaN follow the recurrence. The GIL is released so
# that threads run side by side; machine code is kept on disk.
OPTIONS: dict[str, Any] = {"fastmath": {"contract"}, "error_model": "numpy", "nogil": True, "cache": True}


class Rows:
    """Where the rows of a (B, T, D) tensor lie: address of row (b, t), distance between rows, a sample of its dtype."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor  # keeps the memory alive
        self.base = tensor.data_ptr()
        size = tensor.element_size()
        self.stride_b = tensor.stride(0) * size
        self.step = tensor.stride(1) * size
        dtype = np.uint16 if tensor.dtype == torch.bfloat16 else numbers(tensor.new_empty(0)).dtype
        self.sample = np.empty(0, dtype)

    def at(self, b: int, t: int) -> int:
        """Address of row t of sequence b."""
        return self.base + b * self.stride_b + t * self.step


def with_rows(tensor: Tensor) -> Tensor:
    """`tensor` with its channels next to each other, copied only when they are not; float16 becomes float32."""
    if tensor.dtype == torch.float16:
        tensor = tensor.float()
    tensor = tensor.resolve_conj().resolve_neg()
    return tensor if tensor.stride(2) == 1 or tensor.shape[2] == 1 else tensor.contiguous()


def numbers(tensor: Tensor) -> Any:
    """A contiguous tensor as an array that shares its memory; taken before work goes to threads without autograd."""
    return tensor.detach().numpy()


def _pointer_to(_context: Any, address: Any, sample: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(sample.dtype)(address, sample), generate


# The address of a number of the sample's dtype, as a pointer.
_pointer: Any = intrinsic(_pointer_to)


@njit(**OPTIONS)
def row(address: int, sample: Any, channels: int) -> Any:
    """The row at an address, as an array of the sample's dtype."""
    return carray(_pointer(address, sample), (channels,))


# Wide rows are done in blocks of as many channels: the compiler knows the length of a block, and a walk that goes down
# goes down within rows too. Whole rows walked up one after the other from the last to the first run at half the speed
# of memory: prefetchers run ahead into the row that has just been done.
BLOCK = 64


@njit(forceinline=True, **OPTIONS)
def block(address: int, sample: Any, c: int) -> Any:
    """Channels c to c + BLOCK of the row at an address."""
    return carray(_pointer(address + c * sample.itemsize, sample), (BLOCK,))


@njit(forceinline=True, **OPTIONS)
def block_at(k: int, blocks: int, step: int) -> int:
    """First channel of the k-th of a row's blocks on a walk whose rows are `step` bytes apart."""
    return BLOCK * (k if step > 0 else blocks - 1 - k)


def load(value: Any) -> Any:
    """A stored number in the state's dtype."""
    raise TypeError("compiled code only")


def store(value: Any, sample: Any) -> Any:
    """A number of the state's dtype as the tensor stores it."""
    raise TypeError("compiled code only")


@overload(load, inline="always")
def _load(value: Any) -> Any:
    def widen(value: Any) -> Any:
        return number(np.int32(np.uint32(value) << np.uint32(16)))

    def keep(value: Any) -> Any:
        return value

    return widen if value == types.uint16 else keep


@overload(store, inline="always")
def _store(value: Any, sample: Any) -> Any:
    def round_to_bfloat16(value: Any, sample: Any) -> Any:
        word = np.uint32(bits(value))
        rounded = np.uint16((word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))
        return rounded if value == value else np.uint16(0x7FC0)

    def keep(value: Any, sample: Any) -> Any:
        return value

    return round_to_bfloat16 if sample.dtype == types.uint16 else keep


# Rows of up to this many channels are compiled for their width, with their state in registers: around a shorter loop,
# the checks that a row of unknown width begins with would cost more than its arithmetic.
MAX_HELD = 32


def held_width(channels: int) -> tuple[int, ...]:
    """The width of a row as a type: a tuple of as many entries, empty for rows too wide to be held in registers."""
    return (0,) * channels if channels <= MAX_HELD else ()


def _room_for(context: Any, width: Any, sample: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number_type = context.get_value_type(sample.dtype)
        room = cgutils.alloca_once(builder, ir.ArrayType(number_type, width.count))
        return builder.bitcast(room, number_type.as_pointer())

    return types.CPointer(sample.dtype)(width, sample), generate


# Room for one row on the stack, which the compiler turns into registers.
_room: Any = intrinsic(_room_for)


def hold(width: Any, state: Any) -> Any:
    """A copy of a state that registers can hold, or the state itself if its width is not known."""
    raise TypeError("compiled code only")


def release(width: Any, held: Any, state: Any) -> None:
    """Write a held state back."""
    raise TypeError("compiled code only")


@overload(hold, inline="always")
def _hold(width: Any, state: Any) -> Any:
    def itself(width: Any, state: Any) -> Any:
        return state

    def copy(width: Any, state: Any) -> Any:
        held = carray(_room(width, state), (len(width),))
        for d in range(len(width)):
            held[d] = state[d]
        return held

    return copy if len(width) else itself


@overload(release, inline="always")
def _release(width: Any, held: Any, state: Any) -> Any:
    def nothing(width: Any, held: Any, state: Any) -> None:
        pass

    def copy(width: Any, held: Any, state: Any) -> None:
        for d in range(len(width)):
            state[d] = held[d]

    return copy if len(width) else nothing


@njit(forceinline=True, **OPTIONS)
def store_row(held: Any, target: Any) -> None:
    """Write a held row to memory, rounded as the tensor stores it."""
    for d in range(held.size):
        target[d] = store(held[d], target)

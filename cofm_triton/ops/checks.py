"""Checks of arguments: every message names the argument, what was given and what is accepted."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cofm_triton.ops.derivatives import transforming
from cofm_triton.ops.dtypes import DTYPES, PRECISIONS, REAL_DTYPES, complex_state_dtype, state_dtype
from cofm_triton.step.activations import properties
from cofm_triton.step.pairs import in_pairs
from cofm_triton.support.scalars import as_number, described
from cofm_triton.support.tensors import check_tensor

RESET_TO = ("h0", "zero")  # what the pieces of a sequence start from


def check_sequence(name: str, x: Any, *, allow_complex: bool) -> None:
    """`x` is a (B, T, D) tensor with D >= 1 of a dtype the recurrences know."""
    check_tensor(name, x)
    if x.dim() != 3 or x.shape[2] < 1:
        raise ValueError(f"{name} must have shape (B, T, D) with D >= 1, got {tuple(x.shape)}")
    accepted = DTYPES if allow_complex else REAL_DTYPES
    if x.dtype not in accepted:
        raise TypeError(f"{name} must have one of the dtypes {_names(accepted)}, got {x.dtype}")


def check_companion(name: str, tensor: Any, x: Tensor) -> None:
    """`tensor` lives with x: same device, x's dtype or the dtype of the state."""
    check_tensor(name, tensor)
    if tensor.device != x.device:
        raise ValueError(f"{name} must be on the device of x, {x.device}, got {tensor.device}")
    accepted = {x.dtype, state_dtype(x.dtype)}
    if tensor.dtype not in accepted:
        raise TypeError(
            f"{name} must have the dtype of x or of its state, {_names(sorted(accepted, key=str))}, got {tensor.dtype}"
        )


def check_decay(name: str, decay: Any, x: Tensor) -> None:
    """`decay` is (D,) or broadcasts to (B, T, D); complex with a real x, one number for every two channels of it."""
    if not (isinstance(decay, Tensor) and in_pairs(x, decay)):
        check_companion(name, decay, x)
        if decay.shape == (x.shape if decay.dim() == x.dim() else x.shape[2:]):  # by far the most
            return
        shape, letters = tuple(x.shape), "D"
    else:
        check_tensor(name, decay)
        batch, length, width = x.shape
        if decay.device != x.device:
            raise ValueError(f"{name} must be on the device of x, {x.device}, got {decay.device}")
        state = complex_state_dtype(x.dtype)
        if decay.dtype != state:
            raise TypeError(f"a complex {name} must have the dtype {state} with an x of {x.dtype}, got {decay.dtype}")
        if width % 2:
            raise ValueError(f"x must have an even D where {name} is complex and x is not, got D = {width}")
        shape, letters = (batch, length, width // 2), "D // 2"
    aligned = shape[len(shape) - decay.dim() :]
    if decay.dim() > 3 or any(size not in (1, target) for size, target in zip(decay.shape, aligned, strict=True)):
        raise ValueError(
            f"{name} must have shape ({letters},) or broadcast to (B, T, {letters}) = {shape}, got {tuple(decay.shape)}"
        )


def check_logits(name: str, tensor: Any, x: Tensor) -> None:
    """`tensor` is like x: (B, T, D), its dtype and device."""
    check_companion(name, tensor, x)
    if tensor.shape != x.shape or tensor.dtype != x.dtype:
        raise ValueError(
            f"{name} must have the shape and dtype of x, {tuple(x.shape)} and {x.dtype}, "
            f"got {tuple(tensor.shape)} and {tensor.dtype}"
        )


def check_per_channel(name: str, tensor: Any, x: Tensor) -> None:
    """`tensor` is (D,), one value per channel of x."""
    check_companion(name, tensor, x)
    if tuple(tensor.shape) != (x.shape[2],):
        raise ValueError(f"{name} must have shape (D,) = ({x.shape[2]},), got {tuple(tensor.shape)}")


def check_rates(name: str, tensor: Any, x: Tensor) -> None:
    """`tensor` is (D,), or (B, T, D) like x."""
    check_companion(name, tensor, x)
    if tensor.shape not in (x.shape[2:], x.shape):
        raise ValueError(
            f"{name} must have shape (D,) = ({x.shape[2]},) or (B, T, D) = {tuple(x.shape)}, got {tuple(tensor.shape)}"
        )


def check_per_pair(name: str, tensor: Any, x: Tensor) -> None:
    """`tensor` is (D // 2,), one value per pair of channels (2k, 2k + 1) of x, whose D is even."""
    if x.shape[2] % 2:
        raise ValueError(f"x must have an even number of channels D where they turn in pairs, got {tuple(x.shape)}")
    check_companion(name, tensor, x)
    if tuple(tensor.shape) != (x.shape[2] // 2,):
        raise ValueError(
            f"{name} must have shape (D // 2,) = ({x.shape[2] // 2},), one value per pair, got {tuple(tensor.shape)}"
        )


def check_matrix(name: str, tensor: Any, x: Tensor) -> None:
    """`tensor` is (D, D), from all channels of x to all of them."""
    check_companion(name, tensor, x)
    size = x.shape[2]
    if tuple(tensor.shape) != (size, size):
        raise ValueError(f"{name} must have shape (D, D) = ({size}, {size}), got {tuple(tensor.shape)}")


def check_precision(precision: Any) -> None:
    """`precision` is a name in the table."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, got {precision!r}")


def check_states(name: str, h0: Any, x: Tensor, seq_starts: Tensor | None) -> None:
    """`h0` is None or (B, D), (S, D) for packed sequences."""
    if h0 is None:
        return
    check_companion(name, h0, x)
    rows, letter = (x.shape[0], "B") if seq_starts is None else (seq_starts.shape[0], "S")
    if tuple(h0.shape) != (rows, x.shape[2]):
        raise ValueError(f"{name} must have shape ({letter}, D) = ({rows}, {x.shape[2]}), got {tuple(h0.shape)}")


def check_seq_starts(seq_starts: Any, x: Tensor) -> None:
    """`seq_starts` is None or (S,) integers with 0 = s[0] <= s[1] <= ... <= T, for a batch of one row.

    The values of a tensor on the CPU are checked; on other devices, where looking would wait for the device, kernels
    clamp them to [0, T].
    """
    if seq_starts is None:
        return
    if not isinstance(seq_starts, Tensor):
        raise TypeError(f"seq_starts must be a torch.Tensor, got {type(seq_starts).__name__}")
    if seq_starts.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"seq_starts must have dtype torch.int32 or torch.int64, got {seq_starts.dtype}")
    if seq_starts.dim() != 1 or seq_starts.shape[0] < 1:
        raise ValueError(f"seq_starts must have shape (S,) with S >= 1, got {tuple(seq_starts.shape)}")
    if seq_starts.device != x.device:
        raise ValueError(f"seq_starts must be on the device of x, {x.device}, got {seq_starts.device}")
    if x.shape[0] != 1:
        raise ValueError(f"seq_starts packs sequences into one row: x must have B = 1, got B = {x.shape[0]}")
    if seq_starts.device.type == "cpu" and not torch.compiler.is_compiling():
        # PyTorch 2.8 cannot list a tensor inside `torch.func`, where it has no storage; it can read its entries.
        values = [int(start) for start in seq_starts] if transforming() else seq_starts.tolist()
        if values[0] != 0 or any(a > b for a, b in zip(values, [*values[1:], x.shape[1]], strict=True)):
            raise ValueError(f"seq_starts must start with 0 and not decrease up to T = {x.shape[1]}, got {values}")


def check_resets(resets: Any, reset_to: Any, x: Tensor) -> None:
    """`resets` is None or (B, T), bool, on the device of x; `reset_to` is "h0" or "zero"."""
    if reset_to not in RESET_TO:
        raise ValueError(f"reset_to must be one of {RESET_TO}, got {reset_to!r}")
    if resets is None:
        return
    check_tensor("resets", resets)
    if resets.dtype != torch.bool:
        raise TypeError(f"resets must have dtype torch.bool, True where an episode begins, got {resets.dtype}")
    if resets.shape != x.shape[:2]:
        raise ValueError(f"resets must have shape (B, T) = {tuple(x.shape[:2])}, got {tuple(resets.shape)}")
    if resets.device != x.device:
        raise ValueError(f"resets must be on the device of x, {x.device}, got {resets.device}")


def check_nonlinearity(nonlinearity: Any) -> None:
    """`nonlinearity` is a name in the table."""
    properties(nonlinearity)


def check_step(dt: Any) -> float:
    """`dt` is a finite positive number: the number as a float."""
    number = as_number(dt)
    if number is None:
        raise TypeError(f"dt must be a number, got {described(dt)}")
    if not 0 < number < math.inf:  # not `isfinite`, which compilers do not follow where dt is symbolic
        raise ValueError(f"dt must be finite and positive, got {dt}")
    return number


def _names(dtypes: Any) -> str:
    return ", ".join(str(dtype) for dtype in dtypes)

"""What launches are given that are compiled and not run: tensors that have shapes and no memory.

The launchers of `cofm_triton.kernels` are called as the operators call them, on PyTorch's meta device, so that
signatures, options and launch shapes come from the one place that knows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cofm_triton.evidence.compilation.devices import DEVICES

# Multiprocessors: one never splits time, an H100's do where few channels call for it.
WHOLE, SPLIT = 1, DEVICES["sm_90"].multiprocessors

Options = Mapping[str, Any]


def rows_of_channels(constants: Options) -> int:
    """Elements of one turn of a scan's loop along time, all threads of a program together."""
    rows: int = constants["ROWS"] * constants["BLOCK_D"]
    return rows


def label(options: Options) -> str:
    """`float32 width=500 packed` for a configuration."""
    words = []
    for name, value in options.items():
        if isinstance(value, torch.dtype):
            words.append(str(value).removeprefix("torch."))
        elif value is True:
            words.append(name)
        elif name in ("nonlinearity", "act_in"):  # what acts on the state is told by its value alone
            words.append(value)
        else:
            words.append(f"{name}={value}")
    return " ".join(words)


def meta(*shape: int, dtype: torch.dtype) -> Tensor:
    """A tensor without memory."""
    return torch.empty(shape, dtype=dtype, device="meta")


def sequence(length: int, width: int, dtype: torch.dtype, sliced: bool, transposed: bool = False) -> Tensor:
    """(1, length, width); `sliced` out of rows one number longer, which leaves them unaligned, or `transposed`, with
    the steps of a channel next to each other.
    """
    if transposed:
        return meta(1, width, length, dtype=dtype).transpose(1, 2)
    return meta(1, length, width + sliced, dtype=dtype)[..., :width]

"""What is compiled: launches of every operator on tensors that have shapes and no memory.

The launchers of `cofm_triton.kernels` are called as the operators call them, on PyTorch's meta device, so that
signatures, options and launch shapes come from the one place that knows them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import torch
from torch import Tensor

# Multiprocessors: one never splits time, 132 (an H100's) does where few channels call for it.
WHOLE, SPLIT = 1, 132

Options = Mapping[str, Any]


def rows_of_channels(constants: Options) -> int:
    """Elements of one turn of a scan's loop along time, all threads of a program together."""
    rows: int = constants["ROWS"] * constants["BLOCK_D"]
    return rows


@dataclass(frozen=True)
class Operator:
    """One of our operators: entered once, compiled for every target.

    Attributes:
        name: of the operator, and of its file.
        launch: calls the launchers, both passes, with the options of a configuration.
        usual: the configurations that people use; a report shows these.
        others: every other flag, dtype and width, so that each kernel is compiled with each of its branches.
        bytes_per_element: of a kernel by the operator's traffic model, from its name, its constants and the options of
            the configuration; None where a kernel does part of a pass.
        elements: of one turn of the loop along time, all threads of a program together, from the constants.
    """

    name: str
    launch: Callable[..., None]
    usual: Sequence[Options]
    others: Sequence[Options]
    bytes_per_element: Callable[[str, Options, Options], float | None]
    elements: Callable[[Options], int] = rows_of_channels

    def configurations(self, everything: bool) -> list[Options]:
        """The usual ones, or all."""
        return [*self.usual, *(self.others if everything else ())]


@cache
def operators() -> dict[str, Operator]:
    """The `OPERATOR` of every file in the folder."""
    folder = import_module("cofm_triton.evidence.compilation.operators")
    found = [import_module(f"{folder.__name__}.{name}").OPERATOR for _, name, _ in iter_modules(folder.__path__)]
    return {operator.name: operator for operator in found}


def label(options: Options) -> str:
    """`float32 width=500 packed` for a configuration."""
    words = []
    for name, value in options.items():
        if isinstance(value, torch.dtype):
            words.append(str(value).removeprefix("torch."))
        elif value is True:
            words.append(name)
        elif isinstance(value, str):
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

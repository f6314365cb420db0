"""What is validated: operators, the problems they are given, and the text that names a problem.

A problem's text replays it: `linear_scan:gated+reverse:float32:2x33x17:h0+strided:0` is the operator, its variant, the
dtype, (B, T, D), whether there is an initial state and whether tensors have odd strides, and the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from cofm_triton.evidence.tolerance import Bound
from cofm_triton.ops.backends import BACKENDS

PLAIN = "plain"
STATES = "h0"
STRIDED = "strided"
LAYOUTS = (PLAIN, STATES, STRIDED, f"{STATES}+{STRIDED}")
PACKED = "packed"


class Checkable(Protocol):
    """One call with its exact results; `validation.case.Case` is one."""

    def run(self, backend: str, device: torch.device | None = None) -> dict[str, Tensor]:
        """Results of the forward pass, and, named `grad_...`, of the backward pass, on the CPU."""

    def bounds(self) -> dict[str, Bound]:
        """Exact results and the errors allowed."""

    def slack(self, backend: str) -> float:
        """Factor by which a backend may exceed the bounds."""

    def strided(self) -> Checkable:
        """The same numbers with other strides."""


@dataclass(frozen=True)
class Operator:
    """One of our operators: entered once, validated everywhere.

    Attributes:
        name: of the operator, and of its file.
        draws: variant, as `part+part`, to `draw(B, T, D, dtype=..., states=..., seed=...)`; a variant with the part
            "packed" is given `starts=[...]` as well, and B = 1.
        dtypes: that it accepts.
        backends: that compute it.
        functions: of an implementation, by the pass that they compute.
        largest: most channels that are worth a try; None for no limit.
        splits: whether its Triton kernels split time where there are few channels.
        first_gradient: which result of the function for the backward pass is the first of its gradients.
        result: dtype of its results if it does not depend on that of the tensors.
    """

    name: str
    draws: Mapping[str, Callable[..., Checkable]]
    dtypes: tuple[torch.dtype, ...]
    backends: tuple[str, ...] = tuple(name for name in BACKENDS if name not in ("cpu", "reference"))
    largest: int | None = None
    splits: bool = False
    functions: Mapping[str, str] = field(default_factory=lambda: {"forward": "forward", "backward": "backward"})
    first_gradient: int = 0
    result: torch.dtype | None = None


@dataclass(frozen=True)
class Problem:
    """One call of one operator, by what it is drawn from; `text` and `parse` are inverse."""

    operator: str
    variant: str
    dtype: str
    shape: tuple[int, int, int]
    layout: str
    seed: int

    @property
    def text(self) -> str:
        """The name that replays it."""
        size = "x".join(map(str, self.shape))
        return f"{self.operator}:{self.variant}:{self.dtype}:{size}:{self.layout}:{self.seed}"

    @staticmethod
    def parse(text: str) -> Problem:
        """The problem behind a name.

        Raises:
            ValueError: it names none; the message says what a name looks like.

        Example:
            >>> Problem.parse("linear_scan:gated:float32:2x33x17:h0:0").shape
            (2, 33, 17)
        """
        words = text.split(":")
        try:
            operator, variant, dtype, size, layout, seed = words
            batch, length, channels = map(int, size.split("x"))
            problem = Problem(operator, variant, dtype, (batch, length, channels), layout, int(seed))
        except ValueError:
            raise ValueError(f"a problem is OPERATOR:VARIANT:DTYPE:BxTxD:LAYOUT:SEED, got {text!r}") from None
        if min(problem.shape) < 0 or problem.seed < 0 or layout not in LAYOUTS:
            raise ValueError(f"a problem has sizes and a seed >= 0 and a layout of {', '.join(LAYOUTS)}, got {text!r}")
        return problem

    @property
    def torch_dtype(self) -> torch.dtype:
        """`torch.float32` for "float32"."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

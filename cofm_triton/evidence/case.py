"""What is asked of an operator, and the text that names it.

A case's text replays it: `linear_scan:gated+reverse:float32:2x33x17:h0+strided:0` is the operator, its variant, the
dtype, (B, T, D), whether there is an initial state and whether tensors have odd strides, and the seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

PLAIN = "plain"
STATES = "h0"
STRIDED = "strided"
LAYOUTS = (PLAIN, STATES, STRIDED, f"{STATES}+{STRIDED}")
PACKED = "packed"

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Case:
    """One call of one operator, by what its tensors are drawn from; `text` and `parse` are inverse.

    Attributes:
        operator: name in `registry.operators()`.
        variant: of its validation, or a study of its benchmark.
        shape: (B, T, D).
        dtype: of the input.
        layout: one of `LAYOUTS`.
        seed: equal seeds give equal numbers.
    """

    operator: str
    variant: str
    shape: Shape
    dtype: torch.dtype
    layout: str = PLAIN
    seed: int = 0

    @property
    def dtype_name(self) -> str:
        """`float32` for torch.float32."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def size(self) -> str:
        """`8x4096x256`."""
        return "x".join(map(str, self.shape))

    @property
    def text(self) -> str:
        """The name that replays it."""
        return f"{self.operator}:{self.variant}:{self.dtype_name}:{self.size}:{self.layout}:{self.seed}"

    @staticmethod
    def parse(text: str) -> Case:
        """The case behind a name.

        Raises:
            ValueError: it names none; the message says what a name looks like.

        Example:
            >>> Case.parse("linear_scan:gated:float32:2x33x17:h0:0").shape
            (2, 33, 17)
        """
        try:
            operator, variant, name, size, layout, seed = text.split(":")
            batch, length, channels = map(int, size.split("x"))
            case = Case(operator, variant, (batch, length, channels), getattr(torch, name), layout, int(seed))
        except (AttributeError, ValueError):
            raise ValueError(f"a case is OPERATOR:VARIANT:DTYPE:BxTxD:LAYOUT:SEED, got {text!r}") from None
        if min(case.shape) < 0 or case.seed < 0 or layout not in LAYOUTS or not isinstance(case.dtype, torch.dtype):
            raise ValueError(
                f"a case has a dtype, sizes and a seed >= 0 and a layout of {', '.join(LAYOUTS)}, got {text!r}"
            )
        return case

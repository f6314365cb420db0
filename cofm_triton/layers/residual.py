"""Residual blocks around a recurrent layer, and stacks of them.

    y = x + dropout(glu(V rnn(norm(x)) + v)),   glu(a, b) = a * sigmoid(b)

The norm gives every layer inputs of size 1 and the sum hands gradients on unchanged, so that a stack of any depth
trains; the gate adds what an elementwise recurrence lacks, products of units. The form is that of S4 and LRU models
(arXiv 2111.00396, section 3.4; arXiv 2303.06349, appendix A).
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cofm_triton.layers.checks import check_place, check_size, fits
from cofm_triton.layers.sequence import TensorOrPacked, at_every_step
from cofm_triton.layers.stable_rnn import StableRNN


class ResidualBlock(nn.Module):
    """A one-layer `StableRNN` between a norm and a gated linear unit, added to its input; called like the layer.

    Args:
        size: d, features of input and output.
        hidden_size: D, recurrent units; None: d.
        dropout: probability, on what is added to the input, while training.
        options: those of `StableRNN`, but `num_layers`.

    Attributes:
        norm: `nn.LayerNorm` over the features.
        rnn: the `StableRNN`.
        mix: `nn.Linear` from its outputs to 2 d numbers, V and v.
        dropout: `nn.Dropout`.

    Shapes:
        input and output (T, B, d), (B, T, d) with `batch_first`, (T, d) unbatched, or a `PackedSequence`; hx and h_n as
        those of the layer.

    Raises:
        TypeError, ValueError: as `StableRNN`.

    Example:
        >>> block = ResidualBlock(8, batch_first=True)
        >>> output, h_n = block(torch.randn(2, 7, 8))
        >>> output.shape, h_n.shape
        (torch.Size([2, 7, 8]), torch.Size([1, 2, 8]))
    """

    def __init__(self, size: int, hidden_size: int | None = None, *, dropout: float = 0.0, **options: Any) -> None:
        super().__init__()
        if "num_layers" in options:
            raise ValueError("num_layers is 1 in a block: a ResidualStack has several")
        self.rnn = StableRNN(size, size if hidden_size is None else hidden_size, **options)
        place = {name: options[name] for name in ("device", "dtype") if name in options}
        outputs = self.rnn.hidden_size * (2 if self.rnn.bidirectional else 1)
        self.norm = nn.LayerNorm(size, **place)
        self.mix = nn.Linear(outputs, 2 * size, **place)
        self.dropout = nn.Dropout(dropout)

    def forward(self, input: TensorOrPacked, hx: Tensor | None = None, **options: Any) -> tuple[TensorOrPacked, Tensor]:
        """Run over whole sequences; shapes are those of the class, options those of `StableRNN.forward`.

        Raises:
            TypeError, ValueError: as `StableRNN`.
        """
        h, h_n = self.rnn(at_every_step(self._normed, input), hx, **options)
        return at_every_step(self._added, input, h), h_n

    def step(self, x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One time step, x (B, d) or (d,); otherwise as `StableRNN.step`."""
        h, h_n = self.rnn.step(self._normed(x), hx)
        return self._added(x, h), h_n

    def _normed(self, x: Tensor) -> Tensor:
        """norm(x) where it can be formed; the layer says what is wrong with anything else."""
        is_row = isinstance(x, Tensor) and x.is_floating_point() and x.dim() > 0
        return self.norm(x) if is_row and x.shape[-1] == self.rnn.input_size and fits(self.norm.weight, x) else x

    def _added(self, x: Tensor, h: Tensor) -> Tensor:
        return x + self.dropout(F.glu(self.mix(h), -1))


class ResidualStack(nn.Module):
    """A linear encoder and `ResidualBlock`s, one after the other; called like an `nn.RNN` of as many layers.

    Args:
        input_size: features of the input.
        size: d, features of the blocks and of the output.
        num_layers: how many blocks.
        hidden_size: D, recurrent units of each block; None: d.
        dropout: as for `ResidualBlock`.
        options: those of `StableRNN`.

    Shapes:
        as for `ResidualBlock`; hx and h_n are (num_layers * directions, B, D).

    Raises:
        TypeError, ValueError: as `StableRNN`.

    Example:
        >>> stack = ResidualStack(3, 8, 2, batch_first=True)
        >>> output, h_n = stack(torch.randn(2, 7, 3))
        >>> output.shape, h_n.shape
        (torch.Size([2, 7, 8]), torch.Size([2, 2, 8]))
    """

    def __init__(
        self,
        input_size: int,
        size: int,
        num_layers: int = 1,
        hidden_size: int | None = None,
        *,
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__()
        input_size, num_layers = check_size("input_size", input_size), check_size("num_layers", num_layers)
        blocks = (ResidualBlock(size, hidden_size, dropout=dropout, **options) for _ in range(num_layers))
        self.blocks = nn.ModuleList(blocks)
        place = {name: options[name] for name in ("device", "dtype") if name in options}
        self.encoder = nn.Linear(input_size, size, **place)

    def forward(self, input: TensorOrPacked, hx: Tensor | None = None, **options: Any) -> tuple[TensorOrPacked, Tensor]:
        """Run over whole sequences; shapes are those of the class, options those of `StableRNN.forward`.

        Raises:
            TypeError, ValueError: as `StableRNN`.
        """
        x, ends = at_every_step(self._encoded, input), []
        for block, start in zip(self.blocks, self._starts(hx), strict=True):
            x, end = block(x, start, **options)
            ends.append(end)
        return x, torch.cat(ends)

    def step(self, x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One time step, x (B, input_size) or (input_size,); otherwise as `StableRNN.step`."""
        x, ends = self._encoded(x), []
        for block, start in zip(self.blocks, self._starts(hx), strict=True):
            x, end = cast(ResidualBlock, block).step(x, start)
            ends.append(end)
        return x, torch.cat(ends)

    def _encoded(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            raise TypeError(f"input must be a torch.Tensor or PackedSequence, got {type(x).__name__}")
        if x.dim() == 0 or x.shape[-1] != self.encoder.in_features:
            raise ValueError(f"input must have {self.encoder.in_features} features, got shape {tuple(x.shape)}")
        check_place(self.encoder.weight, x)
        return self.encoder(x)

    def _starts(self, hx: Tensor | None) -> list[Tensor | None]:
        """First states of each block."""
        count = len(self.blocks)
        if hx is None:
            return [None] * count
        rows = count * (2 if cast(ResidualBlock, self.blocks[0]).rnn.bidirectional else 1)
        if not isinstance(hx, Tensor) or hx.dim() == 0 or hx.shape[0] != rows:
            given = tuple(hx.shape) if isinstance(hx, Tensor) else type(hx).__name__
            raise ValueError(f"hx must be a tensor of {rows} states, one for each block and direction, got {given}")
        return list(hx.chunk(count))

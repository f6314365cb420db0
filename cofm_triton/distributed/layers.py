"""Layers of models whose sequences lie on many ranks, a slice of time on each."""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from cofm_triton.distributed.functional import Functions
from cofm_triton.distributed.ranks import Group, Ranks, ranks_of
from cofm_triton.layers.sequence import TensorOrPacked
from cofm_triton.layers.stable_rnn import StableRNN

Model = TypeVar("Model", bound=nn.Module)


class TimeShardedRNN(StableRNN):
    """A `StableRNN` whose input is this rank's slice of time; `shard_time` makes it of a `StableRNN`.

    hx is the state before the whole sequence, the same on all ranks; h_n is the state after it, on all ranks. Layers
    that run backward start with the last rank.
    """

    _ranks: Ranks

    def functions(self, suffix: str) -> Functions:
        """Of a slice, which the backward direction has turned round already."""
        return Functions(self._ranks.turned(suffix.endswith("_reverse")))

    def forward(
        self, input: TensorOrPacked, hx: Tensor | None = None, *, seq_starts: Tensor | None = None,
        resets: Tensor | None = None, reset_to: str = "zero",
    ) -> tuple[TensorOrPacked, Tensor]:  # fmt: skip
        """As `StableRNN.forward`, for slices of sequences that are all equally long."""
        if isinstance(input, PackedSequence) or seq_starts is not None or resets is not None:
            raise ValueError(
                "a layer over ranks takes slices of equally long sequences: no PackedSequence, no seq_starts, no resets"
            )
        return super().forward(input, hx)

    def step(self, x: Tensor, hx: Tensor | None = None) -> NoReturn:
        """Refused: a step is one rank's."""
        raise ValueError("a layer over ranks has no step: load its state_dict into a StableRNN, which runs on one rank")

    def prepared(self) -> NoReturn:
        """Refused, as `step`."""
        self.step(self.weight_ih_l0)


def shard_time(model: Model, group: Group = None) -> Model:
    """Let every `StableRNN` of a model take sequences whose steps lie on many ranks, in place.

    The model is then called on all ranks with consecutive slices of time, (B, T, d) each, as `functional.py` says.
    Whatever else it does has to treat every step alone, as encoders, read-outs and norms over features do. Parameters,
    their names and the state_dict stay the same.

    Recurrences that are linear in time ("ssm", gated ones whose units do not turn, "orthogonal" with a linear
    nonlinearity, "diagonal" with it) exchange one summary in one collective each way. Others hand states on.

    With DDP and FSDP2: call it first. With `torch.utils.checkpoint` (`use_reentrant=False`): every rank recomputes.

    Args:
        model: with one `StableRNN` or more; or a layer itself.
        group: the ranks: a process group, one dimension of a `DeviceMesh`, or None for the default group.

    Returns:
        The model.

    Raises:
        TypeError: `group` is no group.
        ValueError: the model has no `StableRNN`, or one that is wrapped or subclassed already; or as `linear_scan`.

    Example:
        >>> import torch
        >>> import torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> layer = shard_time(StableRNN(3, 5, batch_first=True))
        >>> layer(torch.randn(2, 7, 3))[0].shape
        torch.Size([2, 7, 5])
        >>> dist.destroy_process_group()
    """
    ranks = ranks_of(group)
    layers = [module for module in model.modules() if isinstance(module, StableRNN)]
    if not layers:
        raise ValueError(f"model must contain a StableRNN, got {type(model).__name__} without one")
    for layer in layers:
        if type(layer) is not StableRNN:
            raise ValueError(
                f"shard_time takes plain StableRNN layers, before other wrappers, got {type(layer).__name__}"
            )
    for layer in layers:
        given: Any = layer
        given.__class__, given._ranks = TimeShardedRNN, ranks
    return model

"""Layers whose units lie on many ranks: tensor parallelism, which an elementwise recurrence needs no message for.

Units, or pairs of units, do not see each other. So rank k of n has rows k D / n to (k + 1) D / n of every parameter and
runs these units as a layer of its own. What tensor parallelism sends is sent by the matrices around: every rank reads
the whole input, whose gradient is summed over ranks, and `RowwiseParallel` takes outputs as they lie.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import ParallelStyle

from cofm_triton.distributed.layers import TimeShardedRNN
from cofm_triton.layers.sequence import TensorOrPacked
from cofm_triton.layers.stable_rnn import StableRNN


class ChannelSharded(StableRNN):
    """A layer with `DTensor` parameters, sharded by units; states and outputs are those of this rank's units."""

    _channels: DeviceMesh
    _local: bool = False  # whether parameters are seen as this rank's rows

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        return value.to_local() if self._local and isinstance(value, DTensor) else value

    def forward(
        self, input: TensorOrPacked, hx: Tensor | None = None, *, seq_starts: Tensor | None = None,
        resets: Tensor | None = None, reset_to: str = "zero",
    ) -> tuple[TensorOrPacked, Tensor]:  # fmt: skip
        """As that of the layer: `input` is whole, hx and what is returned have D / n units."""
        width, pairs = self.hidden_size, self.hidden_size // 2
        self._local, self.hidden_size = True, width // self._channels.size()
        self.pair_places = (self._channels.get_local_rank() * (pairs // self._channels.size()), pairs)
        try:
            return super().forward(self._whole(input), hx, seq_starts=seq_starts, resets=resets, reset_to=reset_to)
        finally:
            self._local, self.hidden_size, self.pair_places = False, width, None

    def _whole(self, input: TensorOrPacked) -> Any:
        """The input, with a gradient that is summed over ranks."""
        if not isinstance(input, Tensor):
            return input._replace(data=self._whole(input.data))
        placed = input if isinstance(input, DTensor) else DTensor.from_local(input, self._channels, [Replicate()])
        return placed.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()])


class ChannelShardedRNN(ChannelSharded):
    """A `StableRNN` that has some of its units."""


class TimeAndChannelShardedRNN(ChannelSharded, TimeShardedRNN):
    """The same with a slice of time."""


_SHARDED: dict[type, type] = {StableRNN: ChannelShardedRNN, TimeShardedRNN: TimeAndChannelShardedRNN}


class ChannelParallel(ParallelStyle):
    """How `torch.distributed.tensor.parallel.parallelize_module` shards a `StableRNN` by its units.

    For one layer in one direction with an elementwise recurrence ("ssm" or "diagonal") and without gates, whose units,
    or pairs of units, can be shared out evenly. Deeper stacks are several layers with a `RowwiseParallel` linear
    between. Parameters become tensors of class `DTensor`, sharded along their first axis. h0 and h_n have this rank's
    units.

    Raises:
        TypeError: the module is no `StableRNN`, or is wrapped already.
        ValueError: it is one of another kind.

    Example:
        >>> import torch
        >>> import torch.distributed as dist
        >>> from torch.distributed.tensor.parallel import RowwiseParallel, parallelize_module
        >>> from cofm_triton import RNNFunctional
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> plan = {"rnn": ChannelParallel(), "readout": RowwiseParallel()}
        >>> model = parallelize_module(RNNFunctional(3, 8), dist.init_device_mesh("cpu", (1,)), plan)
        >>> model(torch.randn(2, 7, 3)).shape
        torch.Size([2, 7, 1])
        >>> dist.destroy_process_group()
    """

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        if type(module) not in _SHARDED:
            raise TypeError(f"ChannelParallel shards a StableRNN, before other wrappers, got {type(module).__name__}")
        layer: Any = module
        if layer.num_layers > 1 or layer.bidirectional or layer.gated or not layer._cell.is_elementwise:
            raise ValueError(
                "ChannelParallel shards one layer in one direction with recurrence 'ssm' or 'diagonal' and without "
                f"gates, got {layer}"
            )
        units = 2 if layer.oscillating else 1
        if layer.hidden_size % (units * device_mesh.size()):
            kind = "pairs of units" if layer.oscillating else "units"
            raise ValueError(
                f"hidden_size must give each of {device_mesh.size()} ranks equally many {kind}, got {layer.hidden_size}"
            )
        distribute_module(layer, device_mesh, _by_units)
        layer.__class__, layer._channels = _SHARDED[type(layer)], device_mesh
        return module


def _by_units(name: str, module: nn.Module, device_mesh: DeviceMesh) -> None:
    for key, value in module.named_parameters(recurse=False):
        sharded = distribute_tensor(value, device_mesh, [Shard(0)])
        module.register_parameter(key, nn.Parameter(sharded, requires_grad=value.requires_grad))

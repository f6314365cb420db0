"""Cases of models in PyTorch's systems, on every rank: as `rank_cases.py`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from rank_cases import joined, slices
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from bench import over_ranks
from cofm_triton import distributed
from cofm_triton.layers.stable_rnn import StableRNN


class Model(nn.Module):
    """A linear map, a recurrence, and a read-out."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 8, dtype=torch.float64)
        self.rnn = StableRNN(8, 8, batch_first=True, dtype=torch.float64, **options)
        self.readout = nn.Linear(8, 2, dtype=torch.float64)
        self.recomputes = False

    def forward(self, x: Tensor) -> Tensor:
        e = torch.tanh(self.encoder(x))
        output: Tensor
        if self.recomputes:
            output, _ = checkpoint(self.rnn, e, use_reentrant=False)
        else:
            output, _ = self.rnn(e)
        y: Tensor = self.readout(output)
        return y


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def check_gradients(alone: nn.Module, together: nn.Module) -> None:
    names = [name for name, _ in alone.named_parameters()]
    for name, ours, theirs in zip(names, alone.parameters(), together.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None, name
        torch.testing.assert_close(whole(theirs.grad), ours.grad, msg=name)


def check_sharded(world: DeviceMesh, how: str, recomputes: bool, **options: Any) -> None:
    """Two halves of the batch on two slices of time: outputs, and mean gradients over all four ranks."""
    torch.manual_seed(1)
    alone, x = Model(**options), torch.randn(4, 10, 3, dtype=torch.float64)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "time"))
    together: Any = distributed.shard_time(copy.deepcopy(alone), mesh["time"])
    together.recomputes = recomputes
    if how == "ddp":
        together = DistributedDataParallel(together)
    else:
        for part in (together.rnn, together):
            fully_shard(part, mesh=world)
    rows = slice(2 * mesh["data"].get_local_rank(), 2 * mesh["data"].get_local_rank() + 2)
    mine = slices(10, 2, "even")[mesh["time"].get_local_rank()]
    y, exact = together(x[rows, mine]), alone(x)
    torch.testing.assert_close(joined(y, mesh["time"]), exact[rows])
    y.square().mean().backward()
    exact.square().mean().backward()
    check_gradients(alone, together)


def check_tensor_parallel(ranks: DeviceMesh, in_time: bool, **options: Any) -> None:
    """Units on two ranks between a column-wise and a row-wise matrix: the recurrence sends nothing."""
    torch.manual_seed(1)
    alone, x = Model(**options), torch.randn(2, 10, 3, dtype=torch.float64)
    mesh, mine = ranks, slice(None)
    together: Any = copy.deepcopy(alone)
    if in_time:
        both = init_device_mesh("cpu", (2, 2), mesh_dim_names=("time", "units"))
        mesh, mine = both["units"], slices(10, 2, "even")[both["time"].get_local_rank()]
        distributed.shard_time(together, both["time"])
    plan = {
        "encoder": ColwiseParallel(output_layouts=Replicate()),
        "rnn": distributed.ChannelParallel(),
        "readout": RowwiseParallel(),
    }
    parallelize_module(together, mesh, plan)
    exact = alone(x)
    part = x[:, mine].clone()
    with CommDebugMode() as messages:
        y = together(part)
    counts = {str(operator): count for operator, count in messages.get_comm_counts().items() if count}
    matrices = {"c10d_functional.all_gather_into_tensor": 1, "c10d_functional.all_reduce": 1}
    of_time = {name: count for name, count in counts.items() if name.startswith("c10d.")}
    assert counts == matrices | of_time and bool(of_time) is in_time
    torch.testing.assert_close(y, exact[:, mine])
    whole_weight = torch.randn_like(exact)
    (y * whole_weight[:, mine]).sum().backward()
    (exact * whole_weight).sum().backward()
    for name, ours, theirs in zip(
        dict(alone.named_parameters()), alone.parameters(), together.parameters(), strict=True
    ):
        grad = whole(theirs.grad)
        if in_time:
            torch.distributed.all_reduce(grad, group=both["time"].get_group())
        torch.testing.assert_close(grad, ours.grad, msg=name)


def check_resumed(ranks: DeviceMesh, folder: Path) -> None:
    """The example, stopped between two checkpoints and called again, gives the weights of one that ran through."""
    over_ranks.KEPT_EVERY = 2
    through, losses = over_ranks.train(ranks, folder / "through", 50, 4)
    over_ranks.train(ranks, folder / "stopped", 50, 3)
    again, last = over_ranks.train(ranks, folder / "stopped", 50, 4)
    assert last == losses[2:]  # from the checkpoint of the second step
    for ours, theirs in zip(again.parameters(), through.parameters(), strict=True):
        assert torch.equal(whole(ours), whole(theirs))


def check_continued(ranks: DeviceMesh, folder: Path) -> None:
    """On another number of ranks; what an example has learnt is in its loss."""
    _, losses = over_ranks.train(ranks, folder / "through", 50, 5)
    assert len(losses) == 1

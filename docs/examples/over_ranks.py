"""A sequence that no process holds: every rank has a slice of time.

    torchrun --nproc-per-node 2 docs/examples/over_ranks.py    # half a minute

The layer learns to repeat the input of ten steps ago, which for the first steps of a slice is on another rank.
`bench/over_ranks.py` adds sharded weights and checkpoints, may be killed, and goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

import cofm_triton as cofm
from cofm_triton.distributed import shard_time
from cofm_triton.support.figure_file import draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DELAY = 10


def main(arguments: Sequence[str] | None = None) -> None:
    """Train; the first rank draws and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)

    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    mesh = init_device_mesh("cpu", (ranks,), mesh_dim_names=("time",))
    torch.manual_seed(0)
    model = DistributedDataParallel(shard_time(cofm.RNNFunctional(1, 32, nonlinearity="linear"), mesh["time"]))
    optimizer = torch.optim.AdamW(cofm.parameter_groups(model.module), lr=0.01)
    begin, end = options.length * rank // ranks, options.length * (rank + 1) // ranks
    losses = []
    for _ in range(options.steps):
        whole = torch.randn(1, DELAY + options.length, 1)  # the seed is the same on all ranks
        x, target = whole[:, DELAY + begin : DELAY + end], whole[:, begin:end]
        loss = nn.functional.mse_loss(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach() / ranks
        dist.all_reduce(mean)
        losses.append(mean.item())

    def plot(axes: Axes) -> None:
        axes.semilogy(losses)
        axes.set(xlabel="training step", ylabel="mean squared error", title=f"{options.length} steps on {ranks} ranks")

    if rank == 0:
        figure = options.out / "over_ranks.png"
        draw(figure, plot)
        print(f"On {ranks} ranks, the error fell from {losses[0]:.2f} to {losses[-1]:.2f}: {figure}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

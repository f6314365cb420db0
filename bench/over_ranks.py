"""Train one model on a sequence that no process holds; it may be killed at any time, and goes on where it was.

    torchrun --nproc-per-node 4 bench/over_ranks.py --out run --steps 200   # kill it, and call it again

Each process makes its slice of a long random sequence, and the model learns to repeat the input of `DELAY` steps ago,
which for the first steps of a slice is another process's. `shard_time` lets the layer run over all slices,
`fully_shard` shards weights and optimiser, and `torch.distributed.checkpoint` keeps both, for any number of processes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

import cofm_triton as cofm
from cofm_triton import distributed

DELAY, WIDTH, BATCH, KEPT_EVERY = 10, 64, 4, 10


def noise(step: int, begin: int, end: int) -> Tensor:
    """Steps begin to end of the sequences of a training step, (BATCH, end - begin, 1): the same on every process."""
    blocks = []
    for block in range(begin // 1024, -(-end // 1024)):
        generator = torch.Generator().manual_seed((step << 32) + block)
        blocks.append(torch.randn(BATCH, 1024, 1, generator=generator))
    first = begin - begin // 1024 * 1024
    return torch.cat(blocks, 1)[:, first : first + end - begin]


def slice_of(step: int, length: int, mesh: DeviceMesh) -> tuple[Tensor, Tensor]:
    """This process's slice of input and target; the target of the first `DELAY` steps is 0."""
    rank, ranks = mesh.get_local_rank(), mesh.size()
    begin, end = length * rank // ranks, length * (rank + 1) // ranks
    reach = noise(step, max(begin - DELAY, 0), end)
    reach = F.pad(reach, (0, 0, DELAY - min(begin, DELAY), 0)).to(mesh.device_type)
    return reach[:, DELAY:], reach[:, :-DELAY]


class State:
    """Model and optimiser, their files, and how many steps they have seen."""

    def __init__(self, mesh: DeviceMesh, folder: Path) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = cofm.RNNFunctional(1, WIDTH, nonlinearity="linear").to(mesh.device_type)
        fully_shard(distributed.shard_time(self.model, mesh), mesh=mesh)
        self.optimizer = torch.optim.AdamW(cofm.parameter_groups(self.model), lr=0.01)
        self.folder, self.group, self.steps = folder, mesh.get_group(), 0
        kept = [int(path.parent.name) for path in folder.glob("*/.metadata")]  # written last
        if kept:
            state = self._state(max(kept))
            load(state, checkpoint_id=folder / str(max(kept)), process_group=self.group)
            set_state_dict(
                self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
            )
            self.steps = max(kept)

    def keep(self) -> None:
        """A checkpoint of this moment."""
        save(self._state(self.steps), checkpoint_id=self.folder / str(self.steps), process_group=self.group)

    def _state(self, steps: int) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer}


def train(mesh: DeviceMesh, folder: Path, length: int, steps: int) -> tuple[nn.Module, list[float]]:
    """The model after so many steps, counted from its first one, and the losses of those made now."""
    state, losses = State(mesh, folder), []
    while state.steps < steps:
        x, target = slice_of(state.steps, length, mesh)
        loss = F.mse_loss(state.model(x), target) * (mesh.size() * x.shape[1] / length)  # FSDP2 takes the mean
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
        state.steps += 1
        mean = loss.detach() / mesh.size()
        dist.all_reduce(mean, group=mesh.get_group())
        losses.append(mean.item())
        if state.steps % KEPT_EVERY == 0:
            state.keep()
            if mesh.get_rank() == 0:
                print(f"step {state.steps}: loss {losses[-1]:.4f}", flush=True)
    return state.model, losses


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--length", type=int, default=2**16, help="steps of the whole sequence")
    parser.add_argument("--steps", type=int, default=200, help="training steps, those of earlier calls included")
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(device, (int(os.environ["WORLD_SIZE"]),))
    train(mesh, options.out, options.length, options.steps)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

"""Models whose sequences lie on many ranks: what they give in one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import rank_cases
import torch
import torch.distributed as dist
from rank_pool import RankPool
from torch import nn
from torch._C._distributed_c10d import FileStore

from cofm_triton.distributed import shard_time
from cofm_triton.layers.stable_rnn import StableRNN


@pytest.mark.parametrize("cut", ["even", "uneven"])
@pytest.mark.parametrize(
    "options",
    [
        dict(num_layers=2, bidirectional=True),
        dict(recurrence="diagonal", nonlinearity="tanh", bidirectional=True),
        dict(recurrence="diagonal", nonlinearity="tanh", oscillating=False, learnable_dt=True),
        dict(recurrence="orthogonal", nonlinearity="linear"),
        dict(recurrence="dense", nonlinearity="hardtanh"),
        dict(gated=True),
        dict(gated="mingru", oscillating=False),
    ],
    ids=str,
)
def test_layers(pool: RankPool, cut: str, options: dict[str, Any]) -> None:
    pool.run(rank_cases.check_layer, 4, cut=cut, model="layer", **options)


@pytest.mark.parametrize("model", ["functional", "residual"])
def test_models(pool: RankPool, model: str) -> None:
    pool.run(rank_cases.check_layer, 2, cut="uneven", model=model)


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", store=FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_groups_are_checked() -> None:
    layer, no_group = StableRNN(3, 5), cast(Any, "time")
    with pytest.raises(ValueError, match=r"group=None is the default group: call torch\.distributed\.init_process"):
        shard_time(layer)
    with pytest.raises(TypeError, match="group must be a ProcessGroup, a DeviceMesh of one dimension or None, got str"):
        shard_time(layer, no_group)


def test_what_has_no_slices_is_refused(one_rank: None) -> None:
    layer = shard_time(StableRNN(3, 5))
    with pytest.raises(ValueError, match="no PackedSequence, no seq_starts"):
        layer(torch.randn(4, 1, 3), seq_starts=torch.tensor([0, 2]))
    for refused in (lambda: layer.step(torch.randn(1, 3)), layer.prepared):
        with pytest.raises(ValueError, match="a layer over ranks has no step: load its state_dict into a StableRNN"):
            refused()
    with pytest.raises(ValueError, match="takes plain StableRNN layers, before other wrappers, got TimeShardedRNN"):
        shard_time(layer)
    with pytest.raises(ValueError, match="model must contain a StableRNN, got Linear without one"):
        shard_time(nn.Linear(1, 1))

"""Models in PyTorch's systems: DDP, FSDP2, tensor parallelism, recomputation, together with slices of time."""

from __future__ import annotations

from typing import Any

import pytest
import sharded_cases
from rank_pool import RankPool
from torch import nn

from cofm_triton.distributed import ChannelParallel
from cofm_triton.layers.stable_rnn import StableRNN

SSM, DIAGONAL = dict(recurrence="ssm"), dict(recurrence="diagonal", nonlinearity="tanh")


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("options", [SSM, DIAGONAL, dict(gated=True)], ids=str)
def test_sharded_models(pool: RankPool, how: str, recomputes: bool, options: dict[str, Any]) -> None:
    pool.run(sharded_cases.check_sharded, 4, how=how, recomputes=recomputes, **options)


@pytest.mark.parametrize(("ranks", "in_time"), [(2, False), (4, True)])
@pytest.mark.parametrize("options", [SSM, DIAGONAL, dict(oscillating=False, learnable_dt=True)], ids=str)
def test_tensor_parallel(pool: RankPool, ranks: int, in_time: bool, options: dict[str, Any]) -> None:
    pool.run(sharded_cases.check_tensor_parallel, ranks, in_time=in_time, **options)


class Mesh:
    """As much of a mesh as is asked for before anything is sent."""

    def size(self) -> int:
        return 2


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        (nn.Linear(1, 1), TypeError, "shards a StableRNN, before other wrappers, got Linear"),
        (StableRNN(3, 4, num_layers=2), ValueError, "one layer in one direction with recurrence 'ssm' or 'diagonal'"),
        (StableRNN(3, 4, gated=True), ValueError, "without gates, got StableRNN"),
        (StableRNN(3, 4, recurrence="dense"), ValueError, "recurrence 'ssm' or 'diagonal'"),
        (StableRNN(3, 6), ValueError, "hidden_size must give each of 2 ranks equally many pairs of units, got 6"),
        (StableRNN(3, 5, oscillating=False), ValueError, "equally many units, got 5"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(module: nn.Module, error: type[Exception], message: str) -> None:
    mesh: Any = Mesh()
    with pytest.raises(error, match=message):
        ChannelParallel()._apply(module, mesh)

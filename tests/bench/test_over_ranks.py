"""The example of a model on a sequence that no process holds: stopped and called again, it gives the same model."""

from pathlib import Path

import pytest
import sharded_cases
import torch
from rank_pool import RankPool

from bench import over_ranks


def test_slices_make_one_sequence() -> None:
    whole = over_ranks.noise(3, 0, 3000)
    assert torch.equal(whole[:, 1000:2100], over_ranks.noise(3, 1000, 2100))


@pytest.mark.slow
def test_stopped_and_continued(pool: RankPool, tmp_path: Path) -> None:
    pool.run(sharded_cases.check_resumed, 4, folder=tmp_path)
    pool.run(sharded_cases.check_continued, 2, folder=tmp_path)

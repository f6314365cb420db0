"""What sequences over ranks cost: the tables of `bench/ranks.py`."""

import rank_cases
from rank_pool import RankPool


def test_messages_and_times(pool: RankPool) -> None:
    pool.run(rank_cases.check_costs, 4)

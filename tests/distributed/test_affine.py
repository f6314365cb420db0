"""The linear recurrence over ranks: within the bounds of one process, in one collective each way."""

import pytest
import rank_cases
import torch
from rank_pool import RankPool


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize(("length", "cut"), [(2, "even"), (40, "even"), (40, "uneven")])
@pytest.mark.parametrize(
    ("dtype", "pairs"),
    [
        (torch.float32, False),
        (torch.float32, True),
        (torch.complex64, False),
        (torch.float64, True),
        (torch.bfloat16, False),
    ],
)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("states", [False, True])
def test_linear_scan(
    pool: RankPool, ranks: int, length: int, cut: str, dtype: torch.dtype, pairs: bool, gated: bool, reverse: bool,
    states: bool,
) -> None:  # fmt: skip
    options = dict(gated=gated, reverse=reverse, states=states, pairs=pairs, dtype=dtype)
    once = ({"all_gather"}, {"all_gather"})
    case = dict(draw="linear_problem", shape=(2, length, 3), cut=cut, messages=once)
    pool.run(rank_cases.check_problem, ranks, **case, **options)


@pytest.mark.parametrize("gated", [False, True])
def test_messages_do_not_grow_with_time(pool: RankPool, gated: bool) -> None:
    pool.run(rank_cases.check_messages, 4, gated=gated)


def test_a_decay_of_zero_cuts(pool: RankPool) -> None:
    pool.run(rank_cases.check_cuts, 4)


@pytest.mark.parametrize(
    ("draw", "options"),
    [
        ("linear_problem", dict()),
        ("linear_problem", dict(gated=True)),
        ("linear_problem", dict(pairs=True)),
        ("linear_problem", dict(gated=True, pairs=True)),
        ("gated_problem", dict(turning=True)),
    ],
    ids=str,
)
def test_third_derivatives(pool: RankPool, draw: str, options: dict[str, bool]) -> None:
    pool.run(rank_cases.check_third_derivatives, 4, draw=draw, **options)

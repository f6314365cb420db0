"""Recurrences that hand states on: the bits of one process, whichever way."""

import pytest
import rank_cases
import torch
from rank_pool import RankPool

IN_TURN = ({"isend", "recv", "broadcast"}, {"isend", "recv", "broadcast", "all_reduce"})
GUESSED = ({"all_gather"}, {"all_gather", "all_reduce"})
# The rule asks how long the slices are.
BY_RULE = (IN_TURN[0] | {"all_gather"}, IN_TURN[1])


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("draw", ["rnn_problem", "paired_problem"])
@pytest.mark.parametrize("handover", ["in turn", "guessed"])
@pytest.mark.parametrize(("batch", "length"), [(1, 400), (9, 30), (2, 3), (0, 5)])
@pytest.mark.parametrize("cut", ["even", "uneven"])
@pytest.mark.parametrize("nonlinearity", ["hardtanh", "tanh", "relu"])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_rnn_scan(
    pool: RankPool, ranks: int, draw: str, handover: str, batch: int, length: int, cut: str, nonlinearity: str,
    scale: float,
) -> None:  # fmt: skip
    """Inputs of size 100 saturate the units, which then forget nothing: all guesses are wrong."""
    messages = IN_TURN if handover == "in turn" else GUESSED
    case = dict(draw=draw, shape=(batch, length, 3), cut=cut, scale=scale, nonlinearity=nonlinearity)
    pool.run(rank_cases.check_problem, ranks, handover=handover, messages=messages, bits=True, **case)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize(
    ("draw", "options"),
    [
        ("rnn_problem", dict(dtype=torch.bfloat16)),
        ("rnn_problem", dict(parameterization="softplus", discretization="exact", states=False)),
        ("paired_problem", dict(dtype=torch.float64)),
        ("dense_problem", dict(nonlinearity="tanh")),
        ("gated_problem", dict(gates="rg_lru", turning=True)),
        ("gated_problem", dict(gates="s6", turning=True)),
    ],
)
@pytest.mark.parametrize("cut", ["even", "uneven"])
def test_gradients(pool: RankPool, ranks: int, draw: str, options: dict[str, object], cut: str) -> None:
    pool.run(rank_cases.check_problem, ranks, draw=draw, shape=(3, 13, 3), cut=cut, messages=BY_RULE, **options)


def test_gates_that_do_not_turn_have_a_summary(pool: RankPool) -> None:
    once = ({"all_gather"}, {"all_gather"})
    pool.run(rank_cases.check_problem, 2, draw="gated_problem", shape=(2, 13, 3), cut="even", messages=once)


def test_rule(pool: RankPool) -> None:
    pool.run(rank_cases.check_rule, 2)

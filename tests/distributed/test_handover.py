"""Recurrences that hand states on: the bits of one process, whichever way."""

from typing import Any

import pytest
import rank_cases
import torch
from rank_pool import RankPool
from scan_cases import TRITON

IN_TURN = ({"isend", "recv", "broadcast"}, {"isend", "recv", "broadcast", "all_reduce"})
GUESSED = ({"all_gather"}, {"all_gather", "all_reduce"})
# The rule asks how long the slices are, and the adjoint of 16 bits whether they have steps.
BY_RULE = (IN_TURN[0] | {"all_gather"}, IN_TURN[1] | {"all_gather"})
STATES = ("h", "h_last")
ROWS = (*STATES, "grad_x", "grad_rate_logit", "grad_input_logit", "grad_h0")  # what is no sum over steps


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
    pool.run(rank_cases.check_problem, ranks, handover=handover, messages=messages, bits=ROWS, **case)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize(
    ("draw", "bits", "options"),
    [
        ("rnn_problem", ROWS, dict(dtype=torch.bfloat16, nonlinearity="tanh")),
        ("rnn_problem", ROWS, dict(parameterization="softplus", discretization="exact", states=False)),
        ("paired_problem", ROWS, dict(dtype=torch.float64)),
        ("paired_problem", ROWS, dict(dtype=torch.bfloat16)),
        ("dense_problem", ROWS, dict(nonlinearity="tanh")),
        ("dense_problem", ROWS, dict(dtype=torch.bfloat16)),
        ("gated_problem", ROWS, dict(gates="rg_lru", turning=True)),
        ("gated_problem", ROWS, dict(gates="s6", turning=True, dtype=torch.float16)),
        # PyTorch's adjoint of channels goes in blocks of time, and so do some of Triton's.
        ("rnn_problem", STATES, dict(backend="torch", nonlinearity="tanh")),
        ("dense_problem", ROWS, dict(backend="torch", nonlinearity="tanh")),
        ("gated_problem", (), dict(backend="torch", turning=True)),
    ],
    ids=lambda value: {ROWS: "rows", STATES: "states"}.get(value, "bounds") if isinstance(value, tuple) else str(value),
)
@pytest.mark.parametrize(("batch", "length", "cut"), [(3, 13, "even"), (17, 6, "uneven"), (5, 2, "even")])
def test_bits(
    pool: RankPool, ranks: int, draw: str, bits: tuple[str, ...], options: dict[str, Any], batch: int, length: int,
    cut: str,
) -> None:  # fmt: skip
    """Chunks of a batch have other sizes than the batch; the first slice may be empty, and its end is h0."""
    case = dict(draw=draw, shape=(batch, length, 6), cut=cut, messages=BY_RULE, bits=bits)
    pool.run(rank_cases.check_problem, ranks, **case, **options)


@pytest.mark.parametrize("backend", TRITON)
@pytest.mark.parametrize("draw", ["rnn_problem", "dense_problem"])
def test_bits_of_kernels(pool: RankPool, draw: str, backend: str) -> None:
    case = dict(draw=draw, shape=(3, 5, 6), cut="even", messages=BY_RULE, bits=STATES, nonlinearity="tanh")
    pool.run(rank_cases.check_problem, 2, **case, backend=backend)


def test_gates_that_do_not_turn_have_a_summary(pool: RankPool) -> None:
    once = ({"all_gather"}, {"all_gather"})
    pool.run(rank_cases.check_problem, 2, draw="gated_problem", shape=(2, 13, 3), cut="even", messages=once)


def test_rule(pool: RankPool) -> None:
    pool.run(rank_cases.check_rule, 2)


def test_second_derivatives_are_refused(pool: RankPool) -> None:
    pool.run(rank_cases.check_once, 2)

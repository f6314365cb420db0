"""Problems: tensors by name, what is left out of them, and other strides."""

from __future__ import annotations

import pytest
import torch
from scan_cases import dense_problem, linear_problem, normal, paired_problem, rnn_problem

from cofm_triton.evidence.operators.memory_increment import increment_problem
from cofm_triton.evidence.problem import Problem

PROBLEMS = (
    linear_problem(2, 5, 3, gated=True),
    rnn_problem(2, 5, 3),
    paired_problem(2, 5, 3),
    dense_problem(2, 5, 3),
    increment_problem(2, 5, 3),
)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.operator.name)
def test_strided_tensors_hold_the_same_numbers(problem: Problem) -> None:
    strided = problem.strided()
    given = {**problem.tensors, **problem.pulls}
    moved = [name for name in given if strided[name].stride() != given[name].stride()]
    assert moved and set(moved) <= set(problem.operator.sequences)
    assert all(torch.equal(strided[name], tensor) for name, tensor in given.items())
    assert list(strided.tensors) == list(problem.tensors)
    strided.check("torch")


def test_others_by_name() -> None:
    problem = linear_problem(2, 5, 3)
    x = normal(2, 5, 3, seed=9)
    changed = problem.with_(x=x, h0=None, grad_last=None, reverse=True)
    assert changed.x is x and changed.options["reverse"]
    assert list(changed.tensors) == ["x", "decay"] and list(changed.pulls) == ["grad_h"]
    assert list(problem.tensors) == ["x", "decay", "h0"] and not problem.options["reverse"]
    assert changed.with_(h0=problem["h0"])["h0"] is problem["h0"]
    with pytest.raises(KeyError):
        changed["h0"]


def test_nothing_is_differentiated_without_a_pull() -> None:
    problem = linear_problem(2, 5, 3)
    everything = problem.run("torch")
    assert list(everything) == ["h", "h_last", "grad_x", "grad_decay", "grad_h0"]
    forward = problem.with_(grad_h=None, grad_last=None).run("torch")
    assert list(forward) == ["h", "h_last"] and torch.equal(forward["h"], everything["h"])


def test_a_wrong_result_is_outside_its_bound() -> None:
    problem = rnn_problem(2, 5, 3)
    wrong = problem.with_(rate=1.001 * problem["rate"]).run("torch")
    assert problem.bounds()["h"].excess(wrong["h"]) > 1

"""Validation passes what is right, and finds kernels that are broken on purpose."""

import pytest
import torch

from cofm_triton.evidence.validation.check import Outcome, check
from cofm_triton.evidence.validation.place import INTERPRETER, Place, places
from cofm_triton.evidence.validation.problem import Problem
from cofm_triton.evidence.validation.registry import draw, operators, problems
from cofm_triton.evidence.validation.report import details, lines
from cofm_triton.evidence.validation.run import perform
from cofm_triton.ops.backends import INSTALLED, interpreting

PLACES = [Place("torch", "cpu")]
if INSTALLED["numba"]:
    PLACES.append(Place("numba", "cpu"))
if INSTALLED["triton"] and interpreting():
    PLACES.append(Place("triton", INTERPRETER))


def smallest(operator: str) -> Problem:
    """A problem of an operator with all there is: states, odd strides; in float32 if it takes that."""
    variant = next(iter(operators()[operator].draws))
    dtype = "float32" if torch.float32 in operators()[operator].dtypes else "float64"
    return Problem(operator, variant, dtype, (2, 5, 3), "h0+strided", 0)


@pytest.mark.parametrize("operator", operators())
def test_right_kernels_pass(operator: str) -> None:
    found = perform([(smallest(operator), PLACES)], None)
    assert found
    for outcome in found:
        assert not outcome.missed, "\n".join(details(outcome))
        assert outcome.largest(backward=False) <= 1 and outcome.largest(backward=True) <= 1
        passes = {"backward" if name.startswith("grad_") else "forward" for name in outcome.ratios}
        assert passes == set(operators()[operator].functions)


@pytest.mark.parametrize(
    ("operator", "fault"), [(name, fault) for name, operator in operators().items() for fault in operator.functions]
)
def test_broken_kernels_are_found_in_the_pass_they_are_broken_in(operator: str, fault: str) -> None:
    outcomes = perform([(smallest(operator), PLACES)], fault)
    assert len(outcomes) == len([place for place in PLACES if place.backend in operators()[operator].backends])
    for outcome in outcomes:
        assert outcome.missed, outcome.replay
        assert outcome.largest(backward=True) > 1 or fault == "forward"
        assert outcome.largest(backward=False) <= 1 or fault == "forward"
        assert outcome.worst is not None and outcome.worst.result.startswith("grad_") == (fault == "backward")
    assert not any(outcome.missed for outcome in check(smallest(operator), PLACES))  # and are whole again


def test_a_call_that_raises_is_a_miss() -> None:
    (outcome,) = check(smallest("linear_scan"), [Place("torch", "meta")])
    assert outcome.missed and outcome.failure is not None
    assert outcome.largest() == torch.inf
    assert any("raised" in line for line in details(outcome))


def test_outcomes_survive_json() -> None:
    (outcome,) = check(smallest("linear_scan"), PLACES[:1])
    assert Outcome.from_dict(outcome.as_dict()) == outcome


def test_every_problem_can_be_replayed() -> None:
    for interpreted in (False, True):
        for problem in problems(tuple(operators()), 3, interpreted=interpreted, exhaustive=True):
            assert Problem.parse(problem.text) == problem


def test_equal_seeds_give_equal_numbers() -> None:
    problem = smallest("linear_scan")
    first, second = draw(problem).bounds(), draw(Problem.parse(problem.text)).bounds()
    assert all(torch.equal(first[name].exact, second[name].exact) for name in first)
    other = draw(Problem.parse(problem.text[:-1] + "1")).bounds()
    assert not torch.equal(first["h"].exact, other["h"].exact)


def test_packed_problems_fill_one_row() -> None:
    for problem in problems(("linear_scan",), 0, interpreted=False, exhaustive=False):
        assert "packed" not in problem.variant or problem.shape[0] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("linear_scan", "a problem is OPERATOR:VARIANT"),
        ("linear_scan:gated:float32:2x3:plain:0", "a problem is OPERATOR:VARIANT"),
        ("linear_scan:gated:float32:2x3x4:dense:0", "a layout of plain, h0"),
        ("linear_scan:gated:float32:2x3x4:plain:-1", "a seed >= 0"),
        ("scan:gated:float32:2x3x4:plain:0", "operator must be one of"),
        ("linear_scan:tanh:float32:2x3x4:plain:0", "variant of linear_scan must be one of time-invariant"),
        ("rnn_scan:tanh:complex64:2x3x4:plain:0", "dtype of rnn_scan must be one of"),
    ],
)
def test_names_of_no_problem_say_what_is_accepted(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(Problem.parse(text))


def test_report_shows_the_worst_case_and_every_miss() -> None:
    good = Outcome("linear_scan:gated:float32:1x1x1:plain:0", "torch@cpu", {"h": 0.25, "grad_x": 0.5})
    bad = Outcome("linear_scan:gated:float32:2x1x1:plain:0", "torch@cpu", {"h": 3.0, "grad_x": 0.75})
    text = list(lines([good, bad]))
    assert "gated                   3.00 0.75 !" in text
    assert f"  worst: 3.00  {bad.replay}" in text
    assert "2 calls, 1 missed" in text
    assert f"  {bad.replay}  MISSED" in text and f"  {good.replay}  MISSED" not in text


def test_places_say_why_the_others_are_absent() -> None:
    present, absent = places("auto")
    assert Place("torch", "cpu") in present
    assert ("triton@cuda" in absent) == (not torch.cuda.is_available() or not INSTALLED["triton"])
    assert {place.device.type for place in places("cpu")[0]} == {"cpu"}

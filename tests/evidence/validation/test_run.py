"""Validation passes what is right, and finds kernels that are broken on purpose."""

import pytest
import torch

from cofm_triton.evidence.case import Case
from cofm_triton.evidence.registry import validations
from cofm_triton.evidence.validation.cases import cases, draw
from cofm_triton.evidence.validation.check import Outcome, check
from cofm_triton.evidence.validation.place import INTERPRETER, Place, places
from cofm_triton.evidence.validation.report import details, lines
from cofm_triton.evidence.validation.run import perform
from cofm_triton.ops.backends import INSTALLED, interpreting

PLACES = [Place("torch", "cpu")]
if INSTALLED["numba"]:
    PLACES.append(Place("numba", "cpu"))
if INSTALLED["triton"] and interpreting():
    PLACES.append(Place("triton", INTERPRETER))


def smallest(operator: str) -> Case:
    """A case of an operator with all there is: states, odd strides; in float32 if it takes that."""
    variant = next(iter(validations()[operator].draws))
    dtype = torch.float32 if torch.float32 in validations()[operator].dtypes else torch.float64
    return Case(operator, variant, (2, 5, 3), dtype, "h0+strided", 0)


@pytest.mark.parametrize("operator", validations())
def test_right_kernels_pass(operator: str) -> None:
    found = perform([(smallest(operator), PLACES)], None)
    assert found
    for outcome in found:
        assert not outcome.missed, "\n".join(details(outcome))
        assert outcome.largest(backward=False) <= 1 and outcome.largest(backward=True) <= 1
        passes = {"backward" if name.startswith("grad_") else "forward" for name in outcome.ratios}
        assert passes == set(validations()[operator].functions)


@pytest.mark.parametrize(
    ("operator", "fault"), [(name, fault) for name, entry in validations().items() for fault in entry.functions]
)
def test_broken_kernels_are_found_in_the_pass_they_are_broken_in(operator: str, fault: str) -> None:
    outcomes = perform([(smallest(operator), PLACES)], fault)
    assert len(outcomes) == len([place for place in PLACES if place.backend in validations()[operator].backends])
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
    older = {"problem" if name == "case" else name: value for name, value in outcome.as_dict().items()}
    assert Outcome.from_dict(older) == outcome


def test_every_case_can_be_replayed() -> None:
    for interpreted in (False, True):
        for case in cases(tuple(validations()), 3, interpreted=interpreted, exhaustive=True):
            assert Case.parse(case.text) == case


def test_equal_seeds_give_equal_numbers() -> None:
    case = smallest("linear_scan")
    first, second = draw(case).bounds(), draw(Case.parse(case.text)).bounds()
    assert all(torch.equal(first[name].exact, second[name].exact) for name in first)
    other = draw(Case.parse(case.text[:-1] + "1")).bounds()
    assert not torch.equal(first["h"].exact, other["h"].exact)


def test_packed_cases_fill_one_row() -> None:
    for case in cases(("linear_scan",), 0, interpreted=False, exhaustive=False):
        assert "packed" not in case.variant or case.shape[0] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scan:gated:float32:2x3x4:plain:0", "operator must be one of"),
        ("linear_scan:tanh:float32:2x3x4:plain:0", "variant of linear_scan must be one of time-invariant"),
        ("rnn_scan:tanh:complex64:2x3x4:plain:0", "dtype of rnn_scan must be one of"),
    ],
)
def test_cases_of_no_operator_say_what_is_accepted(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(Case.parse(text))


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

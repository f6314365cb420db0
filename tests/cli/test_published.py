"""The authors' results beside ours: the table of their README, and numbers where they are public."""

import pytest

from cofm_triton.cli.reproduction.published import ERRORS, STABLE, Found, comparison, row_of
from cofm_triton.cli.reproduction.settings import RECURRENCES
from cofm_triton.perturbation.directions import paper_radii
from cofm_triton.step.parameterizations import PARAMETERIZATIONS


def test_numbers_belong_to_the_paper_s_radii_and_never_fall() -> None:
    """They are the largest so far."""
    for errors in ERRORS.values():
        assert len(errors) == len(paper_radii()) and list(errors) == sorted(errors)


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_every_kind_of_model_has_a_row(recurrence: str) -> None:
    for name in PARAMETERIZATIONS:
        row = row_of(recurrence, name)
        assert STABLE[row][1] == ("stable" if name in ("exp", "softplus", "inverse") else "unstable")


def test_comparison() -> None:
    found = [Found("exp", "tanh", "direct", "stable"), Found("pol", "tanh", "exp", "undecided"), Found("sin", *"abc")]
    radii = paper_radii().tolist()
    text = comparison("dense", found, radii, {8: [1.5] * 22, 12: [2.5] * 22})
    lines = [line.split() for line in text.splitlines()]
    assert ["exp", "tanh", "direct", "Vanilla", "RNN", "stable", "stable"] in lines
    assert ["pol", "tanh", "exp", "Stable", "Reparameterisation", "stable", "undecided"] in lines
    assert not any("sin" in line for line in lines)
    assert ["beta", "m=8", "theirs", "m=8", "ours"] in lines
    assert ["0.064", "156", "1.5"] in lines and "m=12" not in text
    assert "beta" not in comparison("ssm", found, radii, {})

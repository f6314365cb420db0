"""`cofm validate` from its command line: one call, right and broken, and wrong usage."""

import json
from pathlib import Path

import pytest

from cofm_triton.cli import main
from cofm_triton.cli.validate import FAULTS
from cofm_triton.evidence.validation import fault

CALL = "linear_scan:time-invariant:float32:1x3x2:h0:7:torch@cpu"


@pytest.mark.slow
def test_a_right_call_passes_and_a_broken_one_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["validate", "--replay", CALL]) == 0
    assert f"{CALL}  passed" in capsys.readouterr().out
    assert main(["validate", "--replay", CALL, "--inject-fault", "forward", "--out", str(tmp_path)]) == 1
    assert f"{CALL}  MISSED" in capsys.readouterr().out
    content = json.loads((tmp_path / "validate.json").read_text())
    assert content["options"]["inject_fault"] == "forward"
    (outcome,) = content["outcomes"]
    assert outcome["missed"] and outcome["ratios"]["h"] > 1
    assert outcome["worst"]["index"] == [0, 2, 1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--operators", "scan"], "'scan' is not one of dense_perturbation, dense_rnn, gated_rnn, linear_scan"),
        (["--replay", CALL.replace("torch@cpu", "torch@abacus")], "must end with one of"),
        (["--replay", CALL.replace("float32", "int8")], "dtype of linear_scan must be one of"),
    ],
)
def test_wrong_usage(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", *words]) == 2
    assert message in capsys.readouterr().err


def test_faults_are_those_of_the_validation() -> None:
    assert set(FAULTS) == set(fault.FAULTS)

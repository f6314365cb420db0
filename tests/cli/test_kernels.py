"""`cofm kernels` from its command line: wrong usage, and one kernel from source to table."""

from pathlib import Path

import pytest

pytest.importorskip("triton")

from cofm_triton.cli import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--operators", "scan"], "'scan' is not one of activation_gradient, dense_perturbation"),
        (["--targets", "sm_75"], "target must be one of sm_80"),
        (["--all", "--write-baseline"], "leave out --all"),
    ],
)
def test_wrong_usage(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_baseline_needs_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["kernels", "--write-baseline"]) == 2
    assert "in a checkout" in capsys.readouterr().err

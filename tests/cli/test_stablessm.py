"""`cofm stablessm`: tables are those of the library, figures are there, blocks are kept."""

import csv
import json
from pathlib import Path

import pytest
from job_cases import assert_not_continued, contents

from cofm_triton.cli import main
from cofm_triton.experiment.stable_ssm import gradient_bound, recorded_training


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a small job."""
    path = tmp_path_factory.mktemp("stablessm") / "out"
    assert stablessm(path) == 0
    return path


def stablessm(folder: Path, *words: str) -> int:
    options = ["--parameterizations", "direct,inverse", "--learning-rates", "1000,0.01", "--steps", "6"]
    options += ["--length", "60", "--width", "4", "--seeds", "2", "--device", "cpu", "--quiet", "--out", str(folder)]
    return main(["stablessm", *options, *words])


def test_results(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(folder)
    assert stablessm(folder) == 0  # from the blocks that are there
    text = capsys.readouterr().out
    assert contents(folder) == before
    with (folder / "trainings.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    for row in rows:
        if (row["kind"], row["seed"]) == ("oscillating", "1"):
            mine = recorded_training(
                row["parameterization"], learning_rate=float(row["learning_rate"]), oscillating=True, length=60,
                width=4, steps=6, seed=1,
            )  # fmt: skip
            assert float(row["final_loss"]) == mine.final and float(row["constant"]) == mine.constant
    report = json.loads((folder / "stablessm.json").read_text())
    direct, inverse = report["summary"][:2]
    assert direct["modulus"] is None  # infinite
    assert inverse["gradient_bound"] == gradient_bound("inverse")
    assert direct["stable_up_to"] <= inverse["stable_up_to"]
    assert "Best by StableSSM's criterion, the smallest bound: inverse;" in text
    assert "best by ours, the smallest modulus: inverse;" in text
    written = {path.name for path in folder.iterdir()} - {"config.json", "parts"}
    assert json.loads((folder / "config.json").read_text())["files"] == sorted(written)


def test_another_option_is_another_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_not_continued(
        lambda: stablessm(folder, "--optimizer", "adam"), folder, "optimizer: sgd there, adam now", capsys
    )
    for words, message in [
        (["--target", "poly"], "--target must be one of exp, pol"),
        (["--learning-rates", "0"], "expected a finite number > 0"),
    ]:
        try:
            assert stablessm(folder, *words) == 2
        except SystemExit as error:
            assert error.code == 2
        assert message in capsys.readouterr().err


def test_learning_rates_that_differ_little_are_two_trainings(tmp_path: Path) -> None:
    assert stablessm(tmp_path, "--learning-rates", "0.01,0.010000000001", "--parameterizations", "exp") == 0
    with (tmp_path / "trainings.csv").open() as file:
        losses = {row["learning_rate"]: row["final_loss"] for row in csv.DictReader(file)}
    assert len(losses) == len(set(losses.values())) == 2


def test_overwriting_removes_the_trainings_of_another_run(tmp_path: Path) -> None:
    assert stablessm(tmp_path) == 0
    assert stablessm(tmp_path, "--parameterizations", "exp", "--seeds", "1", "--steps", "5", "--overwrite") == 0
    assert len(list((tmp_path / "parts").iterdir())) == 4  # two kinds, two learning rates

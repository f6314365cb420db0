import argparse
import csv
import json
import math
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cofm_triton import targets
from cofm_triton.cli import main, options
from cofm_triton.cli.options import UsageError
from cofm_triton.cli.reproduce import UNDECIDED, add_arguments, settings_from
from cofm_triton.cli.reproduction import report, stages
from cofm_triton.cli.reproduction.folder import Cell, RunFolder
from cofm_triton.cli.reproduction.report import CellVerdict, verdict_table, with_outcome
from cofm_triton.cli.reproduction.settings import PARAMETERIZATIONS, PRESETS, RECURRENCES, TARGETS, Settings
from cofm_triton.experiment.training import initial_model
from cofm_triton.layers.stable_rnn import RECURRENCES as ALL_RECURRENCES
from cofm_triton.loss import temporally_weighted_mse
from cofm_triton.model_file import load_model, read_notes
from cofm_triton.perturbation.verdict import MAX_RADIUS, StabilityVerdict, judge
from cofm_triton.step.parameterization import PARAMETERIZATIONS as ALL_PARAMETERIZATIONS

FINISHED = (0, 1, UNDECIDED)
RADII = [0.0, *(1e-3 * 2 ** (i / 2) for i in range(21))]


@pytest.fixture(scope="module")
def tiny() -> Iterator[Settings]:
    """A preset of a second or two, in place of smoke."""
    small = replace(
        PRESETS["smoke"],
        targets=("exp", "pol"),
        parameterizations=("direct", "exp"),
        widths=(2, 3),
        horizons=(10, 20, 40),
        sweep_horizon=10,
        directions=4,
        train_sequences=32,
        test_sequences=16,
        horizon_sequences=16,
        linear_steps=20,
        sequence_steps=3,
        batch=80,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "smoke", small)
        yield small


@pytest.fixture(scope="module")
def finished(tiny: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; nobody writes to it."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert reproduce(out) in FINISHED
    return out


def reproduce(out: Path, *more: str) -> int:
    return main(["reproduce", "--preset", "smoke", "--device", "cpu", "--quiet", "--out", str(out), *more])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_errors_csv_holds_every_model_radius_and_direction(finished: Path, tiny: Settings) -> None:
    table = rows(finished / "errors.csv")
    models = {(r["target"], r["nonlinearity"], r["parameterization"], r["width"]) for r in table}
    assert len(models) == 2 * 2 * 2 * 2
    assert len(table) == len(models) * 22 * (4 + 1)
    radii = sorted({float(r["radius"]) for r in table})
    np.testing.assert_allclose(radii, RADII, rtol=1e-15)
    assert {r["direction"] for r in table} == {"0", "1", "2", "3", "slow"}


@pytest.mark.parametrize("nonlinearity", ["linear", "hardtanh"])
def test_errors_are_those_of_the_saved_models(finished: Path, tiny: Settings, nonlinearity: str) -> None:
    cell = Cell("pol", nonlinearity, "exp", 3)
    model = load_model(RunFolder(finished).model(cell, 10))
    x, y = targets.generate("pol", 16, 10, seed=1)
    with torch.no_grad():
        at_rest = float(temporally_weighted_mse(model(x), y))
        model.rnn.rate_l0 -= RADII[-1]
        slowed = float(temporally_weighted_mse(model(x), y))
    key = {"target": "pol", "nonlinearity": nonlinearity, "parameterization": "exp", "width": "3"}
    table = [r for r in rows(finished / "errors.csv") if key.items() <= r.items()]
    found = {(float(r["radius"]), r["direction"]): float(r["error"]) for r in table}
    # States in float32: a relative 1e-7 a step, T = 10 steps, and the squared error doubles it.
    assert found[0.0, "0"] == pytest.approx(at_rest, rel=1e-5)
    assert found[RADII[-1], "slow"] == pytest.approx(slowed, rel=1e-5)
    zero = float(temporally_weighted_mse(torch.zeros_like(y), y))
    for r in table:
        assert float(r["relative_error"]) == pytest.approx(float(r["error"]) / zero, rel=1e-12)


@pytest.mark.parametrize(
    ("recurrence", "oscillating"),
    [("ssm", False), ("ssm", True), ("diagonal", True), ("orthogonal", False), ("dense", False)],
)
def test_every_recurrence_goes_the_whole_way(
    tiny: Settings, tmp_path: Path, recurrence: str, oscillating: bool
) -> None:
    out = tmp_path / "run"
    line = ["--recurrence", recurrence, "--targets", "pol", "--parameterizations", "exp", "--widths", "3"]
    assert reproduce(out, *line, *["--oscillating"] * oscillating) in FINISHED
    x, y = targets.generate("pol", 16, 10, seed=1)
    for nonlinearity in ("linear", "hardtanh"):
        model = load_model(RunFolder(out).model(Cell("pol", nonlinearity, "exp", 3), 10))
        assert (model.rnn.recurrence, model.rnn.oscillating) == (recurrence, oscillating)
        table = [r for r in rows(out / "errors.csv") if r["nonlinearity"] == nonlinearity]
        found = {(float(r["radius"]), r["direction"]): float(r["error"]) for r in table}
        with torch.no_grad():
            at_rest = float(temporally_weighted_mse(model(x), y))
            model.rnn.rate_l0 -= RADII[-1]
            slowed = float(temporally_weighted_mse(model(x), y))
        # As above; twice that for matrices, whose rows sum as many products as there are units.
        assert found[0.0, "0"] == pytest.approx(at_rest, rel=2e-5)
        assert found[RADII[-1], "slow"] == pytest.approx(slowed, rel=2e-5)
    assert {r["verdict"] for r in rows(out / "verdicts.csv")} <= {"stable", "undecided", "unstable"}


@pytest.mark.parametrize("recurrence", ["orthogonal", "dense"])
def test_pairs_need_an_elementwise_recurrence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recurrence: str
) -> None:
    assert main(["reproduce", "--recurrence", recurrence, "--oscillating", "--out", str(tmp_path / "x")]) == 2
    message = f"--oscillating needs --recurrence diagonal or ssm, got {recurrence}"
    assert message in capsys.readouterr().err


def test_summary_is_the_statistics_of_the_errors(finished: Path) -> None:
    errors: dict[tuple[str, ...], dict[str, float]] = {}
    for r in rows(finished / "errors.csv"):
        key = (r["target"], r["nonlinearity"], r["parameterization"], r["width"], r["radius"])
        errors.setdefault(key, {})[r["direction"]] = float(r["error"])
    summary = rows(finished / "summary.csv")
    assert len(summary) == len(errors)
    running = 0.0
    for r in summary:
        key = (r["target"], r["nonlinearity"], r["parameterization"], r["width"], r["radius"])
        random = [errors[key][str(i)] for i in range(4)]
        assert float(r["mean"]) == pytest.approx(np.mean(random), rel=1e-12)
        assert float(r["max"]) == max(random)
        assert float(r["slow"]) == errors[key]["slow"]
        ordered = sorted(random)
        assert [float(r[q]) for q in ("q10", "median", "q90")] == [ordered[i] for i in (0, 1, 3)]
        running = max(random) if float(r["radius"]) == 0 else max(running, *random)
        assert float(r["running_max"]) == running
        assert int(r["diverged"]) == sum(not math.isfinite(e) for e in random)


def test_verdicts_follow_from_their_radii(finished: Path, tiny: Settings) -> None:
    table = rows(finished / "verdicts.csv")
    assert len(table) == 16
    for r in table:
        radii = [float(r[f"r_{length}"]) for length in tiny.horizons]
        expected = judge(tiny.horizons, radii, [0.0] * 3, max_radius=MAX_RADIUS)
        assert r["verdict"] == expected.verdict
        assert float(r["slope"]) == pytest.approx(expected.slope, nan_ok=True)
        assert float(r["slope_error"]) == pytest.approx(expected.error, nan_ok=True)
        polynomial_direct = (r["target"], r["parameterization"]) == ("pol", "direct")
        assert r["theory"] == ("unstable" if polynomial_direct else "stable")
    assert "verdict" in (finished / "verdict.txt").read_text()
    assert "Diagonal RNN" in (finished / "published.txt").read_text()
    for name in ("exp", "pol", "exp-radii", "pol-radii"):
        for suffix in ("png", "svg"):
            assert (finished / f"{name}.{suffix}").stat().st_size > 1000


@pytest.mark.slow
def test_equal_seeds_give_equal_bytes(finished: Path, tiny: Settings, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    reproduce(tmp_path / "again")
    torch.set_num_threads(threads)
    assert contents(tmp_path / "again") == contents(finished)
    reproduce(tmp_path / "other", "--seed", "1")
    assert contents(tmp_path / "other")["errors.csv"] != contents(finished)["errors.csv"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["train_sequences", "perturbation_error", "slow_direction_radius"])
def test_interrupted_run_continues_to_the_same_bytes(
    tiny: Settings, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    real = getattr(stages, stage)
    calls: list[int] = []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*args, **kwargs)

    out = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(stages, stage, interrupted)
        assert reproduce(out) == 130
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert any(path.suffix == ".safetensors" for path in stamps)
    assert reproduce(out) in FINISHED
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert contents(out) == contents(finished)


@pytest.mark.slow
def test_other_settings_need_overwrite(
    finished: Path, tiny: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    assert reproduce(out, "--widths", "2") == 2
    message = capsys.readouterr().err
    assert "widths: [2, 3] there, [2] now" in message
    assert "--overwrite" in message
    assert contents(out) == contents(finished)
    assert reproduce(out, "--widths", "2", "--overwrite") in FINISHED
    assert {r["width"] for r in rows(out / "errors.csv")} == {"2"}
    assert not any("m3" in name for name in contents(out))


def test_a_folder_lists_the_files_of_its_report(finished: Path, tiny: Settings) -> None:
    written = {path.name for path in finished.iterdir()} - {"config.json", "models", "parts"}
    assert json.loads((finished / "config.json").read_text())["files"] == sorted(written)


def test_overwriting_removes_all_steps_and_nothing_else(finished: Path, tiny: Settings, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(finished, root)
    others = ["notes.txt", "models/mine.safetensors", "parts/mine.csv"]
    for name in others:
        (root / name).write_text("mine")
    folder = RunFolder(root)
    with folder.open({"seed": 1}, folder.report(["exp"]), overwrite=True) as continued:
        assert not continued
    assert sorted(contents(root)) == sorted(["config.json", *others])


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("parts/pol-linear-exp-m2-errors.csv", "parts/pol-linear-exp-m3-errors.csv"),
        ("parts/pol-linear-exp-m2-T10-radius.json", "parts/pol-linear-exp-m2-T20-radius.json"),
    ],
)
def test_swapped_and_changed_parts_are_found_out(
    finished: Path, tiny: Settings, tmp_path: Path, name: str, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "run"
    shutil.copytree(finished, root)
    for content in ((root / other).read_bytes(), (root / name).read_bytes().replace(b"1", b"2"), b"", b"\xff"):
        (root / name).write_bytes(content)
        assert reproduce(root) == 2
        assert f"{Path(name).name}: it is not what this run has written there; remove it" in capsys.readouterr().err
    (root / name).unlink()
    os.mkfifo(root / name)
    assert reproduce(root) == 2
    assert f"{Path(name).name} is no regular file; remove it" in capsys.readouterr().err
    (root / name).unlink()
    assert reproduce(root) in FINISHED
    assert contents(root) == contents(finished)


def test_swapped_and_damaged_models_are_found_out(finished: Path, tiny: Settings, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(finished, root)
    folder, cell = RunFolder(root), Cell("pol", "linear", "exp", 2)
    folder.job = json.loads((root / "parts" / f"{cell.name}-errors.csv").read_text().partition("\n")[0])[0]
    assert folder.load(cell, 10).rnn.hidden_size == 2
    path = folder.model(cell, 10)
    path.write_bytes(folder.model(cell, 20).read_bytes())
    with pytest.raises(UsageError, match=r"T10\.safetensors: it is not what this run has written there"):
        folder.load(cell, 10)
    content = bytearray((finished / "models" / path.name).read_bytes())
    rates = load_model(finished / "models" / path.name).rnn.rate_l0
    content[content.index(rates.detach().numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"T10\.safetensors: it is not what this run has written there"):
        folder.load(cell, 10)
    path.write_bytes(b"")
    with pytest.raises(UsageError, match=r"T10\.safetensors: path must be a cofm model file"):
        folder.load(cell, 10)


def test_runs_of_other_versions_are_not_continued(
    finished: Path, tiny: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "run"
    shutil.copytree(finished, root)
    versions = json.loads((root / "config.json").read_text())["versions"]
    assert versions.keys() == {"cofm_triton", "python", "torch", "numpy", "numba", "triton"}
    assert versions["torch"] == torch.__version__  # with its build, which may round otherwise
    monkeypatch.setattr("cofm_triton.support.system.version", lambda name: "0.1")
    assert reproduce(root) == 2
    assert "versions: " in capsys.readouterr().err


def test_the_device_is_named(finished: Path) -> None:
    assert json.loads((finished / "config.json").read_text())["device"] == f"cpu ({platform.machine()})"


def test_a_loss_that_is_not_finite_is_kept_as_null(tmp_path: Path) -> None:
    folder, cell = RunFolder(tmp_path), Cell("exp", "linear", "direct", 2)
    model = initial_model(2, parameterization="direct")
    stages._save(folder, [cell], 10, [model], torch.tensor([math.nan]))
    assert read_notes(folder.model(cell, 10))["relative_training_loss"] is None


def test_foreign_folder_is_left_alone(tiny: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for more in ((), ("--overwrite",)):
        assert reproduce(tmp_path, *more) == 2
        assert "is not empty" in capsys.readouterr().err
    assert list(contents(tmp_path)) == ["thesis.tex"]


def test_quiet_prints_the_table_alone(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reproduce(finished)  # everything is there: only the report is made again
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.startswith((finished / "verdict.txt").read_text())
    assert str(finished) in printed.out


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cuda_without_a_gpu_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--device", "cuda", "--out", str(tmp_path / "x")]) == 2
    assert "--device cuda" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_missing_optional_dependency_is_named_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "find_spec", lambda name: None if name == "matplotlib" else name)
    assert main(["reproduce", "--out", str(tmp_path / "x")]) == 2
    assert "matplotlib not installed" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_options_replace_what_the_preset_says() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    line = "--preset paper --discretization euler --widths 4,2 --targets pol --seed 7"
    line += " --nonlinearities tanh --parameterizations inverse,lru --recurrence ssm --oscillating"
    arguments = parser.parse_args(line.split())
    settings = settings_from(arguments)
    expected = replace(
        PRESETS["paper"],
        discretization="euler",
        widths=(4, 2),
        targets=("pol",),
        nonlinearities=("tanh",),
        parameterizations=("inverse", "lru"),
        recurrence="ssm",
        oscillating=True,
        seed=7,
        device=settings.device,
    )
    assert settings == expected


def test_settings_know_every_parameterization_and_recurrence() -> None:
    assert set(PARAMETERIZATIONS) == set(ALL_PARAMETERIZATIONS)
    assert set(RECURRENCES) == set(ALL_RECURRENCES)


def verdict(target: str, parameterization: str, width: int, radii: list[float]) -> CellVerdict:
    cell = Cell(target, "linear", parameterization, width)
    return CellVerdict(cell, judge([100, 200, 400, 800], radii, [0.0] * 4, margin=0.5), None)


def test_table_judges_the_largest_width_and_counts_the_others() -> None:
    flat, falling, slowly = [0.5] * 4, [0.08, 0.04, 0.02, 0.01], [0.5, 0.4, 0.32, 0.26]
    verdicts = [
        verdict("pol", "direct", 8, flat),
        verdict("pol", "direct", 64, falling),
        verdict("exp", "direct", 8, falling),
        verdict("exp", "direct", 64, flat),
        verdict("pol", "softplus", 64, falling),
        verdict("pol", "exp", 64, slowly),
    ]
    lines = verdict_table(verdicts).splitlines()
    assert [line.split()[-3:] for line in lines[2:6]] == [
        ["unstable", "1/2", "unstable"],
        ["stable", "1/2", "stable"],
        ["unstable", "1/1", "stable"],
        ["undecided", "1/1", "stable"],
    ]
    assert "0.0800 0.0400 0.0200 0.0100" in lines[2] and "-1.00 +- 0.10" in lines[2]
    assert [v.cell.parameterization for v in with_outcome(verdicts, "wrong")] == ["softplus"]
    assert [v.cell.parameterization for v in with_outcome(verdicts, "undecided")] == ["exp"]


def test_what_theory_says_of_every_target() -> None:
    """It is about memory that decays; of a sine only that rates themselves cannot be near 0 stably."""
    assert tuple(TARGETS) == targets.TARGETS
    judged = judge([1, 2, 4], [1.0] * 3, [0.0] * 3)
    kinds = [[CellVerdict(Cell(name, "tanh", f, 8), judged, None) for f in ("relu", "lru")] for name in TARGETS]
    told = dict(zip(TARGETS, [[v.theory for v in pair] for pair in kinds], strict=True))
    assert told.pop("pol") == ["unstable", "stable"] and told.pop("sin") == ["unstable", "-"]
    assert all(pair == ["stable", "stable"] for pair in told.values())
    assert kinds[-1][1].outcome == "-"
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert parser.parse_args(["--targets", "all"]).targets == TARGETS


@pytest.mark.parametrize(("found", "status"), [("theory", 0), ("stable", 1), ("undecided", UNDECIDED)])
def test_exit_status(
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    found: str,
    status: int,
) -> None:
    """Undecided is no contradiction, and no failure."""
    out = tmp_path / "run"
    shutil.copytree(finished, out)

    def judged(*arguments: Any, **options: Any) -> StabilityVerdict:
        return replace(judge(*arguments, **options), verdict="stable" if found == "theory" else found)

    monkeypatch.setattr(report, "judge", judged)
    if found == "theory":
        monkeypatch.setattr(CellVerdict, "theory", "stable")
    assert reproduce(out) == status
    printed = capsys.readouterr().out
    assert ("Not as predicted: pol-linear-direct-m3" in printed) == (status == 1)
    assert ("Undecided: pol-linear-direct-m3" in printed) == (status == UNDECIDED)

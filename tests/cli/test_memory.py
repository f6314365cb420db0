import json
from pathlib import Path

import numpy as np
import pytest
import torch
from job_cases import assert_not_continued

from cofm_triton.cli import main
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.memory.function import memory_function
from cofm_triton.memory.sweep import memory_sweep
from cofm_triton.model_file import save_model


def model(nonlinearity: str) -> RNNFunctional:
    torch.manual_seed(0)
    return RNNFunctional(1, 3, nonlinearity=nonlinearity, dtype=torch.float64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of two activations, and the results of a job about them in out."""
    path = tmp_path_factory.mktemp("memory")
    for name in ("linear", "hardtanh"):
        save_model(path / f"{name}.safetensors", model(name))
    assert memory(path) == 0
    return path


def memory(folder: Path, *words: str) -> int:
    models = [str(folder / f"{name}.safetensors") for name in ("linear", "hardtanh")]
    options = ["--length", "60", "--perturb", "0,0.1", "--directions", "2", "--device", "cpu", "--quiet"]
    return main(["memory", *models, *options, "--out", str(folder / "out"), *words])


@pytest.mark.parametrize("name", ["linear", "hardtanh"])
def test_tables_are_those_of_the_library(folder: Path, tmp_path: Path, name: str) -> None:
    function = memory_function(model(name), 60)
    function.to_csv(tmp_path / "memory.csv")
    perturbed = memory_sweep(model(name), 60, radii=[0.0, 0.1], directions=2)
    found = np.loadtxt(folder / "out" / f"memory-{name}.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(found, np.loadtxt(tmp_path / "memory.csv", delimiter=",", skiprows=1), rtol=1e-12)
    table = np.loadtxt(folder / "out" / f"sweep-{name}.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(table[:, -1].reshape(2, 2, 60), perturbed.values.numpy(), rtol=1e-12)


def test_json_holds_fits_and_provenance(folder: Path) -> None:
    report = json.loads((folder / "out" / "memory.json").read_text())
    assert report["config"]["length"] == 60 and "versions" in report["config"]
    for entry in report["models"]:
        fit = memory_function(model(entry["name"]), 60).fit()
        assert entry["memory"]["decay"] == fit.decay
        assert entry["memory"]["rate"] == pytest.approx(fit.rate, rel=1e-9)
        assert entry["memory"]["within_bound"] == fit.within_bound
        assert [copies["radius"] for copies in entry["perturbed"]] == [0.0, 0.1]


def test_finished_blocks_are_not_computed_again(folder: Path) -> None:
    paths = [path for path in (folder / "out").rglob("*") if path.is_file()]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
    assert {"memory-linear.png", "sweep-linear.svg", "memories.png"} <= {path.name for path in paths}
    assert memory(folder) == 0
    for path, (data, stamp) in before.items():
        assert path.read_bytes() == data
        assert path.parent.name != "parts" or path.stat().st_mtime_ns == stamp


def test_a_folder_lists_the_files_of_its_report(folder: Path) -> None:
    written = {path.name for path in (folder / "out").iterdir()} - {"config.json", "parts"}
    assert json.loads((folder / "out" / "config.json").read_text())["files"] == sorted(written)


def test_wrong_usage_is_status_2(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in [
        (["--dt", "0.5"], "MODEL linear: --dt must be None or that of the model"),
        (["--min-radius", "2"], "--min-radius must not exceed radius"),
        (["--input-size", "2"], "--input-size must be that of the model, = 1, got 2"),
        (["--samples", "1"], "--samples must be at least 3"),
    ]:
        assert memory(folder, *words, "--out", str(tmp_path / "x")) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("words", "difference"),
    [
        (["--length", "59"], "length: 60 there, 59 now"),
        (["--samples", "20"], "samples: None there, 20 now"),
        (["--radius", "2"], "radius: 1.0 there, 2.0 now"),
        (["--min-radius", "0.5"], "min_radius: None there, 0.5 now"),
        (["--norm", "inf+1"], "norm: inf there, inf+1 now"),
        (["--perturb", "0,0.2"], "perturb: [0.0, 0.1] there, [0.0, 0.2] now"),
        (["--directions", "3"], "directions: 2 there, 3 now"),
        (["--ball", "l2"], "ball: inf there, l2 now"),
        (["--input-size", "1"], "input_size: None there, 1 now"),
        (["--dt", "1"], "dt: None there, 1.0 now"),
        (["--warm-up", "5"], "warm_up: 0 there, 5 now"),
        (["--seed", "1"], "seed: 0 there, 1 now"),
    ],
)
def test_a_run_is_not_continued_with_another_option(
    folder: Path, words: list[str], difference: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_not_continued(lambda: memory(folder, *words), folder, difference, capsys)

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from job_cases import assert_not_continued, contents
from safetensors.torch import load_file

from cofm_triton import targets
from cofm_triton.cli import main
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.model_file import save_model
from cofm_triton.perturbation.curve import perturbation_error
from cofm_triton.perturbation.directions import norm
from cofm_triton.support.lock import LOCK

# Kills its own process, unasked and at once, at call number KILL_AT.
FACTORY = """
import os, signal, torch
class Net(torch.nn.Module):
    calls = 0
    def __init__(self):
        super().__init__()
        self.a, self.c = torch.nn.Parameter(torch.randn(3)), torch.nn.Parameter(torch.randn(3))
    def forward(self, x):
        Net.calls += 1
        if Net.calls == int(os.environ.get("KILL_AT", 0)):
            os.kill(os.getpid(), signal.SIGKILL)
        return (torch.tanh(x * self.a) * self.c).sum(-1, keepdim=True)
def make():
    return Net()
def number():
    return 3
def argued(width):
    return Net()
def failing():
    raise KeyError("weights")
"""
FEW = ["--target", "exp", "--sequences", "8", "--length", "10", "--directions", "3", "--radii", "0,0.1,0.2"]

RTOL = 1e-10  # float64, at most a few thousand terms


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model files a.safetensors (hardtanh) and b.safetensors (linear), and the module factory.py."""
    path = tmp_path_factory.mktemp("models")
    for seed, (name, nonlinearity) in enumerate([("a", "hardtanh"), ("b", "linear")]):
        torch.manual_seed(seed)
        save_model(path / f"{name}.safetensors", RNNFunctional(1, 3, nonlinearity=nonlinearity))
    (path / "factory.py").write_text(FACTORY)
    (path / "raising.py").write_text("1 / 0")
    return path


def sweep(folder: Path, *words: str) -> int:
    models = [str(folder / "a.safetensors"), str(folder / "b.safetensors")]
    return main(["sweep", *models, *FEW, "--device", "cpu", "--quiet", *words])


def command(folder: Path, out: Path, launcher: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """The same job as `whole`, in processes of its own."""
    words = [*launcher, "-m", "cofm_triton", "sweep", "a.safetensors", "factory:make", *FEW, "--device", "cpu"]
    path = os.pathsep.join(sys.path)
    variables = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([*words, "--out", str(out)], cwd=folder, env=variables, capture_output=True, text=True)


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of a job that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ["sweep", "a.safetensors", "factory:make", *FEW, "--device", "cpu", "--quiet", "--out", str(out)]
        assert main(words) == 0
    return contents(out)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_killed_job_continues_to_the_same_bytes(folder: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "run"
    # Three calls to check the model and two to measure its memory, then one for every direction: killed within the
    # third block.
    killed = command(folder, out, [sys.executable], KILL_AT="8")
    assert killed.returncode == -signal.SIGKILL
    before = contents(out)
    assert "parts/001-direction-00001.safetensors" in before
    assert "parts/001-direction-00002.safetensors" not in before
    stamps = {name: (out / name).stat().st_mtime_ns for name in before if name != LOCK}
    resumed = command(folder, out, [sys.executable])
    assert "Continuing" in resumed.stderr
    assert contents(out) == whole
    assert all((out / name).stat().st_mtime_ns == stamp for name, stamp in stamps.items())


@pytest.mark.slow
@pytest.mark.parametrize("count", [3])
def test_several_processes_give_the_bits_of_one(
    folder: Path, whole: dict[str, bytes], tmp_path: Path, count: int
) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    done = command(folder, tmp_path / "run", torchrun)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "run") == whole
    assert done.stdout.count("Results:") == 1


@pytest.mark.parametrize("ball", ["inf", "l2"])
def test_errors_are_those_of_perturbation_error(folder: Path, tmp_path: Path, ball: str) -> None:
    words = ["--search", "gradient", "--precision", "float64", "--ball", ball]
    assert sweep(folder, *words, "--out", str(tmp_path)) == 0
    x, y = targets.generate("exp", 8, 10, seed=1)
    torch.manual_seed(0)
    model = RNNFunctional(1, 3, nonlinearity="hardtanh").double()
    grid = [0.0, 0.1, 0.2]
    random = perturbation_error(model, x, y, radii=grid, directions=3, ball=ball)
    slow = perturbation_error(model, x, y, radii=grid, search="slow", ball=ball)
    table = {(float(r["radius"]), r["direction"]): float(r["error"]) for r in rows(tmp_path / "errors.csv")[:15]}
    for r, radius in enumerate(grid):
        found = [table[radius, str(j)] for j in range(3)]
        np.testing.assert_allclose(found, random.per_direction[0, r].numpy(), rtol=RTOL)
        assert table[radius, "slow"] == pytest.approx(slow.error[0, r].item(), rel=RTOL)
        assert table[radius, "worst"] >= max(*found, table[radius, "slow"])
    # The worst perturbation is kept, and gives the worst error.
    moved = load_file(tmp_path / "worst-a.safetensors")
    direction = {name: moved[f"2.{name}"] for name, _ in model.named_parameters()}
    again = perturbation_error(model, x, y, radii=[1.0], directions=[direction])
    assert again.error.item() == pytest.approx(table[0.2, "worst"], rel=RTOL)
    assert all(norm(d, ball) <= 0.2 * (1 + 1e-12) for d in direction.values())


def test_json_says_how_the_numbers_were_made(folder: Path, whole: dict[str, bytes]) -> None:
    report = json.loads(whole["sweep.json"])
    config = report["config"]
    assert config["seed"] == 0 and config["data"]["target"] == "exp" and config["device"].startswith("cpu")
    assert config["versions"]["torch"] == torch.__version__
    assert [model["name"] for model in config["models"]] == ["a", "factory-make"]
    first, second = report["models"]
    assert first["max"][1] >= first["q50"][1] and len(first["slow"]) == 3
    assert "slow" not in second  # a module without rates
    assert {"sweep.png", "sweep.svg", "errors.csv"} <= whole.keys()


def test_own_data(folder: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((4, 6, 1))
    np.savez(tmp_path / "data.npz", inputs=x, targets=2 * x)
    words = ["sweep", str(folder / "b.safetensors"), "--data", str(tmp_path / "data.npz"), "--metric", "mse"]
    words += ["--radii", "0", "--directions", "1", "--device", "cpu", "--quiet", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["models"][0]["zero_error"] == pytest.approx(
        (4 * x**2).mean()
    )


def test_own_data_of_another_shape_are_other_data(folder: Path, tmp_path: Path) -> None:
    words = ["sweep", str(folder / "b.safetensors"), "--data", str(tmp_path / "data.npz"), "--radii", "0"]
    words += ["--directions", "1", "--device", "cpu", "--quiet", "--out", str(tmp_path / "out")]
    for shape, status in (((2, 3, 1), 0), ((2, 3, 1), 0), ((3, 2, 1), 2)):
        np.savez(tmp_path / "data.npz", inputs=np.arange(6).reshape(shape), targets=np.ones(shape))
        assert main(words) == status


def test_a_folder_lists_the_files_of_its_report(folder: Path, tmp_path: Path) -> None:
    assert sweep(folder, "--search", "gradient", "--radii", "0.1", "--out", str(tmp_path)) == 0
    written = {path.name for path in tmp_path.iterdir()} - {"config.json", "parts"}
    assert json.loads((tmp_path / "config.json").read_text())["files"] == sorted(written)
    assert "worst-a.safetensors" in written
    assert sweep(folder, "--seed", "1", "--radii", "0.1", "--overwrite", "--out", str(tmp_path)) == 0
    assert not (tmp_path / "worst-a.safetensors").exists()


def test_overwriting_spares_files_of_others(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others = {"config.json": '{"mine": 1}', "precious.csv": "1,2", "notes.txt": "mine"}
    for name, text in others.items():
        (tmp_path / name).write_text(text)
    assert sweep(folder, "--overwrite", "--out", str(tmp_path)) == 2
    assert "is not empty and holds no config.json of an earlier run" in capsys.readouterr().err
    assert contents(tmp_path) == {name: text.encode() for name, text in others.items()}


def test_the_table_says_what_nan_means(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(folder, "--out", str(tmp_path)) == 0  # untrained models: no error is below a tenth of P
    table = capsys.readouterr().out
    assert " nan " in table
    assert "nan: it is larger at the smallest radius already." in table


def test_other_settings_need_overwrite(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path)]
    assert sweep(folder, *out) == 0
    assert sweep(folder, "--seed", "1", *out) == 2
    assert "seed: 0 there, 1 now" in capsys.readouterr().err
    assert sweep(folder, "--seed", "1", "--overwrite", *out) == 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.safetensors, data.npz, and the results of a job about them in out."""
    path = tmp_path_factory.mktemp("finished")
    save_model(path / "model.safetensors", RNNFunctional(1, 2, nonlinearity="linear"))
    np.savez(path / "data.npz", inputs=np.ones((2, 3, 1)), targets=np.ones((2, 3, 1)))
    assert again(path) == 0
    return path


def again(folder: Path, *words: str) -> int:
    """The job of `finished`, with options of its own. Neither its model nor its data follow from the seed."""
    options = ["--radii", "0,0.1", "--directions", "1", "--device", "cpu", "--quiet", "--out", str(folder / "out")]
    return main(["sweep", str(folder / "model.safetensors"), "--data", str(folder / "data.npz"), *options, *words])


@pytest.mark.parametrize(
    ("words", "difference"),
    [
        (["--radii", "0,0.2"], "radii: [0.0, 0.1] there, [0.0, 0.2] now"),
        (["--directions", "2"], "directions: 1 there, 2 now"),
        (["--search", "gradient"], "search: random there, gradient now"),
        (["--ball", "l2"], "ball: inf there, l2 now"),
        (["--metric", "mse"], "metric: twe there, mse now"),
        (["--precision", "float64"], "precision: float32 there, float64 now"),
        (["--seed", "1"], "seed: 0 there, 1 now"),
        (["--memory-limit", "2GiB"], f"memory_limit: {2**30} there, {2**31} now"),
    ],
)
def test_a_run_is_not_continued_with_another_option(
    finished: Path, words: list[str], difference: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_not_continued(lambda: again(finished, *words), finished, difference, capsys)


@pytest.mark.parametrize(("file", "setting"), [("model.safetensors", "models"), ("data.npz", "data")])
def test_a_run_is_not_continued_with_other_numbers_in_a_file(
    finished: Path, file: str, setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / file).read_bytes()
    if setting == "models":
        save_model(finished / file, RNNFunctional(1, 2, nonlinearity="linear"))
    else:
        np.savez(finished / file, inputs=np.ones((2, 3, 1)), targets=2 * np.ones((2, 3, 1)))
    status = again(finished)
    (finished / file).write_bytes(before)
    assert status == 2
    shown = capsys.readouterr().err
    assert f"holds a run with other settings ({setting}: " in shown and "; " not in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.safetensors", "--target", "exp"], "no file 'nothing.safetensors'"),
        (["factory.py", "--target", "exp"], "must be a cofm model file"),
        (["nowhere:make", "--target", "exp"], "cannot import 'nowhere:make'"),
        (["factory:nothing", "--target", "exp"], "cannot import 'factory:nothing'"),
        (["raising:make", "--target", "exp"], "cannot import 'raising:make': ZeroDivisionError: division by zero"),
        (["factory:number", "--target", "exp"], "must return a torch.nn.Module, got int"),
        (["factory:argued", "--target", "exp"], "factory:argued failed when called without arguments: TypeError: argu"),
        (["factory:failing", "--target", "exp"], "factory:failing failed when called without arguments: KeyError: 'we"),
        (["a.safetensors", "a.safetensors", "--target", "exp"], "two models have the name 'a'"),
        (["a.safetensors", "--target", "cosine"], "--target must be one of exp, pol"),
        (["a.safetensors", "--data", "nothing.npz"], "no file 'nothing.npz'"),
        (["a.safetensors", "--data", "factory.py"], "must be a .npz file"),
        (["a.safetensors", "--data", "zero.npz"], "targets must not all be zero"),
        (["a.safetensors", "--data", "wide.npz"], "MODEL a: it does not fit the data"),
        (["a.safetensors", "--data", "complex.npz"], "--data: complex.npz must be a .npz file with arrays inputs and"),
        (["a.safetensors", "--data", "complex.npz"], "inputs must hold real numbers, got complex128"),
        (["a.safetensors", "--data", "flags.npz"], "targets must hold real numbers, got bool"),
        (["a.safetensors", "--data", "words.npz"], "inputs must hold real numbers, got <U1"),
        (["a.safetensors", "--data", "unequal.npz"], "--data: targets must have the N and T of inputs, (2, 3), got"),
        (["a.safetensors", "--data", "flat.npz"], "--data: inputs must have three dimensions"),
        (["a.safetensors", "--data", "nan.npz"], "--data: inputs must be finite"),
        (["a.safetensors", "--data", "empty.npz"], "--data: empty.npz must be a .npz file"),
        (["a.safetensors", "--data", "cut.npz"], "--data: cut.npz must be a .npz file"),
        (["a.safetensors", "--data", "zero.npz", "--length", "100"], "--length: for data of a --target, not for"),
        (["a.safetensors", "--data", "zero.npz", "--dt", "1", "--sequences", "9"], "--sequences, --dt: for data of"),
        (
            ["factory:make", "--target", "exp", "--memory-limit", "100"],
            "MODEL factory-make: --memory-limit must be at least",
        ),
    ],
)
def test_wrong_usage_is_status_2_and_leaves_no_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, words: list[str], message: str
) -> None:
    monkeypatch.chdir(folder)
    np.savez("zero.npz", inputs=np.ones((2, 3, 1)), targets=np.zeros((2, 3, 1)))
    ones = np.ones((2, 3, 1))
    np.savez("wide.npz", inputs=np.ones((2, 3, 2)), targets=ones)
    np.savez("complex.npz", inputs=ones * 1j, targets=ones)
    np.savez("flags.npz", inputs=ones, targets=ones > 0)
    np.savez("words.npz", inputs=ones.astype(int).astype("U1"), targets=ones)
    np.savez("unequal.npz", inputs=ones, targets=np.ones((2, 4, 1)))
    np.savez("flat.npz", inputs=np.ones((2, 3)), targets=ones)
    np.savez("nan.npz", inputs=ones * np.nan, targets=ones)
    Path("empty.npz").write_bytes(b"")
    Path("cut.npz").write_bytes(Path("zero.npz").read_bytes()[:100])
    assert main(["sweep", *words, "--device", "cpu", "--out", str(tmp_path / "x")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_help_says_that_random_directions_bound_the_worst_from_below(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["sweep", "--help"])
    assert "a lower bound of that of all" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("radii", ["-1", "nan", "inf", "x", "0.1,0.1"])
def test_radii_are_distinct_finite_numbers(radii: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "a", "--target", "exp", f"--radii={radii}"])
    assert stop.value.code == 2
    assert "--radii" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["0", "-1", "1.5GiB", "2GB", "lots"])
def test_memory_limits_are_bytes_or_have_a_unit(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "a", "--target", "exp", f"--memory-limit={size}"])
    assert stop.value.code == 2
    assert "--memory-limit: expected a size like 500MiB" in capsys.readouterr().err


def test_a_memory_limit_changes_last_bits_alone(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    tables = []
    limits = {"4KiB": 4096, "1GiB": 2**30}
    for size, limit in limits.items():
        out = tmp_path / size
        words = ["--precision", "float64", "--device", "cpu", "--quiet", "--memory-limit", size, "--out", str(out)]
        assert main(["sweep", "factory:make", *FEW, *words]) == 0
        assert json.loads((out / "sweep.json").read_text())["config"]["memory_limit"] == limit
        tables.append([float(row["error"]) for row in rows(out / "errors.csv")])
    np.testing.assert_allclose(*tables, rtol=RTOL)  # type: ignore[call-overload]

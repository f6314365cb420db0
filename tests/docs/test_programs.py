"""The examples run, in a short form: each draws a figure and ends with a sentence."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib")

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SHORT = {
    "adding": ["--length", "20", "--steps", "2"],
    "digits": ["--epochs", "1"],
    "episodes": ["--steps", "2"],
    "stream": ["--steps", "2"],
    "truncated": ["--steps", "2"],
}
WITH_TORCHRUN = {"over_ranks": ["--length", "64", "--steps", "2"]}


@pytest.fixture(autouse=True)
def own_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng():
        yield


def test_every_program_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*SHORT, *WITH_TORCHRUN}


@pytest.mark.parametrize("name", SHORT)
def test_program(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "digits":
        pytest.importorskip("sklearn")
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    program.main([*SHORT[name], "--out", str(tmp_path / "new")])
    sentence, _, figure = capsys.readouterr().out.strip().splitlines()[-1].rpartition(": ")
    assert figure == str(tmp_path / "new" / f"{name}.png") and Path(figure).stat().st_size > 5000
    assert sentence[0].isupper() and any(letter.isdigit() for letter in sentence)


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch was built without torch.distributed")
def test_program_over_ranks(tmp_path: Path) -> None:
    words = ["--standalone", "--nproc-per-node", "2", str(EXAMPLES / "over_ranks.py"), *WITH_TORCHRUN["over_ranks"]]
    command = [sys.executable, "-m", "torch.distributed.run", *words, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("On 2 ranks") and (tmp_path / "over_ranks.png").exists()

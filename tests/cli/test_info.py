"""What a report of a fault says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cofm_triton import __version__
from cofm_triton.cli import info, main
from cofm_triton.ops.backends import INSTALLED


def test_json_holds_all_and_goes_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json", "--out", str(tmp_path)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / info.FILE).read_text(encoding="utf-8"))
    assert printed["cofm_triton"] == __version__ and torch.__version__.startswith(printed["versions"]["torch"])
    assert len(printed["gpus"]) == torch.cuda.device_count()
    assert (printed["backends"]["numba"] == "yes") == INSTALLED["numba"]
    assert set(printed["caches"]) == {"numba", "triton"}


def test_lines_say_what_the_json_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    text, about = capsys.readouterr().out, info.look_around()
    for part in (about["python"], about["processor"], *about["versions"].values(), *about["backends"].values()):
        assert part in text


@pytest.mark.parametrize(
    ("variable", "installed", "gpu", "state"),
    [
        ("1", True, False, "interpreted"),
        ("0", True, False, "no: no GPU"),
        ("0", True, True, "yes"),
        ("0", False, True, "no: the package"),
    ],
)
def test_why_triton_is_not_used(
    variable: str, installed: bool, gpu: bool, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", variable)
    monkeypatch.setattr(info, "find_spec", lambda name: object() if installed else None)
    assert info._backends(gpu)["triton"].startswith(state)


def test_no_torch_is_imported_where_it_knows_no_gpu(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.argv = ['cofm', 'info', '--quiet']\n"
        "from cofm_triton.cli import main\n"
        "from cofm_triton.support.system import torch_knows_gpus\n"
        "main()\n"
        "sys.exit('torch' in sys.modules and not torch_knows_gpus())"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True).returncode == 0

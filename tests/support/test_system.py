"""What the system has, looked at without PyTorch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cofm_triton.support import system


def test_versions_are_those_of_what_is_installed() -> None:
    assert system.versions(["no-such-package", "torch"]) == {"torch": torch.__version__}


def test_the_file_of_versions_tells_what_torch_was_built_for() -> None:
    assert system.torch_knows_gpus() == any(
        getattr(torch.version, name, None) is not None for name in ("cuda", "hip", "xpu")
    )


@pytest.mark.parametrize(("look", "variable"), [("numba", "NUMBA_CACHE_DIR"), ("triton", "TRITON_CACHE_DIR")])
def test_folders_are_those_of_the_environment(
    look: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "made" / "later"
    monkeypatch.setenv(variable, str(folder))
    looked_at = getattr(system, f"{look}_folder")
    assert looked_at() == (folder, 0, 0, True)
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "code.nbc").write_bytes(b"12345")
    assert looked_at() == (folder, 1, 5, True)


def test_a_file_in_place_of_a_folder_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file" / "below"))
    assert not system.triton_folder().writable


def test_numba_keeps_its_code_where_the_system_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also without the variable: a process of its own compiles one function."""
    pytest.importorskip("numba")
    code = (
        "from cofm_triton.cpu.jit.code_cache import CodeCache\n"
        "from cofm_triton.cpu.jit import linear_scan\n"
        "from cofm_triton.support.system import numba_folder\n"
        "caches = (getattr(value, '_cache', None) for value in vars(linear_scan).values())\n"
        "found = next(cache for cache in caches if isinstance(cache, CodeCache))\n"
        "print(found.cache_path, numba_folder().path, sep='\\n')\n"
    )
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    kept, said = done.stdout.splitlines()
    assert kept == said

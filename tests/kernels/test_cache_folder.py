"""Where Triton keeps what it compiles when its own folder cannot be written."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest

pytest.importorskip("triton")

from triton import knobs

from cofm_triton.kernels.cache_folder import ensure_folder


@pytest.fixture(autouse=True)
def compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton compiles, and its settings are back afterwards."""
    monkeypatch.setenv("TRITON_CACHE_DIR", "")
    monkeypatch.delenv("TRITON_CACHE_MANAGER", raising=False)
    monkeypatch.setattr(knobs.runtime, "interpret", False)


def test_a_folder_that_can_be_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knobs.cache, "dir", str(tmp_path / "new"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ensure_folder.__wrapped__()
    assert knobs.cache.dir == str(tmp_path / "new")


def test_another_one_is_replaced_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(knobs.cache, "dir", f"{os.devnull}/below")
    with pytest.warns(RuntimeWarning, match="TRITON_CACHE_DIR"):
        ensure_folder.__wrapped__()
    assert Path(knobs.cache.dir).parent == tmp_path and Path(knobs.cache.dir).is_dir()


def test_interpreted_kernels_need_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knobs.runtime, "interpret", True)
    monkeypatch.setattr(knobs.cache, "dir", f"{os.devnull}/below")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ensure_folder.__wrapped__()

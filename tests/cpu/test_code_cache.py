"""Machine code on disk: nobody is ever given code that was made for other arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("numba")

from cofm_triton.cpu.jit import code_cache, forward
from cofm_triton.cpu.jit.code_cache import CodeFiles, keep_safely, sources


def test_code_comes_back(tmp_path: Path) -> None:
    files = CodeFiles(str(tmp_path), "f-1.py3", "stamp")
    assert files.load("a") is None
    files.save("a", 1)
    files.save("b", 2)
    files.save("a", 3)
    other = CodeFiles(str(tmp_path), "f-1.py3", "stamp")
    assert (other.load("a"), other.load("b"), other.load("c")) == (3, 2, None)


@pytest.mark.parametrize("step", ["_load_index", "_save_data", "_save_index"])
@pytest.mark.parametrize("late", [False, True])
def test_two_processes_at_once(late: bool, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second saves while the first is at one of its steps, before or after it."""
    first, second = (CodeFiles(str(tmp_path), "f", "stamp") for _ in range(2))
    original = getattr(first, step)

    def meanwhile(*arguments: object) -> object:
        if not late:
            second.save("b", 2)
        result = original(*arguments)
        if late:
            second.save("b", 2)
        return result

    monkeypatch.setattr(first, step, meanwhile)
    first.save("a", 1)
    assert second.load("a") in (None, 1) and second.load("b") in (None, 2)
    assert {second.load("a"), second.load("b")} != {None}


def test_an_index_names_no_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an older version left is not taken for the new version's before that has written its own."""
    CodeFiles(str(tmp_path), "f", "old").save("a", "old")
    new = CodeFiles(str(tmp_path), "f", "new")
    assert new.load("a") is None
    original = new._save_data

    def look_and_save(name: str, data: object) -> None:
        assert CodeFiles(str(tmp_path), "f", "new").load("a") is None
        original(name, data)

    monkeypatch.setattr(new, "_save_data", look_and_save)
    new.save("a", "new")
    assert CodeFiles(str(tmp_path), "f", "new").load("a") == "new"


def test_compiled_functions_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    files = forward._forward._cache._cache_file
    assert isinstance(files, CodeFiles)
    assert {"activation.py", "vectors.py"} <= {name for name, *_ in sources()}
    # A change of any of the sources is another stamp.
    monkeypatch.setattr(code_cache, "sources", lambda: ())
    assert keep_safely(forward._forward)._cache._cache_file._source_stamp != files._source_stamp
    forward._forward._cache._cache_file = files

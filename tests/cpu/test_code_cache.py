"""Machine code on disk: nobody is ever given code that was made for other arguments."""

from __future__ import annotations

import os
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
    # Compiled code contains the order of `NONLINEARITIES` and the coefficients beside it.
    names = {str(path.relative_to(code_cache.PACKAGE)) for path in code_cache.source_files()}
    assert {"cpu/jit/activation.py", "cpu/jit/vectors.py", "nonlinearity.py"} <= names
    # A change of any of the sources is another stamp.
    monkeypatch.setattr(code_cache, "sources", lambda: "")
    assert keep_safely(forward._forward)._cache._cache_file._source_stamp != files._source_stamp
    forward._forward._cache._cache_file = files


def test_the_stamp_is_of_what_files_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.py"
    monkeypatch.setattr(code_cache, "PACKAGE", tmp_path)
    monkeypatch.setattr(code_cache, "source_files", lambda: [file])
    stamps = []
    for text in ("1", "2", "1"):
        file.write_text(text)
        stamps.append(sources.__wrapped__())
    assert stamps[0] == stamps[2] != stamps[1]


def test_an_old_process_leaves_the_code_of_a_new_one_alone(tmp_path: Path) -> None:
    old, new = CodeFiles(str(tmp_path), "f", "old"), CodeFiles(str(tmp_path), "f", "new")
    new.save("a", "new")
    kept = new._load_index()["a"]
    old._save_data = lambda name, data: (_ for _ in ()).throw(KeyboardInterrupt())  # it dies before its index
    with pytest.raises(KeyboardInterrupt):
        old.save("a", "old")
    assert new.load("a") == "new"
    old = CodeFiles(str(tmp_path), "f", "old")
    old.save("a", "old")
    assert old._load_index()["a"] != kept and new._load_data(kept) == "new"


def test_code_that_no_index_names_is_removed_after_a_while(tmp_path: Path) -> None:
    CodeFiles(str(tmp_path), "f", "old").save("a", 1)
    CodeFiles(str(tmp_path), "g", "old").save("a", 1)
    new = CodeFiles(str(tmp_path), "f", "new")
    new.save("a", 2)
    assert len(list(tmp_path.glob("f.*.nbc"))) == 2  # the other may be about to be named
    for path in tmp_path.glob("*.nbc"):
        os.utime(path, (0, 0))
    new.save("b", 3)
    assert {path.name for path in tmp_path.glob("f.*.nbc")} == set(new._load_index().values())
    assert CodeFiles(str(tmp_path), "g", "old").load("a") == 1

"""Machine code on disk: never made for other arguments, and only ever a help."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numba")

from numba.core import config

from cofm_triton.cpu.jit import code_cache, forward
from cofm_triton.cpu.jit.code_cache import CodeCache, CodeFiles, sources
from cofm_triton.cpu.jit.compiled import entry
from cofm_triton.support.files import PART


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
    # Compiled code contains the order of `NONLINEARITIES`, the bodies of their rows and the coefficients beside them.
    names = {str(path.relative_to(code_cache.PACKAGE)) for path in code_cache.source_files()}
    assert {"cpu/jit/activation.py", "cpu/jit/vectors.py", "step/activations/tanh.py"} <= names
    # A change of any of the sources is another stamp.
    monkeypatch.setattr(code_cache, "sources", lambda: "")
    assert CodeCache(forward._forward.py_func)._cache_file._source_stamp != files._source_stamp


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
    # It dies before its index.
    old._save_data = lambda name, data: (_ for _ in ()).throw(KeyboardInterrupt())  # type: ignore[method-assign]
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


def plus_one(x: int) -> int:
    return x + 1


def times_two(x: int) -> int:
    return x * 2


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where code is kept in a test, in which nothing has been warned of."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(code_cache, "_warned", False)
    return tmp_path


def files_in(folder: Path, ending: str = "") -> list[Path]:
    return sorted(path for path in folder.rglob(f"*{ending}") if path.is_file())


def use(hits: int) -> None:
    """Calls a function as a new process would, which finds its code on disk or not; nobody is warned."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled = entry(plus_one)
        assert compiled(1) == 2
    assert sum(compiled.stats.cache_hits.values()) == hits


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "one bit": lambda content: content[:-100] + bytes([content[-100] ^ 1]) + content[-99:],
    "garbage": lambda content: b"\x80\x05garbage" * 99,
    "pickle of something else": lambda content: pickle.dumps(("0", 7)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
def test_damaged_files_are_replaced(ending: str, damage: Callable[[bytes], bytes], folder: Path) -> None:
    use(hits=0)
    use(hits=1)
    (path,) = files_in(folder, ending)
    path.write_bytes(damage(path.read_bytes()))
    use(hits=0)
    use(hits=1)


def test_code_of_another_version_of_numba_is_not_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(hits=0)
    with monkeypatch.context() as other:
        other.setattr(code_cache.CodeFiles, "_digest", lambda files, content: bytes(32))
        use(hits=0)
    use(hits=0)


def test_code_that_cannot_be_rebuilt_is_compiled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(hits=0)
    monkeypatch.setattr(CodeFiles, "load", lambda files, key: ("something", "else"))
    use(hits=0)


def check_one_warning(what: str) -> None:
    """Two functions are compiled, with one warning."""
    with pytest.warns(RuntimeWarning) as caught:
        assert entry(plus_one)(1) == 2
        assert entry(times_two)(3) == 6
    (warning,) = caught
    assert "NUMBA_CACHE_DIR" in str(warning.message) and what in str(warning.message)


def test_without_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user has no home."""
    monkeypatch.setattr(CodeCache._impl_class, "_locator_classes", [])
    check_one_warning("no locator available")


@pytest.mark.parametrize("place", ["/dev/null/x", "/proc/x"])
def test_a_folder_that_cannot_be_made(place: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even by root. Code is kept next to its source, so that there is nothing to warn of."""
    monkeypatch.setattr(config, "CACHE_DIR", place)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled = entry(plus_one)
        assert compiled(1) == 2
    assert Path(compiled._cache.cache_path).parent == Path(__file__).parent


@pytest.mark.parametrize("step", ["os.fsync", "os.replace"])
def test_on_a_full_disk(step: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(step, fail)
    check_one_warning("No space left")
    assert not files_in(folder)


@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
def test_a_name_that_is_taken_by_a_folder(ending: str, folder: Path) -> None:
    for function in (plus_one, times_two):
        entry(function)(1)
    for path in files_in(folder, ending):
        path.unlink()
        path.mkdir()
    check_one_warning("Is a directory")
    assert not files_in(folder, f"{PART}*")


@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
def test_a_pipe_in_the_place_of_a_file_is_replaced(ending: str, folder: Path) -> None:
    use(hits=0)
    (path,) = files_in(folder, ending)
    path.unlink()
    os.mkfifo(path)
    use(hits=0)
    use(hits=1)


def test_a_folder_that_became_a_file(folder: Path) -> None:
    first, second = entry(plus_one), entry(times_two)
    shutil.rmtree(folder)
    folder.write_text("mine")
    with pytest.warns(RuntimeWarning, match="NUMBA_CACHE_DIR") as caught:
        assert (first(1), second(3)) == (2, 6)
    assert len(caught) == 1 and folder.read_text() == "mine"


def test_a_killed_process_leaves_nothing_for_long(folder: Path) -> None:
    code = (
        "import os, signal\n"
        "os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from cofm_triton.cpu.jit.code_cache import CodeFiles\n"
        f"CodeFiles({str(folder)!r}, 'f', 'stamp').save('a', 1)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode < 0
    (left,) = files_in(folder)
    assert left.name.startswith(PART)
    CodeFiles(str(folder), "f", "stamp").save("a", 1)
    assert left not in files_in(folder)

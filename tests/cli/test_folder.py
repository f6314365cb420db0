"""The folder of a job: what is continued, what is replaced, and what is left alone."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cofm_triton.cli.jobs.folder import CONFIG, FILES, WRITER, ResultFolder
from cofm_triton.cli.options import UsageError, make_folder
from cofm_triton.support.files import PART, atomic_path

NAMES = ["errors.csv", "sweep.json"]


def claim(root: Path, seed: int = 0, command: str = "sweep", *, overwrite: bool = False) -> bool:
    with ResultFolder(root, command).open({"seed": seed}, NAMES, overwrite=overwrite) as continued:
        return continued


def finish(root: Path) -> None:
    """What a job leaves."""
    (root / "parts").mkdir()
    for name in (*NAMES, "parts/000-slow.safetensors", f"parts/{PART}x.safetensors", f"{PART}y.csv"):
        (root / name).write_text("ours")


def contents(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_the_same_job_continues(tmp_path: Path) -> None:
    assert not claim(tmp_path / "run")
    finish(tmp_path / "run")
    before = contents(tmp_path / "run")
    assert claim(tmp_path / "run")
    assert claim(tmp_path / "run", overwrite=True)
    assert contents(tmp_path / "run") == {path for path in before if PART not in path}


def test_what_another_process_of_the_job_is_writing_stays(tmp_path: Path) -> None:
    claim(tmp_path)
    with atomic_path(tmp_path / "parts" / "001-slow.safetensors") as part:
        assert claim(tmp_path)
        assert part.exists()


def test_a_run_that_was_killed_before_it_could_claim_its_folder_starts_again(tmp_path: Path) -> None:
    with atomic_path(tmp_path / CONFIG) as part:
        part.write_text("{")
        content = part.read_bytes()
    (tmp_path / CONFIG).unlink()
    part.write_bytes(content)
    assert not claim(tmp_path)
    assert contents(tmp_path) == {CONFIG}


def test_overwriting_removes_what_the_job_has_written_and_nothing_else(tmp_path: Path) -> None:
    claim(tmp_path)
    finish(tmp_path)
    mine = {"precious.csv", "notes.txt", "sweep.json.bak", "parts/mine.safetensors", "parts/notes.txt"}
    for name in mine:
        (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match="seed: 0 there, 1 now"):
        claim(tmp_path, 1)
    assert not claim(tmp_path, 1, overwrite=True)
    assert contents(tmp_path) == {CONFIG, *mine}
    assert json.loads((tmp_path / CONFIG).read_text())["seed"] == 1


def test_overwriting_removes_folders_that_it_leaves_empty(tmp_path: Path) -> None:
    claim(tmp_path)
    finish(tmp_path)
    claim(tmp_path, 1, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == [CONFIG]


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b"[1]",
        b"3",
        b"{",
        b"[" * 100_000,
        b"\xff",
        b'{"seed": 0}',
        b'{"written_by": "me", "files": []}',
        b'{"written_by": "cofm sweep", "files": [1]}',
        b'{"written_by": "cofm sweep"}',
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_a_foreign_config_is_left_alone(tmp_path: Path, content: bytes, overwrite: bool) -> None:
    for name in (CONFIG, "errors.csv", "precious.csv", "notes.txt"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FileExistsError, match=f"is not empty and holds no {CONFIG} of an earlier run"):
        claim(tmp_path, overwrite=overwrite)
    assert all(path.read_bytes() == content for path in tmp_path.iterdir())
    assert len(contents(tmp_path)) == 4


def test_a_folder_named_as_the_config_is_foreign(tmp_path: Path) -> None:
    (tmp_path / CONFIG).mkdir()
    with pytest.raises(FileExistsError, match="is not empty"):
        claim(tmp_path, overwrite=True)


def test_a_pipe_in_the_place_of_the_config_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / CONFIG)
    with pytest.raises(FileExistsError, match="is not empty"):
        claim(tmp_path, overwrite=True)


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    claim(tmp_path)
    (tmp_path / "parts").write_text("mine")
    with pytest.raises(UsageError, match="parts must be a folder, it is a file"):
        claim(tmp_path)
    assert (tmp_path / "parts").read_text() == "mine"


def test_runs_of_other_commands_are_left_alone(tmp_path: Path) -> None:
    claim(tmp_path, command="memory")
    finish(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match="holds a run of cofm memory: name another folder"):
        claim(tmp_path, overwrite=True)
    assert contents(tmp_path) == before


def test_nothing_outside_of_the_folder_is_removed(tmp_path: Path) -> None:
    (tmp_path / "precious.csv").write_text("mine")
    root = tmp_path / "run"
    root.mkdir()
    names = ["../precious.csv", str(tmp_path / "precious.csv"), "..", "", "."]
    (root / CONFIG).write_text(json.dumps({WRITER: "cofm sweep", FILES: names}))
    assert not claim(root, overwrite=True)
    assert (tmp_path / "precious.csv").read_text() == "mine"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match=r"--out .*file.* must be a folder that can be made and written"):
            claim(root, overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_wrong_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("cofm_triton.cli.options.tempfile.TemporaryFile", refuse)  # root may write everywhere
    with pytest.raises(UsageError, match="made and written: Permission denied"):
        claim(tmp_path)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_another_job_writes_to_is_refused(tmp_path: Path, overwrite: bool) -> None:
    message = rf"process {os.getpid()} on .* writes to .*; wait for it, or name another"
    first = ResultFolder(tmp_path, "sweep").open({"seed": 0}, NAMES, overwrite=False)
    with first, pytest.raises(UsageError, match=message):
        claim(tmp_path, overwrite=overwrite)
    assert contents(tmp_path) == {CONFIG}
    assert claim(tmp_path)


def test_folders_that_are_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "000-slow.safetensors").write_text("mine")
    root = tmp_path / "run"
    claim(root)
    (root / "parts").symlink_to(tmp_path / "elsewhere")
    for seed in (0, 1):
        with pytest.raises(UsageError, match="parts must be a folder of its own, it is a link"):
            claim(root, seed, overwrite=True)
    assert (tmp_path / "elsewhere" / "000-slow.safetensors").read_text() == "mine"


def test_without_a_folder_there_is_nothing_to_make() -> None:
    make_folder(None)

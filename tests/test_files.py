from pathlib import Path

import pytest

from cofm_triton.files import atomic_path, write_bytes, write_text


def test_writes_whole_files_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "file.txt"
    write_text(path, "a\nβ\n")
    assert path.read_bytes() == "a\nβ\n".encode()
    write_bytes(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("exists", [False, True])
def test_interrupted_write_leaves_what_was_there(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "file.csv"
    if exists:
        path.write_text("old")

    def interrupted_write() -> None:
        with atomic_path(path) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_write()
    assert [p.read_text() for p in tmp_path.iterdir()] == (["old"] if exists else [])


def test_part_keeps_suffix_and_is_as_readable_as_a_plain_file(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "figure.svg") as part:
        assert part.suffix == ".svg"
        part.write_text("x")
    (tmp_path / "plain").write_text("x")
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_contents_are_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_power(handle: int) -> None:
        assert not (tmp_path / "file").exists()
        raise OSError

    monkeypatch.setattr("os.fsync", without_power)
    with pytest.raises(OSError):
        write_bytes(tmp_path / "file", b"contents")
    assert not list(tmp_path.iterdir())

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cofm_triton.support.lock import LOCK, FolderInUse, one_writer

DIES_HOLDING = """
import os, signal, sys
from cofm_triton.support.lock import one_writer
with one_writer(sys.argv[1]):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_file_goes_with_its_writer(tmp_path: Path) -> None:
    with one_writer(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("job", ["", "other"])
def test_a_second_writer_is_told_of_the_first(tmp_path: Path, job: str) -> None:
    with one_writer(tmp_path, "first"):
        with pytest.raises(FolderInUse, match=rf"process {os.getpid()} on \S+ writes to"), one_writer(tmp_path, job):
            pass
        assert (tmp_path / LOCK).exists()
    with one_writer(tmp_path, job):
        pass


def test_processes_of_a_job_write_together(tmp_path: Path) -> None:
    with one_writer(tmp_path, "job"):
        with one_writer(tmp_path, "job"):
            pass
        with pytest.raises(FolderInUse), one_writer(tmp_path, "another"):
            pass


def test_no_lock_outlives_a_killed_writer(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DIES_HOLDING, str(tmp_path)])
    assert (tmp_path / LOCK).exists()
    with one_writer(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / LOCK).symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic links"), one_writer(tmp_path):
        pass
    assert (tmp_path / "mine").read_text() == "mine"

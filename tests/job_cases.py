"""What tests of long jobs share: the files of a folder, and runs that must leave them alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_not_continued(
    run: Callable[[], int], folder: Path, difference: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`run` refuses the folder of a run with other settings for this one difference, and changes nothing in it."""
    before = contents(folder)
    assert run() == 2
    assert f"holds a run with other settings ({difference}): name another folder" in capsys.readouterr().err
    assert contents(folder) == before

"""The shortest form of `make faults`, and whether it would find anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from faults import COMMANDS, torn

from cofm_triton.cli import COMMANDS as OFFERED

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork and /proc")


@pytest.mark.slow
def test_a_command_that_is_killed_and_of_which_two_write_at_a_time() -> None:
    words = [sys.executable, str(Path(__file__).with_name("faults.py")), "--commands", "memory", "--kills", "2"]
    done = subprocess.run([*words, "--faults", "two_writers"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "memory: 2 kills" in done.stdout and "0 findings" in done.stdout


def test_every_command_that_keeps_files_is_tried() -> None:
    assert set(COMMANDS) == set(OFFERED) - {"kernels", "info"}  # one file, at the end, and none


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b'{"a": '),
        ("a.csv", b"a,b\n1,2\n3"),
        ("a.csv", b"a,b\n1\n"),
        ("a.png", b"\x89PNG"),
        ("a.svg", b"<svg>"),
        ("a.safetensors", b"\x08\x00"),
    ],
)
def test_torn_files_are_found(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / f".part-{name}").write_bytes(content)
    (tmp_path / "b.json").write_text("{}")
    (tmp_path / "b.csv").write_text("a,b\n1,2\n")
    assert [path.name for path in torn(tmp_path)] == [name]

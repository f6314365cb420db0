"""The shortest form of `make faults`, and whether it would find anything."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from faults import COMMANDS, FAULTS, torn

from cofm_triton.cli import COMMANDS as OFFERED

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork and /proc")


@pytest.mark.slow
@pytest.mark.parametrize(("command", "faults"), [("memory", ("full_disk", "two_writers")), ("info", FAULTS)])
def test_commands_that_are_killed_and_folders_that_cannot_be_written(command: str, faults: Sequence[str]) -> None:
    words = [sys.executable, str(Path(__file__).with_name("faults.py")), "--commands", command, "--kills", "4"]
    done = subprocess.run([*words, "--faults", ",".join(faults)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{command}: 4 kills" in done.stdout and "; 0 findings" in done.stdout


def test_every_command_that_keeps_files_is_tried() -> None:
    assert set(COMMANDS) == set(OFFERED)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b'{"a": '),
        ("a.csv", b"a,b\n1,2\n3"),
        ("a.csv", b"a,b\n1\n"),
        ("a.csv", b'["job", "a.csv", "0123"]\na,b\n'),
        ("a.png", b"\x89PNG"),
        ("a.pdf", b"%PDF-1.4\n"),
        ("a.svg", b"<svg>"),
        ("a.safetensors", b"\x08\x00"),
    ],
)
def test_torn_files_are_found(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / f".part-{name}").write_bytes(content)
    (tmp_path / "b.json").write_text("{}")
    (tmp_path / "b.csv").write_text("a,b\n1,2\n")
    (tmp_path / "c.csv").write_text(f'["job", "c.csv", "{hashlib.sha256(b"1,2,3").hexdigest()}"]\n1,2,3')
    assert [path.name for path in torn(tmp_path)] == [name]

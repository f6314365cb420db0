"""The folder of a job: whether it is empty, holds this job, or holds something else."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from cofm_triton.cli.jobs.processes import Processes
from cofm_triton.cli.options import UsageError, own_folder
from cofm_triton.support.files import PART, check_regular, remove_leftovers, write_text
from cofm_triton.support.lock import LOCK

CONFIG = "config.json"
WRITER, FILES = "written_by", "files"
"""Keys of config.json beside the settings: the command, and the names of the files it writes. A file without them is
not ours."""


class ResultFolder:
    """The result folder of one job. Files are written atomically, so a file that exists is finished.

    Args:
        root: the folder.
        command: whose results it holds.
        steps: patterns of the files of finished steps, which lie in folders of their own.
    """

    def __init__(self, root: Path, command: str, steps: Sequence[str] = ("parts/[0-9]*-*.safetensors",)) -> None:
        self.root = root
        self.job = ""
        """What identifies the claimed folder's settings, models and versions."""
        self._writer = f"cofm {command}"
        self._steps = steps

    @contextmanager
    def open(
        self, config: dict[str, Any], files: Sequence[str], *, overwrite: bool, job: str = ""
    ) -> Iterator[bool]:  # fmt: skip
        """Claim the folder for a job, whose processes alone write to it for the length of a `with` block.

        Args:
            config: the settings and versions its results depend on.
            files: names of the files that it writes into the folder, without those of its steps.
            overwrite: remove the files of an earlier job of this command with other settings, and nothing else.
            job: what the processes of the job have in common, see `one_writer`.

        Returns:
            Whether an earlier job with the same config is being continued.

        Raises:
            UsageError: the folder cannot be made or written, another process writes to it, or a folder in it is a link
                or a file.
            FileExistsError: the folder holds a job with other settings, or anything else.
        """
        with own_folder(self.root, job):
            yield self._claim(config, files, overwrite)

    def _claim(self, config: dict[str, Any], files: Sequence[str], overwrite: bool) -> bool:
        for folder in self._folders() - {self.root}:
            if folder.is_symlink():  # results would be written to, and removed from, wherever it leads
                raise UsageError(f"--out {self.root}: {folder.name} must be a folder of its own, it is a link")
            if folder.exists() and not folder.is_dir():
                raise UsageError(f"--out {self.root}: {folder.name} must be a folder, it is a file")
        config = {WRITER: self._writer, FILES: sorted(files), **config}
        self.job = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
        found = self._read_config()
        if found == config:
            for folder in self._folders():
                remove_leftovers(folder)
            return True
        if found is None and not all(path.name.startswith((PART, LOCK)) for path in self.root.iterdir()):
            raise FileExistsError(
                f"--out {self.root} is not empty and holds no {CONFIG} of an earlier run that could be continued or "
                "replaced: name a new or empty folder"
            )
        if found is not None:
            self._check_replaceable(found, config, overwrite)
            self._clear(found[FILES])
        write_text(self.root / CONFIG, json.dumps(config, indent=1) + "\n")
        return False

    @contextmanager
    def open_together(
        self, config: dict[str, Any], files: Sequence[str], processes: Processes, *, overwrite: bool
    ) -> Iterator[bool]:
        """Claim the folder in all processes of a job, see `open`.

        Raises:
            UsageError: the processes have loaded different models or data.
        """
        if any(other != config for other in processes.gather(config)):
            raise UsageError("the processes of this job have loaded different models, data or versions")
        job = processes.gather(secrets.token_hex(8))[0]
        with ExitStack() as stack:
            claim = self.open(config, files, overwrite=overwrite, job=job)
            yield processes.in_turn(lambda: stack.enter_context(claim))

    def _read_config(self) -> dict[str, Any] | None:
        """The settings that an earlier job wrote; None if there was none."""
        try:
            check_regular(self.root / CONFIG)
            found = json.loads((self.root / CONFIG).read_text())
        except (OSError, ValueError, RecursionError):  # no file, not text, no JSON, or JSON nested without end
            return None
        return found if _is_ours(found) else None

    def _check_replaceable(self, found: dict[str, Any], wanted: dict[str, Any], overwrite: bool) -> None:
        if found[WRITER] != self._writer:
            raise FileExistsError(f"--out {self.root} holds a run of {found[WRITER]}: name another folder")
        if not overwrite:
            raise FileExistsError(_difference(self.root, found, wanted))

    def _clear(self, files: Sequence[str]) -> None:
        """Remove the files of a job, by these names and the patterns of its steps, and nothing else."""
        paths = [self.root / Path(name).name for name in files]  # whatever they say, nothing outside of the folder
        paths += [path for folder in self._folders() for path in folder.glob(f"{PART}*")]
        paths += [path for pattern in self._steps for path in self.root.glob(pattern)]
        for path in paths:
            if path.is_file():
                path.unlink()
        for folder in self._folders() - {self.root}:
            with suppress(OSError):  # it may hold files of others
                folder.rmdir()

    def _folders(self) -> set[Path]:
        """The folder and those of its steps."""
        return {self.root, *((self.root / pattern).parent for pattern in self._steps)}


def _is_ours(found: Any) -> bool:
    """Whether the content of a config.json was written by `cofm`."""
    if not isinstance(found, dict) or not isinstance(found.get(WRITER), str) or not isinstance(found.get(FILES), list):
        return False
    return found[WRITER].startswith("cofm ") and all(isinstance(name, str) for name in found[FILES])


def _difference(root: Path, found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """A message: the settings in which an earlier job differs."""
    names = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k) and k != FILES)
    shown = "; ".join(f"{k}: {found.get(k)} there, {wanted.get(k)} now" for k in names)
    return (
        f"--out {root} holds a run with other settings ({shown}): name another folder, or replace it with --overwrite"
    )

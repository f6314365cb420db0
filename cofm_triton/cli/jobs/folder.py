"""The folder of a job: whether what lies there belongs to this job."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cofm_triton.cli.jobs.processes import Processes
from cofm_triton.cli.options import UsageError, make_folder
from cofm_triton.support.files import PART, remove_leftovers, write_text

CONFIG = "config.json"
WRITER, FILES = "written_by", "files"
"""Keys of that file beside the settings: the command, and the names of the files it writes into the folder. Without
them it is somebody else's."""


class ResultFolder:
    """Results, each written atomically, so that what exists is finished.

    Args:
        root: the folder.
        command: whose results it holds.
        steps: patterns of the files of finished steps, which lie in folders of their own.
    """

    def __init__(self, root: Path, command: str, steps: Sequence[str] = ("parts/[0-9]*-*.safetensors",)) -> None:
        self.root = root
        self._writer = f"cofm {command}"
        self._steps = steps

    def open(self, config: dict[str, Any], files: Sequence[str], *, overwrite: bool) -> bool:
        """Claim the folder for a job.

        Args:
            config: the settings and versions its results depend on.
            files: names of the files that it writes into the folder, but for those of its steps.
            overwrite: remove what a job of this command with other settings has written, and nothing else.

        Returns:
            Whether an earlier job with the same config is being continued.

        Raises:
            UsageError: the folder cannot be made or written.
            FileExistsError: the folder holds results of other settings, or other things.
        """
        make_folder(self.root)
        config = {WRITER: self._writer, FILES: sorted(files), **config}
        found = self._read_config()
        if found == config:
            for folder in self._folders():
                remove_leftovers(folder)
            return True
        if found is None and not all(path.name.startswith(PART) for path in self.root.iterdir()):
            raise FileExistsError(
                f"--out {self.root} is not empty and holds no {CONFIG} of an earlier run that could be continued or "
                "replaced: name a new or empty folder"
            )
        if found is not None:
            self._check_replaceable(found, config, overwrite)
            self._clear(found[FILES])
        write_text(self.root / CONFIG, json.dumps(config, indent=1) + "\n")
        return False

    def open_together(
        self, config: dict[str, Any], files: Sequence[str], processes: Processes, *, overwrite: bool
    ) -> bool:
        """Claim the folder in all processes of a job, see `open`.

        Raises:
            UsageError: the processes have loaded different models or data.
        """
        if any(other != config for other in processes.gather(config)):
            raise UsageError("the processes of this job have loaded different models, data or versions")
        return processes.in_turn(lambda: self.open(config, files, overwrite=overwrite))

    def _read_config(self) -> dict[str, Any] | None:
        """What an earlier job has written, None if there was none."""
        try:
            found = json.loads((self.root / CONFIG).read_text())
        except (FileNotFoundError, IsADirectoryError, ValueError):  # the last: no text, or no JSON
            return None
        return found if _is_ours(found) else None

    def _check_replaceable(self, found: dict[str, Any], wanted: dict[str, Any], overwrite: bool) -> None:
        if found[WRITER] != self._writer:
            raise FileExistsError(f"--out {self.root} holds a run of {found[WRITER]}: name another folder")
        if not overwrite:
            raise FileExistsError(_difference(self.root, found, wanted))

    def _clear(self, files: Sequence[str]) -> None:
        """Remove what a job has made, and nothing else: files of these names, and those of steps."""
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
    """Whether the content of a file named config.json is that of ours."""
    if not isinstance(found, dict) or not isinstance(found.get(WRITER), str) or not isinstance(found.get(FILES), list):
        return False
    return found[WRITER].startswith("cofm ") and all(isinstance(name, str) for name in found[FILES])


def _difference(root: Path, found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Says in which settings an earlier job differs."""
    names = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k) and k != FILES)
    shown = "; ".join(f"{k}: {found.get(k)} there, {wanted.get(k)} now" for k in names)
    return (
        f"--out {root} holds a run with other settings ({shown}): name another folder, or replace it with --overwrite"
    )

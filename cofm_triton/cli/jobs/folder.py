"""The folder of a job: whether what lies there belongs to this job."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from cofm_triton.cli.jobs.processes import Processes
from cofm_triton.cli.options import UsageError
from cofm_triton.files import write_text

CONFIG = "config.json"

_RESULTS = ("*.csv", "*.json", "*.png", "*.safetensors", "*.svg", "*.txt")


class ResultFolder:
    """Results, each written atomically, so that what exists is finished.

    Args:
        root: the folder.
        steps: folders in it that hold finished steps.
    """

    def __init__(self, root: Path, steps: tuple[str, ...] = ("parts",)) -> None:
        self.root = root
        self._steps = steps

    def open(self, config: dict[str, Any], *, overwrite: bool) -> bool:
        """Claim the folder for a job.

        Args:
            config: the settings and versions its results depend on.
            overwrite: forget results of other settings.

        Returns:
            Whether an earlier job with the same config is being continued.

        Raises:
            FileExistsError: the folder holds results of other settings, or other things.
        """
        path = self.root / CONFIG
        found = self._read_config(path)
        if found == config:
            return True
        if found is not None and not overwrite:
            raise FileExistsError(_difference(self.root, found, config))
        if found is None and self.root.is_dir() and any(self.root.iterdir()):
            raise FileExistsError(
                f"--out {self.root} is not empty and holds no {CONFIG} of an earlier run: name a new or empty folder"
            )
        self._clear()
        write_text(path, json.dumps(config, indent=1) + "\n")
        return False

    def open_together(self, config: dict[str, Any], processes: Processes, *, overwrite: bool) -> bool:
        """Claim the folder in all processes of a job, see `open`.

        Raises:
            UsageError: the processes have loaded different models or data.
        """
        if any(other != config for other in processes.gather(config)):
            raise UsageError("the processes of this job have loaded different models, data or versions")
        return processes.in_turn(lambda: self.open(config, overwrite=overwrite))

    def _read_config(self, path: Path) -> Any:
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except json.JSONDecodeError:
            return {}

    def _clear(self) -> None:
        """Remove what jobs make, and nothing else."""
        for name in self._steps:
            shutil.rmtree(self.root / name, ignore_errors=True)
        for pattern in _RESULTS:
            for path in self.root.glob(pattern):
                path.unlink()


def _difference(root: Path, found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Says in which settings an earlier job differs."""
    names = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
    shown = "; ".join(f"{k}: {found.get(k)} there, {wanted.get(k)} now" for k in names)
    return (
        f"--out {root} holds a run with other settings ({shown}): name another folder, or replace it with --overwrite"
    )

"""The folder of a run: what lies where, and whether what lies there belongs to this run."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cofm_triton.files import write_text

CONFIG = "config.json"


@dataclass(frozen=True)
class Cell:
    """One kind of model: everything but the length it was trained for."""

    target: str
    nonlinearity: str
    parameterization: str
    width: int

    @property
    def name(self) -> str:
        """For file names."""
        return f"{self.target}-{self.nonlinearity}-{self.parameterization}-m{self.width}"


class RunFolder:
    """Paths of a run's results, each written atomically, so that what exists is finished.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self, config: dict[str, Any], *, overwrite: bool) -> bool:
        """Claim the folder for a run.

        Args:
            config: the settings and versions its results depend on.
            overwrite: forget results of other settings.

        Returns:
            Whether an earlier run with the same config is being continued.

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

    def model(self, cell: Cell, length: int) -> Path:
        """A trained model."""
        return self.root / "models" / f"{cell.name}-T{length}.safetensors"

    def errors(self, cell: Cell) -> Path:
        """Every error of one model's sweep."""
        return self.root / "parts" / f"{cell.name}-errors.csv"

    def radius(self, cell: Cell, length: int) -> Path:
        """The slow-direction radius of one model."""
        return self.root / "parts" / f"{cell.name}-T{length}-radius.json"

    def _read_config(self, path: Path) -> Any:
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except json.JSONDecodeError:
            return {}

    def _clear(self) -> None:
        """Remove what runs make, and nothing else."""
        (self.root / CONFIG).unlink(missing_ok=True)
        for name in ("models", "parts"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        for pattern in ("*.csv", "*.png", "*.svg", "*.txt"):
            for path in self.root.glob(pattern):
                path.unlink()


def _difference(root: Path, found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Says in which settings an earlier run differs."""
    names = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
    shown = "; ".join(f"{k}: {found.get(k)} there, {wanted.get(k)} now" for k in names)
    return (
        f"--out {root} holds a run with other settings ({shown}): name another folder, or replace it with --overwrite"
    )

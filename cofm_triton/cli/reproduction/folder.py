"""The folder of a run: the paths of its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cofm_triton.cli.jobs.folder import ResultFolder


@dataclass(frozen=True)
class Cell:
    """One kind of model: all of its settings but the length it was trained for."""

    target: str
    nonlinearity: str
    parameterization: str
    width: int

    @property
    def name(self) -> str:
        """For file names."""
        return f"{self.target}-{self.nonlinearity}-{self.parameterization}-m{self.width}"


class RunFolder(ResultFolder):
    """Paths of a run's results.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        steps = ("models/*-m*-T*.safetensors", "parts/*-m*-errors.csv", "parts/*-m*-T*-radius.json")
        super().__init__(root, "reproduce", steps)

    @staticmethod
    def report(targets: Sequence[str]) -> list[str]:
        """Names of the files of the report."""
        figures = [f"{name}{kind}.{suffix}" for name in targets for kind in ("", "-radii") for suffix in ("png", "svg")]
        return ["errors.csv", "summary.csv", "verdicts.csv", "verdict.txt", *figures]

    def model(self, cell: Cell, length: int) -> Path:
        """A trained model."""
        return self.root / "models" / f"{cell.name}-T{length}.safetensors"

    def errors(self, cell: Cell) -> Path:
        """Every error of one model's sweep."""
        return self.root / "parts" / f"{cell.name}-errors.csv"

    def radius(self, cell: Cell, length: int) -> Path:
        """The slow-direction radius of one model."""
        return self.root / "parts" / f"{cell.name}-T{length}-radius.json"

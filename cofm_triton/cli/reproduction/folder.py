"""The folder of a run: the paths of its files, and marks by which what was changed or moved is found out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cofm_triton.cli.jobs.blocks import digest
from cofm_triton.cli.jobs.folder import ResultFolder
from cofm_triton.cli.options import UsageError
from cofm_triton.support.figure_file import FORMATS
from cofm_triton.support.files import check_regular, write_text

if TYPE_CHECKING:
    from cofm_triton.layers.rnn_functional import RNNFunctional


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
        figures = [f"{name}{kind}.{suffix}" for name in targets for kind in ("", "-radii") for suffix in FORMATS]
        return ["errors.csv", "summary.csv", "verdicts.csv", "verdict.txt", "published.txt", *figures]

    def model(self, cell: Cell, length: int) -> Path:
        """A trained model."""
        return self.root / "models" / f"{cell.name}-T{length}.safetensors"

    def errors(self, cell: Cell) -> Path:
        """Every error of one model's sweep."""
        return self.root / "parts" / f"{cell.name}-errors.csv"

    def radius(self, cell: Cell, length: int) -> Path:
        """The slow-direction radius of one model."""
        return self.root / "parts" / f"{cell.name}-T{length}-radius.json"

    def keep(self, path: Path, text: str) -> None:
        """Write a part, with a mark in its first line."""
        write_text(path, f"{self._mark(path, text)}\n{text}")

    def kept(self, path: Path) -> str:
        """The text of a part.

        Raises:
            UsageError: it is not what this run has written there.
        """
        try:
            check_regular(path)
            mark, _, text = path.read_text(encoding="utf-8", errors="replace").partition("\n")
        except OSError as error:
            raise _strange(path, str(error)) from None
        if mark != self._mark(path, text):
            raise _strange(path, "it is not what this run has written there")
        return text

    def save(self, cell: Cell, length: int, model: RNNFunctional, notes: dict[str, Any]) -> None:
        """Write a trained model, with a mark among its notes."""
        from cofm_triton.model_file import save_model

        path = self.model(cell, length)
        save_model(path, model, {**notes, "mark": self._mark(path, digest(model.state_dict()))})

    def load(self, cell: Cell, length: int, device: str = "cpu") -> RNNFunctional:
        """A trained model.

        Raises:
            UsageError: the file is damaged, or not what this run has written there.
        """
        from cofm_triton.model_file import load_model, read_notes

        path = self.model(cell, length)
        try:
            mark, model = read_notes(path).get("mark"), load_model(path)
        except ValueError as error:
            raise _strange(path, str(error)) from error
        if mark != self._mark(path, digest(model.state_dict())):
            raise _strange(path, "it is not what this run has written there")
        return model.to(device)

    def _mark(self, path: Path, text: str) -> str:
        """Of the run, the file's name and what is in it."""
        return json.dumps([self.job, path.name, hashlib.sha256(text.encode()).hexdigest()])


def _strange(path: Path, reason: str) -> UsageError:
    return UsageError(f"{path}: {reason}; remove it, and the next run makes it again")

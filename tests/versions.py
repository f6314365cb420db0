"""Run the quick tests in this environment, and write what came out into the table of docs/versions.md.

    make matrix              # the oldest and the newest releases, each in an environment of its own
    python tests/versions.py # in this one

Other words go to pytest.
"""

from __future__ import annotations

import platform
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "versions.md"
PACKAGES = ("torch", "triton", "numba", "numpy")
OUTCOMES = ("passed", "failed", "skipped")
VERSIONS = 1 + len(PACKAGES)  # the first columns: Python's too


class Counted:
    """A plugin of pytest that counts tests by outcome; an error around a test is a failure."""

    def __init__(self) -> None:
        self.by_outcome: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.by_outcome[report.outcome] += 1


def with_row(page: str, row: Sequence[str]) -> str:
    """The page with a row in its table, in place of an earlier one of the same versions; the newest comes first."""
    lines = page.splitlines()
    begin = next(index for index, line in enumerate(lines) if line.startswith("| ---")) + 1
    table = list(takewhile(lambda line: line.startswith("|"), lines[begin:]))
    rows = {tuple(cells[:VERSIONS]): cells for cells in (*map(_cells, table), list(row))}
    ordered = sorted(rows.values(), key=lambda cells: [_number(cell) for cell in cells[:VERSIONS]], reverse=True)
    written = [f"| {' | '.join(cells)} |" for cells in ordered]
    return "\n".join((*lines[:begin], *written, *lines[begin + len(table) :])) + "\n"


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def _number(release: str) -> list[int]:
    """`2.13.0+cpu` as 2, 13, 0."""
    return [int(part) for part in release.partition("+")[0].split(".") if part.isdigit()]


def main(words: Sequence[str]) -> int:
    counted = Counted()
    status = pytest.main(["--quick", "-q", str(ROOT / "tests"), *words], plugins=[counted])
    if status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        row = [platform.python_version(), *map(version, PACKAGES), *(str(counted.by_outcome[it]) for it in OUTCOMES)]
        PAGE.write_text(with_row(PAGE.read_text(), row))
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

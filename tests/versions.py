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
    lines, before = page.splitlines(), rows(page)
    begin = _begin(lines)
    by_versions = {tuple(cells[:VERSIONS]): cells for cells in (*before, list(row))}
    ordered = sorted(by_versions.values(), key=lambda cells: [_number(cell) for cell in cells[:VERSIONS]], reverse=True)
    written = [f"| {' | '.join(cells)} |" for cells in ordered]
    return "\n".join((*lines[:begin], *written, *lines[begin + len(before) :])) + "\n"


def rows(page: str) -> list[list[str]]:
    """The cells of the page's first table."""
    lines = page.splitlines()
    table = takewhile(lambda line: line.startswith("|"), lines[_begin(lines) :])
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def _begin(lines: Sequence[str]) -> int:
    """Where the rows of the first table begin."""
    return next(index for index, line in enumerate(lines) if line.startswith("| ---")) + 1


def _number(release: str) -> list[int]:
    """`2.13.0+cpu` as 2, 13, 0."""
    return [int(part) for part in release.partition("+")[0].split(".") if part.isdigit()]


def main(words: Sequence[str]) -> int:
    counted = Counted()
    own = f"--ignore={ROOT / 'tests' / 'test_versions.py'}"  # judges the page, which has no new row yet
    status = pytest.main(["--quick", "-q", str(ROOT / "tests"), own, *words], plugins=[counted])
    if status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        from cofm_triton.support import system  # not before conftest.py has switched on Triton's interpreter

        counts = [str(counted.by_outcome[outcome]) for outcome in OUTCOMES]
        row = [platform.python_version(), *system.versions(PACKAGES).values(), *counts]
        PAGE.write_text(with_row(PAGE.read_text(), row))
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

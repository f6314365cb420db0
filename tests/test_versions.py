"""The table of docs/versions.md."""

import re

from versions import OUTCOMES, PACKAGES, PAGE, ROOT, VERSIONS, rows, with_row

PAGE_BEFORE = """Text.

| a | b | c | d | e | passed | failed | skipped |
| --- | --- | --- | --- | --- | --- | --- | --- |
| 3.9.2 | 2.8.0 | 3.4.0 | 0.61.0 | 1.26.4 | 1 | 2 | 3 |
| 3.10.1 | 2.8.0 | 3.4.0 | 0.61.0 | 1.26.4 | 4 | 5 | 6 |

More.

| another table |
| --- |
| stays |
"""


def test_a_row_of_the_same_versions_is_replaced_and_a_new_one_finds_its_place() -> None:
    old = ["3.9.2", "2.8.0", "3.4.0", "0.61.0", "1.26.4", "7", "8", "9"]
    new = ["3.10.1", "2.13.0+cpu", "3.9.0", "0.61.0", "1.26.4", "10", "0", "0"]
    lines = with_row(with_row(PAGE_BEFORE, old), new).splitlines()
    assert lines[:4] == PAGE_BEFORE.splitlines()[:4] and lines[-6:] == PAGE_BEFORE.splitlines()[-6:]
    assert lines[4:-6] == [
        "| 3.10.1 | 2.13.0+cpu | 3.9.0 | 0.61.0 | 1.26.4 | 10 | 0 | 0 |",
        "| 3.10.1 | 2.8.0 | 3.4.0 | 0.61.0 | 1.26.4 | 4 | 5 | 6 |",
        "| 3.9.2 | 2.8.0 | 3.4.0 | 0.61.0 | 1.26.4 | 7 | 8 | 9 |",
    ]


def test_every_row_fills_the_columns_and_nothing_failed() -> None:
    heading = next(line for line in PAGE.read_text().splitlines() if line.startswith("|"))
    failed = VERSIONS + OUTCOMES.index("failed")
    for row in rows(PAGE.read_text()):
        assert len(row) == heading.count("|") - 1 == VERSIONS + len(OUTCOMES)
        assert row[failed] == "0"


def test_the_last_row_has_the_oldest_releases_that_users_may_have() -> None:
    """Whoever raises one of them in pyproject.toml runs `make matrix` again."""
    text = (ROOT / "pyproject.toml").read_text()
    oldest = dict(re.findall(r'(requires-python|"\w+)[ ="]*>=([\d.]+)', text))
    asked = [oldest["requires-python"], *(oldest[f'"{name}'] for name in PACKAGES)]
    assert [row.rsplit(".", 1)[0] for row in rows(PAGE.read_text())[-1][:VERSIONS]] == asked

"""The table of pairs beside single units."""

from __future__ import annotations

import pytest

from bench import pairs


def test_the_table_of_times(capsys: pytest.CaptureFixture[str]) -> None:
    pairs.main(["--shape", "2", "5", "8", "--seconds", "0", "--targets"])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith(("| linear_scan", "| rnn_scan"))]
    assert [row[:2] for row in rows] == [
        [name, passes] for name in ("linear_scan", "rnn_scan") for passes in ("forward", "forward + backward")
    ]
    assert all(float(row[4]) > 0 for row in rows)


@pytest.mark.slow
def test_a_pair_takes_two_fused_products_a_number() -> None:
    """The linear scan: at most half as many instructions again as single units', of which one is the product itself."""
    found = pairs.instructions(pairs.RECURRENCES[0], "sm_90")
    assert list(found) == ["forward", "backward"]
    for single, paired in found.values():
        assert single < paired <= 1.5 * single

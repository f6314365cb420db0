"""Host times: a process with a stub for a GPU launches our kernels, and counts what it launches."""

from __future__ import annotations

import pytest

from cofm_triton.evidence.host import FLOOR, report


@pytest.mark.slow
def test_a_stub_counts_launches_and_operations() -> None:
    reason = report.unavailable()
    if reason is not None:
        pytest.skip(reason)
    rows = [row for name in (FLOOR, "rnn_scan") for row in report.measured(name, rounds=2)]
    counts = {(row["name"], row["pass_name"]): (row["launches"], row["operations"]) for row in rows}
    assert counts[FLOOR, "forward + backward"] == (2, 0)
    # Time is split: chunks, two rounds of repair, the fallback; backward summaries and rows.
    assert counts["rnn_scan", "forward"] == (4, 0)
    assert counts["rnn_scan", "forward + backward"][0] == 6
    table = "\n".join(report.lines(rows))
    assert "1.00" in table and "8x4096x256" in table


def test_a_call_that_is_left_out_says_why() -> None:
    rows = [dict(name="peer", shape=(1, 2, 3), left_out="not installed: pip install peer")]
    first, second, *_ = report.lines(rows)
    assert first.startswith("host, us") and second.endswith("left out: not installed: pip install peer")

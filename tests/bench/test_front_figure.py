"""The README's figure shows the medians of its file, from the shortest sequence to the longest."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.front_figure import LINES, OPERATOR, PASS, SOURCE, STUDY, curve, draw
from cofm_triton.evidence.benchmark.figure import MOST_LINES, nearest_peers
from cofm_triton.evidence.benchmark.results import Record, read

KEY = (OPERATOR, STUDY, "cofm", PASS, "1x256x32")


def record(contestant: str, length: int, milliseconds: float, **other: str) -> dict[str, Any]:
    keys = {"operator": OPERATOR, "study": STUDY, "pass_name": PASS, "contestant": contestant}
    return {**keys, "size": f"1x{length}x32", "seconds": {"median": milliseconds / 1000}, **other}


def test_curve() -> None:
    records = [
        record("cofm", 512, 2.0),
        record("cofm", 256, 1.0),
        record("peer", 256, 9.0),
        record("cofm", 256, 5.0, study="fixed size"),
        record("cofm", 256, 5.0, pass_name="forward"),
    ]
    assert curve(records, "cofm") == ([256, 512], [1.0, 2.0])


def test_every_line_has_points() -> None:
    records = json.loads(SOURCE.read_text(encoding="utf-8"))["records"]
    assert all(curve(records, contestant)[0] for contestant, *_ in LINES)


def test_draw(tmp_path: Path) -> None:
    draw(SOURCE, tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 10_000


def test_a_panel_of_the_other_figure_has_the_nearest_peers() -> None:
    """Who is faster than we are comes first."""
    results, _ = read(SOURCE)
    (first,) = [r for r in results.records if (r.operator, r.study, r.contestant, r.pass_name, r.size) == KEY]
    ours = first.seconds.median

    def peer(name: str, seconds: float) -> Record:
        return replace(first, contestant=name, seconds=first.seconds._replace(median=seconds))

    slow = [peer(f"slow {k}", (2 + k) * ours) for k in range(4)]
    assert nearest_peers([*slow, first, peer("fast", ours / 2)]) == ["fast", "slow 0", "slow 1"]
    assert MOST_LINES == 5

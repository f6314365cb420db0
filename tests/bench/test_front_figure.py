"""The README's figure shows the medians of its file, from the shortest sequence to the longest."""

import json
from pathlib import Path
from typing import Any

from bench.front_figure import LINES, OPERATOR, PASS, SOURCE, STUDY, curve, draw


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

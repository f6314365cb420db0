"""The long series: targets and simple forecasts are right, and nothing is learned from the years of the test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("statsmodels")

from bench import learning, series

NAMES = ["last value", "change of a year ago", "linear regression, 104 weeks"]


def test_targets_are_sums_of_changes() -> None:
    """Of the next 13 weeks; the mean change is the trend, 1.2 ppm a year."""
    data = series.load()
    assert len(data.changes) == len(data.targets) == 2284 - 1 - series.HORIZON
    ahead = data.changes[1:].unfold(0, series.HORIZON, 1).sum(1)
    torch.testing.assert_close(data.targets[: len(ahead)], ahead)
    assert float(data.changes.mean()) * series.YEAR == pytest.approx(1.2, abs=0.1)


def test_what_is_known_in_a_week() -> None:
    """Targets that reach this week at most."""
    known = series.load().before(100)
    assert len(known.targets) == len(known.changes) == 100 - series.HORIZON


def test_simple_forecasts_know_no_future() -> None:
    """Forecasts until a week stay the same where all changes after it, and all targets not yet known, are others."""
    data, week = series.load(), 1800
    other = series.Series(data.changes.clone(), data.targets.clone())
    other.changes[week + 1 :] = 50.0
    other.targets[week - series.HORIZON :] = -50.0
    for name, forecasts in series.naive(data, week).items():
        torch.testing.assert_close(series.naive(other, week)[name][: week + 1], forecasts[: week + 1])


def test_simple_forecasts_are_ranked() -> None:
    """The season is worth more than nothing, and a fit more than last year."""
    data = series.load()
    weeks = slice(len(data.targets) - series.HELD_OUT, None)
    errors = [series.rmse(forecasts, data, weeks) for forecasts in series.naive(data, weeks.start).values()]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize(("select", "held_out"), [(False, 1), (True, 2)])
def test_nothing_is_learned_from_the_test(select: bool, held_out: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches without NaN where all that lies in the years held out, changes and targets, is NaN."""
    data = series.load()
    start = len(data.targets) - held_out * series.HELD_OUT
    data.changes[start:] = torch.nan
    data.targets[start - series.HORIZON :] = torch.nan
    monkeypatch.setattr(series, "load", lambda: data)
    fits: list[str] = []

    def fit(model: learning.Model, batches: Iterator[Any], *_: Any, **__: Any) -> float:
        for x, y in (next(batches) for _ in range(30)):
            assert x.shape == (series.BATCH, series.WINDOW, 1) and y.shape == x.shape[:2]
            assert not x.isnan().any() and not y.isnan().any()
        fits.append(type(model).__name__)
        raise StopIteration

    monkeypatch.setattr(learning, "fit", fit)
    monkeypatch.setattr(torch.linalg, "lstsq", None)
    with pytest.raises(StopIteration):
        series.main(["--models", "ssm", "--seeds", "0", *(["--select"] if select else [])])
    assert len(fits) == 1


def test_a_short_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Better than the last value after 20 steps; the simple forecasts follow in the table."""
    [[run]] = series.main(["--models", "ssm", "--steps", "20", "--seeds", "0", "--width", "8"])
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].strip() for row in rows] == ["ssm", *NAMES]
    assert {len(row) for row in rows} == {7}
    assert run.score < float(rows[1][4])

"""Tables, figures and verdicts from the files of a finished run."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cofm_triton.cli.reproduction.folder import Cell, RunFolder
from cofm_triton.cli.reproduction.published import Found, comparison
from cofm_triton.cli.reproduction.settings import Settings
from cofm_triton.cli.reproduction.stages import ERROR_COLUMNS, SLOW, cells
from cofm_triton.cli.table import aligned
from cofm_triton.experiment.figures import ErrorCurve, RadiusCurve, plot_errors, plot_radii
from cofm_triton.perturbation.verdict import BOUND, LIMITS, MAX_RADIUS, StabilityVerdict, judge, stability_verdict
from cofm_triton.step.parameterization import parameterization
from cofm_triton.support.figure_file import FORMATS
from cofm_triton.support.files import write_text
from cofm_triton.targets import target

SUMMARY_COLUMNS = (
    *ERROR_COLUMNS[:4],
    "radius",
    "mean",
    "max",
    "q10",
    "median",
    "q90",
    "running_max",
    "slow",
    "relative_max",
    "diverged",
)
_REAL_RATES = ("diagonal", "ssm", "orthogonal")
"""Recurrences whose modes have a rate and nothing else: moving raw rates of "exp" rescales the time of all of them.
With "direct" the kernel is multiplied by exp(beta t) whatever the modes do beside decaying."""
_QUANTILES = (0.1, 0.5, 0.9)
OPEN = "-"
"""No prediction: the theory is about memory that decays."""


@dataclass(frozen=True)
class CellVerdict:
    """One model kind's horizon test.

    Attributes:
        cell: which kind.
        trained: from trained models.
        limit: from the target's limit formula, for widths without bound; None where the
            parameterisation has none.
    """

    cell: Cell
    trained: StabilityVerdict
    limit: StabilityVerdict | None

    @property
    def theory(self) -> str:
        """What the paper proves: only stable parameterisations learn slow memory stably; "-" of memory that stays."""
        decay = target(self.cell.target).decay
        if decay in ("exponential", "compact"):
            return "stable"
        if not math.isfinite(parameterization(self.cell.parameterization).modulus(0.1)):
            return "unstable"
        return "stable" if decay == "polynomial" else OPEN

    @property
    def outcome(self) -> str:
        """What trained models say about the prediction: "right", "undecided", "wrong", or "-" where there is none."""
        if self.theory == OPEN:
            return OPEN
        if self.trained.verdict == "undecided":
            return "undecided"
        return "right" if self.trained.verdict == self.theory else "wrong"


def write_report(settings: Settings, folder: RunFolder) -> list[CellVerdict]:
    """Write errors.csv, summary.csv, verdicts.csv, the figures and the verdict table.

    Args:
        settings: of the run.
        folder: with every part finished.

    Returns:
        The verdicts, by target, activation, parameterisation and width.
    """
    everything = [
        cell
        for name in settings.targets
        for nonlinearity in settings.nonlinearities
        for cell in cells(settings, name, nonlinearity)
    ]
    parts = {cell: folder.kept(folder.errors(cell)) for cell in everything}
    write_text(folder.root / "errors.csv", ",".join(ERROR_COLUMNS) + "\n" + "".join(parts.values()))
    tables = {cell: _Table.parse(text) for cell, text in parts.items()}
    _write_summary(folder, tables)
    verdicts = _verdicts(settings, folder, everything)
    _write_verdicts(folder, verdicts)
    for name in settings.targets:
        _draw(settings, folder, name, tables, verdicts)
    write_text(folder.root / "verdict.txt", verdict_table(verdicts))
    write_text(folder.root / "published.txt", _beside_published(settings, tables, verdicts))
    return verdicts


def _beside_published(settings: Settings, tables: dict[Cell, _Table], verdicts: Sequence[CellVerdict]) -> str:
    """The authors' results and ours."""
    found = [
        Found(v.cell.target, v.cell.nonlinearity, v.cell.parameterization, v.trained.verdict) for v in _widest(verdicts)
    ]
    alike = settings.recurrence == "diagonal" and not settings.oscillating and settings.sweep_horizon == 100
    errors = {
        cell.width: np.maximum.accumulate(table.random.max(1)).tolist()
        for cell, table in tables.items()
        if alike and (cell.target, cell.nonlinearity, cell.parameterization) == ("exp", "hardtanh", "direct")
    }
    radii: list[float] = next(iter(tables.values())).radii.tolist()
    return comparison(settings.recurrence, found, radii, errors)


def verdict_table(verdicts: Sequence[CellVerdict]) -> str:
    """The table for people: one row per kind of model, judged at its largest width."""
    rows = [_HEADER]
    for group in _by_kind(verdicts):
        widest = max(group, key=lambda v: v.cell.width)
        cell, trained, limit = widest.cell, widest.trained, widest.limit
        same = sum(v.trained.verdict == trained.verdict for v in group)
        rows.append(
            (
                cell.target,
                cell.nonlinearity,
                cell.parameterization,
                str(cell.width),
                " ".join(f"{radius:.4f}" for radius in trained.radii),
                f"{trained.slope:+.2f} +- {trained.error:.2f}",
                "-" if limit is None else f"{limit.slope:+.2f}",
                f"{trained.margin:.4f}",
                trained.verdict,
                f"{same}/{len(group)}",
                widest.theory,
            )
        )
    horizons = ", ".join(str(horizon) for horizon in verdicts[0].trained.horizons)
    notes = (
        f"r(T): largest move of all recurrent weights towards slower decay, at horizons T = "
        f"{horizons}, before the error passes 0.1 of the zero model's.\n"
        "slope: of log r in log T at the longest horizon, with its standard error; two errors below "
        f"{BOUND} unstable, two above stable,\nelse undecided. limit: of the target's formula, for widths without "
        "bound. margin: smallest rate of the trained models.\nwidths: how many of the trained widths agree.\n"
    )
    return aligned(rows) + "\n" + notes


_HEADER = (
    "target",
    "activation",
    "rate",
    "m",
    "r(T)",
    "slope",
    "limit",
    "margin",
    "verdict",
    "widths",
    "theory",
)


@dataclass(frozen=True)
class _Table:
    """The sweep of one model: radii (R,), random errors (R, directions), slow ones (R,)."""

    radii: np.ndarray[Any, np.dtype[np.float64]]
    random: np.ndarray[Any, np.dtype[np.float64]]
    slow: np.ndarray[Any, np.dtype[np.float64]]
    zero_error: float

    @classmethod
    def parse(cls, text: str) -> _Table:
        rows = list(csv.DictReader(io.StringIO(text), fieldnames=ERROR_COLUMNS))
        slow = [row for row in rows if row["direction"] == SLOW]
        random = [float(row["error"]) for row in rows if row["direction"] != SLOW]
        first = rows[0]
        return cls(
            np.array([float(row["radius"]) for row in slow]),
            np.array(random).reshape(len(slow), -1),
            np.array([float(row["error"]) for row in slow]),
            float(first["error"]) / float(first["relative_error"]),
        )

    def quantiles(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """(3, R); an order statistic, so that infinite errors stay what they are."""
        return np.quantile(self.random, _QUANTILES, axis=1, method="inverted_cdf")


def _write_summary(folder: RunFolder, tables: dict[Cell, _Table]) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(SUMMARY_COLUMNS)
    for cell, table in tables.items():
        key = (cell.target, cell.nonlinearity, cell.parameterization, cell.width)
        largest = table.random.max(1)
        columns = np.stack(
            [
                table.radii,
                table.random.mean(1),
                largest,
                *table.quantiles(),
                np.maximum.accumulate(largest),
                table.slow,
                largest / table.zero_error,
            ],
            1,
        )
        diverged = (~np.isfinite(table.random)).sum(1)
        for numbers, count in zip(columns.tolist(), diverged.tolist(), strict=True):
            writer.writerow((*key, *map(repr, numbers), count))
    write_text(folder.root / "summary.csv", stream.getvalue())


def _verdicts(settings: Settings, folder: RunFolder, everything: Sequence[Cell]) -> list[CellVerdict]:
    limits = {
        (name, kind): stability_verdict(
            target=name,
            parameterization=kind,
            horizons=settings.horizons,
            dt=settings.dt,
        )
        for name in settings.targets
        for kind in settings.parameterizations
        if kind in LIMITS and (kind == "direct" or settings.kind in _REAL_RATES)
    }
    result = []
    for cell in everything:
        records = [json.loads(folder.kept(folder.radius(cell, length))) for length in settings.horizons]
        trained = judge(
            settings.horizons,
            [record["radius"] for record in records],
            [record["resolution"] for record in records],
            max_radius=MAX_RADIUS,
            margin=min(record["margin"] for record in records),
        )
        result.append(CellVerdict(cell, trained, limits.get((cell.target, cell.parameterization))))
    return result


def _write_verdicts(folder: RunFolder, verdicts: Sequence[CellVerdict]) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    horizons = verdicts[0].trained.horizons
    writer.writerow(
        (
            *ERROR_COLUMNS[:4],
            *(f"r_{horizon}" for horizon in horizons),
            *("slope", "slope_error", "trend", "margin", "verdict", "reason"),
            *(f"limit_r_{horizon}" for horizon in horizons),
            *("limit_slope", "theory"),
        )
    )
    for v in verdicts:
        writer.writerow(
            (
                *(v.cell.target, v.cell.nonlinearity, v.cell.parameterization, v.cell.width),
                *map(repr, v.trained.radii),
                *map(repr, (v.trained.slope, v.trained.error, v.trained.trend, v.trained.margin)),
                *(v.trained.verdict, v.trained.reason),
                *map(repr, v.limit.radii if v.limit else [math.nan] * len(horizons)),
                *(repr(v.limit.slope if v.limit else math.nan), v.theory),
            )
        )
    write_text(folder.root / "verdicts.csv", stream.getvalue())


def _draw(
    settings: Settings,
    folder: RunFolder,
    name: str,
    tables: dict[Cell, _Table],
    verdicts: Sequence[CellVerdict],
) -> None:
    memory = f"{target(name).decay} memory, {settings.kind} recurrence"
    errors = [_error_curve(cell, table) for cell, table in tables.items() if cell.target == name]
    root = folder.root
    plot_errors(
        errors,
        f"Error under parameter perturbation: target {name} ({memory})",
        [root / f"{name}.{suffix}" for suffix in FORMATS],
    )
    radii = [_radius_curve(v) for v in _widest(verdicts) if v.cell.target == name]
    plot_radii(
        radii,
        f"How far the recurrent weights can slow down: target {name} ({memory}); the slope counts, not the height",
        [root / f"{name}-radii.{suffix}" for suffix in FORMATS],
    )


def _error_curve(cell: Cell, table: _Table) -> ErrorCurve:
    low, _, high = table.quantiles() / table.zero_error
    return ErrorCurve(
        row=cell.nonlinearity,
        column=cell.parameterization,
        width=cell.width,
        radii=table.radii.tolist(),
        maximum=(table.random.max(1) / table.zero_error).tolist(),
        low=low.tolist(),
        high=high.tolist(),
        slow=(table.slow / table.zero_error).tolist(),
    )


def _radius_curve(verdict: CellVerdict) -> RadiusCurve:
    cell = verdict.cell
    return RadiusCurve(
        row="",
        column=f"{cell.nonlinearity}, m = {cell.width}",
        label=cell.parameterization,
        horizons=verdict.trained.horizons,
        radii=verdict.trained.radii,
    )


def _by_kind(verdicts: Sequence[CellVerdict]) -> list[list[CellVerdict]]:
    """Verdicts that differ in width alone, together."""
    groups: dict[tuple[str, str, str], list[CellVerdict]] = {}
    for v in verdicts:
        key = (v.cell.target, v.cell.nonlinearity, v.cell.parameterization)
        groups.setdefault(key, []).append(v)
    return list(groups.values())


def with_outcome(verdicts: Sequence[CellVerdict], outcome: str) -> list[CellVerdict]:
    """Kinds of models whose largest width has this outcome: "wrong" contradicts the theory."""
    return [v for v in _widest(verdicts) if v.outcome == outcome]


def _widest(verdicts: Sequence[CellVerdict]) -> list[CellVerdict]:
    """The verdict of the largest width of every kind."""
    return [max(group, key=lambda v: v.cell.width) for group in _by_kind(verdicts)]

"""What a run leaves: one record per case, pass and contestant, the reasons of those left out, and the file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cofm_triton.evidence.benchmark.measure import Spread, Turns
from cofm_triton.evidence.case import Case
from cofm_triton.support.files import write_text

OURS = "cofm"
_SPREADS = ("seconds", "copy_seconds", "ratio")


@dataclass(frozen=True)
class Record:
    """One measurement.

    Attributes:
        operator, study, size, dtype: the case.
        pass_name: one of `contract.PASSES`.
        contestant: `OURS` or a peer's name.
        rounds: how many pairs of runs.
        first: seconds of the very first run, with compilation.
        seconds: of a run.
        copy_seconds: of `y.copy_(x)`, taken in turns with the runs.
        ratio: run over copy, round by round.
        bytes_moved: by the traffic model, for ours alone.
        bytes_copied: read and written by the copy.
    """

    operator: str
    study: str
    size: str
    dtype: str
    pass_name: str
    contestant: str
    rounds: int
    first: float
    seconds: Spread
    copy_seconds: Spread
    ratio: Spread
    bytes_moved: int | None
    bytes_copied: int

    @property
    def row(self) -> tuple[str, str, str, str, str]:
        """What contestants are compared on."""
        return self.operator, self.study, self.dtype, self.size, self.pass_name

    @property
    def bandwidth(self) -> float | None:
        """Bytes per second over those of the copy; None without a traffic model."""
        if self.bytes_moved is None:
            return None
        return self.bytes_moved / self.bytes_copied / self.ratio.median


def record(
    case: Case, pass_name: str, contestant: str, turns: Turns, bytes_moved: int | None, bytes_copied: int
) -> Record:
    """The record of finished turns."""
    return Record(
        operator=case.operator,
        study=case.variant,
        size=case.size,
        dtype=case.dtype_name,
        pass_name=pass_name,
        contestant=contestant,
        rounds=len(turns.pairs),
        first=turns.first,
        seconds=turns.candidate_seconds(),
        copy_seconds=turns.yardstick_seconds(),
        ratio=turns.ratio(),
        bytes_moved=bytes_moved,
        bytes_copied=bytes_copied,
    )


@dataclass
class Results:
    """Everything measured in one session, on one machine.

    Attributes:
        records: in the order of measurement.
        left_out: contestant and operator to the reasons why cases are missing.
    """

    records: list[Record] = field(default_factory=list)
    left_out: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def leave_out(self, contestant: str, operator: str, reason: str) -> None:
        """Remember once why a contestant is missing."""
        reasons = self.left_out.setdefault((contestant, operator), [])
        if reason not in reasons:
            reasons.append(reason)

    def by_row(self) -> dict[tuple[str, str, str, str, str], dict[str, Record]]:
        """Contestants' records of each row of the table."""
        rows: dict[tuple[str, str, str, str, str], dict[str, Record]] = {}
        for entry in self.records:
            rows.setdefault(entry.row, {})[entry.contestant] = entry
        return rows

    def write(self, path: Path, machine: dict[str, Any], smoke: bool) -> None:
        """Write everything as JSON, whole or not at all."""
        content = {
            "machine": machine,
            "smoke": smoke,
            "records": [_with_names(entry) for entry in self.records],
            "left_out": [
                {"contestant": contestant, "operator": operator, "reasons": reasons}
                for (contestant, operator), reasons in self.left_out.items()
            ],
        }
        write_text(path, json.dumps(content, indent=1) + "\n")


def read(path: Path) -> tuple[Results, dict[str, Any]]:
    """`(results, machine)` of a file that `Results.write` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    records = [_from_names(entry) for entry in content["records"]]
    left_out = {(entry["contestant"], entry["operator"]): entry["reasons"] for entry in content["left_out"]}
    return Results(records, left_out), content["machine"]


def _from_names(content: dict[str, Any]) -> Record:
    """The inverse of `_with_names`."""
    return Record(**{**content, **{name: Spread(**content[name]) for name in _SPREADS}})


def _with_names(entry: Record) -> dict[str, Any]:
    """A record as a dictionary, its spreads too."""
    return {**asdict(entry), **{name: getattr(entry, name)._asdict() for name in _SPREADS}}

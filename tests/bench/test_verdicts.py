"""The page on how often the verdict is right: it counts, and it is the committed one."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from bench import verdicts
from cofm_triton.cli.reproduction.settings import PRESETS

FLAT, FALLING, BETWEEN = [0.5, 0.5, 0.5, 0.5], [0.08, 0.04, 0.02, 0.01], [0.5, 0.4, 0.32, 0.26]


def result() -> dict[str, Any]:
    """Two seeds, all as theory says but three."""
    records = []
    for seed, target, act, rate in product(
        range(2), ("exp", "pol"), verdicts.NONLINEARITIES, verdicts.PARAMETERIZATIONS
    ):
        radii = FALLING if (target, rate) == ("pol", "direct") else FLAT
        if seed == 1 and act == "tanh" and target == "pol":
            radii = {"lru": BETWEEN, "inverse": FALLING, "direct": FLAT}.get(rate, radii)
        names = {"target": target, "nonlinearity": act, "parameterization": rate, "width": 16}
        records.append({"seed": seed, **names, "radius": radii, "resolution": [0.0] * 4})
    return {"preset": "smoke", "horizons": [50, 100, 200, 400], "records": records}


def test_outcomes_are_counted() -> None:
    text = verdicts.section(result())
    assert text.startswith("## Preset smoke: 57 right, 1 undecided, 2 wrong\n")
    for rate, tanh in {"lru": "1 / 1 / 0", "inverse": "1 / 0 / 1", "direct": "1 / 0 / 1", "exp": "2 / 0 / 0"}.items():
        (line,) = (line for line in text.splitlines() if line.startswith(f"| pol | {rate} "))
        assert line.split(" | ")[2:5] == ["2 / 0 / 0", "2 / 0 / 0", tanh]
    assert sum(line.startswith(("- wrong: seed 1, pol-tanh-", "- undecided: seed 1")) for line in text.split("\n")) == 3


@pytest.mark.parametrize("preset", ["smoke", "default"])
def test_committed_results(preset: str) -> None:
    """None wrong, and at most 2 % undecided with the default preset; the page is that of the files."""
    data = json.loads((verdicts.FOLDER / "results" / f"verdicts-{preset}.json").read_text())
    assert data["horizons"] == list(PRESETS[preset].horizons)
    outcomes = [verdicts.judged(record, data["horizons"]).outcome for record in data["records"]]
    assert "wrong" not in outcomes
    assert preset == "smoke" or outcomes.count("undecided") <= 0.02 * len(outcomes)
    assert verdicts.section(data) in Path(verdicts.FOLDER / "VERDICTS.md").read_text()


def test_a_seed_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of model has a radius at every horizon, and a second call only reads them."""
    small = replace(
        verdicts.settings_of("smoke", 3),
        nonlinearities=("linear",),
        parameterizations=("exp",),
        widths=(2,),
        horizons=(5, 9),
        train_sequences=8,
        horizon_sequences=8,
        linear_steps=3,
    )
    records = verdicts.records_of(small, tmp_path)
    assert [(r["seed"], r["target"], len(r["radius"])) for r in records] == [(3, "exp", 2), (3, "pol", 2)]
    assert not list(tmp_path.rglob("*errors*"))
    monkeypatch.setattr("cofm_triton.cli.reproduction.stages.train_linear", None)
    assert verdicts.records_of(small, tmp_path) == records

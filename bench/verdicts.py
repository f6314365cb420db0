"""How often the horizon test is right: models trained from many seeds, judged against the theory.

    python bench/verdicts.py --preset default --seeds 20     # an hour; finished models are kept
    python bench/verdicts.py --preset smoke --seeds 20       # minutes
    python bench/verdicts.py                                 # the page anew, from bench/results/verdicts-*.json

Trains the widest models of a preset of `cofm reproduce`, for every seed, on both targets, with five parameterisations
and three activations, finds their radii, and judges them. Writes `bench/results/verdicts-PRESET.json` (radii and
resolutions) and `bench/VERDICTS.md`. What theory says: all approximations are stable but those of `pol` with direct
rates (arXiv 2305.19190, Theorem 3.9).
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import mean, median, variance
from typing import Any

from cofm_triton.cli.jobs.provenance import provenance
from cofm_triton.cli.progress import Progress
from cofm_triton.cli.reproduction.folder import Cell, RunFolder
from cofm_triton.cli.reproduction.report import CellVerdict
from cofm_triton.cli.reproduction.settings import PAPER_TARGETS, PRESETS, Settings
from cofm_triton.cli.reproduction.stages import cells, run_stages
from cofm_triton.perturbation.verdict import MAX_RADIUS, judge
from cofm_triton.support.files import write_text

FOLDER = Path(__file__).parent
PARAMETERIZATIONS = ("direct", "exp", "softplus", "inverse", "lru")
NONLINEARITIES = ("linear", "hardtanh", "tanh")
OUTCOMES = ("right", "undecided", "wrong")


def settings_of(preset: str, seed: int) -> Settings:
    """The preset with all kinds of models, and its largest width alone."""
    return replace(
        PRESETS[preset],
        nonlinearities=NONLINEARITIES,
        parameterizations=PARAMETERIZATIONS,
        widths=PRESETS[preset].widths[-1:],
        seed=seed,
    )


def records_of(settings: Settings, root: Path) -> list[dict[str, Any]]:
    """One record for each kind of model: its radius and resolution at every horizon."""
    folder = RunFolder(root)
    with folder.open({**settings.as_dict(), **provenance(settings.device)}, [], overwrite=False):
        run_stages(settings, folder, Progress(quiet=True), sweep=False)
        return [_record(settings, folder, cell) for cell in _all_cells(settings)]


def _all_cells(settings: Settings) -> Iterator[Cell]:
    for target, nonlinearity in product(settings.targets, settings.nonlinearities):
        yield from cells(settings, target, nonlinearity)


def _record(settings: Settings, folder: RunFolder, cell: Cell) -> dict[str, Any]:
    parts = [json.loads(folder.kept(folder.radius(cell, length))) for length in settings.horizons]
    return {
        "seed": settings.seed,
        "target": cell.target,
        "nonlinearity": cell.nonlinearity,
        "parameterization": cell.parameterization,
        "width": cell.width,
        **{name: [part[name] for part in parts] for name in ("radius", "resolution")},
    }


def judged(record: dict[str, Any], horizons: Sequence[int]) -> CellVerdict:
    """The verdict over one record, beside what theory says."""
    cell = Cell(*(record[name] for name in ("target", "nonlinearity", "parameterization", "width")))
    return CellVerdict(cell, judge(horizons, record["radius"], record["resolution"], max_radius=MAX_RADIUS), None)


def section(result: dict[str, Any]) -> str:
    """The part of the page on one preset."""
    horizons, records = result["horizons"], result["records"]
    verdicts = [judged(record, horizons) for record in records]
    count = Counter(v.outcome for v in verdicts)
    seeds = {record["seed"] for record in records}
    lines = [
        f"## Preset {result['preset']}: {', '.join(f'{count[name]} {name}' for name in OUTCOMES)}",
        "",
        f"{len(seeds)} seeds, m = {records[0]['width']}, T = {', '.join(map(str, horizons))}.",
        "",
        f"| target | rate | {' | '.join(NONLINEARITIES)} | slope: lowest, median, highest | scatter of log r |",
        "| --- " * (4 + len(NONLINEARITIES)) + "|",
        *(_row(list(zip(records, verdicts, strict=True)), *kind) for kind in product(PAPER_TARGETS, PARAMETERIZATIONS)),
        "",
    ]
    for record, v in zip(records, verdicts, strict=True):
        if v.outcome != "right":
            lines.append(f"- {v.outcome}: seed {record['seed']}, {v.cell.name}: {v.trained.reason}")
    return "\n".join(lines).rstrip() + "\n"


def _row(judgements: Sequence[tuple[dict[str, Any], CellVerdict]], target: str, rate: str) -> str:
    group = [pair for pair in judgements if (pair[1].cell.target, pair[1].cell.parameterization) == (target, rate)]
    by_act = [[pair for pair in group if pair[1].cell.nonlinearity == name] for name in NONLINEARITIES]
    counts = [Counter(v.outcome for _, v in pairs) for pairs in by_act]
    slopes = sorted(v.trained.slope for _, v in group if math.isfinite(v.trained.slope))
    cells = [
        *(" / ".join(str(count[name]) for name in OUTCOMES) for count in counts),
        f"{slopes[0]:+.2f}, {median(slopes):+.2f}, {slopes[-1]:+.2f}",
        f"{math.sqrt(mean(_variance([record for record, _ in pairs]) for pairs in by_act)):.3f}",
    ]
    return f"| {target} | {rate} | {' | '.join(cells)} |"


def _variance(records: Sequence[dict[str, Any]]) -> float:
    """Of log r from seed to seed, the mean over horizons; NaN of one seed. Radii of 0 (no fit) are left out."""
    columns = zip(*(record["radius"] for record in records), strict=True)
    logs = [[math.log(r) for r in column if r > 0] for column in columns]
    return mean(variance(column) if len(column) > 1 else math.nan for column in logs)


HEADER = """# How often the verdict is right

`bench/verdicts.py` writes this page. Models are the widest of each preset of `cofm reproduce`, trained from every seed;
what is judged is one training at each horizon, as a user would. Theory (arXiv 2305.19190, Theorem 3.9): all are stable
but `pol` with direct rates.

- **right / undecided / wrong**, in each column of an activation: how many seeds.
- **slope**: of log r in log T at the longest horizon ([how](../docs/measure.md#stable-or-unstable)).
- **scatter of log r**: standard deviation from seed to seed at one horizon (root mean square over horizons and
  activations). The test assumes 0.05 (`SCATTER`), as little as four residuals weigh.
"""


def write_page() -> None:
    """`bench/VERDICTS.md` from the results of all presets."""
    found = {preset: FOLDER / "results" / f"verdicts-{preset}.json" for preset in PRESETS}
    results = [json.loads(path.read_text()) for path in found.values() if path.exists()]
    write_text(FOLDER / "VERDICTS.md", "\n".join([HEADER, *map(section, results)]))


def main() -> None:
    """Train what is missing, write the results and the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", choices=tuple(PRESETS), help="none: the page anew, from results that are there")
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="0 to N - 1 (default: 20)")
    parser.add_argument("--anew", action="store_true", help="train seeds that the results have, too")
    parser.add_argument(
        "--out", type=Path, default=Path("out/verdicts"), help="keeps the models (default: out/verdicts)"
    )
    arguments = parser.parse_args()
    if arguments.preset:
        path = FOLDER / "results" / f"verdicts-{arguments.preset}.json"
        records = [] if arguments.anew else _known(path, arguments.preset)
        known = {record["seed"] for record in records}
        for seed in sorted(set(range(arguments.seeds)) - known):
            settings = settings_of(arguments.preset, seed)
            records += records_of(settings, arguments.out / arguments.preset / str(seed))
            print(f"{arguments.preset}: seed {seed} of {arguments.seeds}", flush=True)
        result = {
            "preset": arguments.preset,
            "horizons": list(PRESETS[arguments.preset].horizons),
            **provenance("cpu"),
            "records": sorted(records, key=lambda record: record["seed"]),
        }
        write_text(path, _lines(result))
    write_page()


def _known(path: Path, preset: str) -> list[dict[str, Any]]:
    """Records of an earlier run with the same horizons."""
    if not path.exists():
        return []
    result = json.loads(path.read_text())
    records: list[dict[str, Any]] = result["records"]
    return records if result["horizons"] == list(PRESETS[preset].horizons) else []


def _lines(result: dict[str, Any]) -> str:
    """JSON, one record a line."""
    records = ",\n  ".join(map(json.dumps, result["records"]))
    head = json.dumps({name: value for name, value in result.items() if name != "records"})
    return f'{head[:-1]},\n "records": [\n  {records}\n ]}}\n'


if __name__ == "__main__":
    main()

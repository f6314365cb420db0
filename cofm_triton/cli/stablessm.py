"""`cofm stablessm`: which f in rate = f(w) trains stably (StableSSM, arXiv 2311.14495).

Trains a state-space model on a target of long memory with every f, at several learning rates, with units that fade and
with pairs that turn; records |dL/dw| / |w| beside its bound; and says which f is best, by their criterion, by ours and
by what was measured. A killed job continues where it was, and `torchrun` splits it over processes.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from cofm_triton.cli.jobs.blocks import Block, BlockFiles, Result, run_blocks
from cofm_triton.cli.jobs.processes import Processes
from cofm_triton.cli.jobs.run import run_job
from cofm_triton.cli.options import add_common_options, name_list, number_list, positive
from cofm_triton.cli.progress import Progress
from cofm_triton.cli.table import aligned
from cofm_triton.step.activations import NONLINEARITIES
from cofm_triton.step.parameterizations import PARAMETERIZATIONS
from cofm_triton.support.figure_file import FORMATS
from cofm_triton.support.files import write_table, write_text

if TYPE_CHECKING:
    from cofm_triton.experiment.stable_ssm import Training

KINDS = {"real": False, "oscillating": True}
SUMMARY, RUNS = "stablessm.json", "trainings.csv"
FIGURES = tuple(f"{name}.{suffix}" for name in ("ratios", "learning-rates") for suffix in FORMATS)
_RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_TRAINING = ("optimizer", "nonlinearity", "target", "length", "sequences", "width", "steps")  # options of each training
_KINDS = ("parameterizations", "learning_rates", "seeds", "seed")
_BETA = 0.1  # of the modulus: a tenth of what a raw weight may be


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--parameterizations",
        type=name_list(PARAMETERIZATIONS),
        metavar="A,B",
        default=PARAMETERIZATIONS,
        help=f"from {', '.join(PARAMETERIZATIONS)} (default: all)",
    )
    parser.add_argument(
        "--learning-rates",
        type=number_list,
        metavar="R,R",
        default=_RATES,
        help=f"(default: {','.join(map(str, _RATES))})",
    )
    parser.add_argument(
        "--optimizer",
        choices=("sgd", "adam"),
        default="sgd",
        help="sgd: what the theory speaks of; adam: steps that do not grow with gradients (default: sgd)",
    )
    parser.add_argument(
        "--nonlinearity",
        choices=NONLINEARITIES,
        default="linear",
        help="of the states before the read-out; a bounded one hides states that grow (default: linear)",
    )
    parser.add_argument("--target", default="pol", help="a target of cofm.targets (default: pol)")
    parser.add_argument("--length", type=positive, default=100, metavar="T", help="steps of time (default: 100)")
    parser.add_argument(
        "--sequences", type=positive, default=32, metavar="N", help="all in every training step (default: 32)"
    )
    parser.add_argument("--width", type=positive, default=16, metavar="M", help="units (default: 16)")
    parser.add_argument("--steps", type=positive, default=150, metavar="N", help="training steps (default: 150)")
    parser.add_argument("--seeds", type=positive, default=3, metavar="N", help="trainings of each kind (default: 3)")
    add_common_options(parser, out="out/stablessm")
    parser.add_argument("--overwrite", action="store_true", help="replace a run with other settings in --out")


def run(arguments: argparse.Namespace) -> int:
    """Run the trainings that are still missing, and report.

    Returns:
        0.
    """
    return run_job(arguments, lambda device: StableSSM(arguments), write_report)


class Run(NamedTuple):
    """One training of the job."""

    kind: str
    parameterization: str
    learning_rate: float
    seed: int


class StableSSM:
    """What is to be trained: on the CPU, wherever the command runs.

    Args:
        arguments: the command's options.

    Raises:
        ValueError: an unknown target.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        from cofm_triton.cli.options import UsageError
        from cofm_triton.targets import TARGETS

        if arguments.target not in TARGETS:
            raise UsageError(f"--target must be one of {', '.join(TARGETS)}, got {arguments.target!r}")
        self._arguments = arguments
        self._runs = [
            Run(*values)
            for values in product(
                KINDS,
                arguments.parameterizations,
                arguments.learning_rates,
                range(arguments.seed, arguments.seed + arguments.seeds),
            )
        ]

    def config(self) -> dict[str, Any]:
        """What the results depend on, JSON values."""
        chosen = {name: getattr(self._arguments, name) for name in (*_TRAINING, *_KINDS)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()}

    def files(self) -> list[str]:
        """Names of the files that `write_report` writes."""
        return [RUNS, SUMMARY, *FIGURES]

    def headline(self) -> str:
        """The job in a line."""
        return f"{len(self._runs)} trainings of {self._arguments.steps} steps on {self._arguments.target}"

    def compute(self, files: BlockFiles, processes: Processes, progress: Progress) -> dict[Run, Training]:
        """All trainings, in every process.

        Args:
            files: of finished blocks.
            processes: that share the work.
            progress: told how much is done.
        """
        from cofm_triton.experiment.stable_ssm import Training

        names = ("{:03d}-{:s}-{:s}-{!r}-{:d}".format(i, *run) for i, run in enumerate(self._runs))
        blocks = [Block(name, partial(self._train, run)) for name, run in zip(names, self._runs, strict=True)]
        with progress.bar("trainings") as on_step:
            results = run_blocks(blocks, files, processes, on_step)
        return {run: Training(**result) for run, result in zip(self._runs, results, strict=True)}

    def _train(self, run: Run) -> Result:
        from cofm_triton.experiment.stable_ssm import recorded_training

        options = {name: getattr(self._arguments, name) for name in _TRAINING}
        training = recorded_training(
            run.parameterization,
            learning_rate=run.learning_rate,
            oscillating=KINDS[run.kind],
            seed=run.seed,
            **options,
        )
        return vars(training)


def write_report(trainings: Mapping[Run, Training], config: dict[str, Any], out: Path) -> str:
    """Write tables and figures.

    Args:
        trainings: all of the job.
        config: of the job.
        out: folder.

    Returns:
        A table for people.
    """
    rows = [(*run, training.final, training.constant) for run, training in trainings.items()]
    write_table(out / RUNS, (*Run._fields, "final_loss", "constant"), rows)
    found = [_summary(kind, name, trainings) for kind, name in product(KINDS, config["parameterizations"])]
    text = {"config": config, "summary": [{key: _json(value) for key, value in row.items()} for row in found]}
    write_text(out / SUMMARY, json.dumps(text, indent=1, allow_nan=False) + "\n")
    _draw(trainings, found, config, out)
    columns = {
        "units": "kind", "f": "parameterization", "sup bound": "gradient_bound", "g(0.1)": "modulus",
        "largest ratio": "largest_ratio", "C": "constant", "stable up to": "stable_up_to", "best loss": "best_loss",
        "at": "best_learning_rate",
    }  # fmt: skip
    table = [tuple(columns), *(tuple(_word(row[key]) for key in columns.values()) for row in found)]
    return aligned(table) + "\n" + _explained(found)


def _summary(kind: str, name: str, trainings: Mapping[Run, Training]) -> dict[str, Any]:
    """What is known of one f."""
    from cofm_triton.experiment.stable_ssm import gradient_bound
    from cofm_triton.step.parameterization import parameterization

    mine = {run: training for run, training in trainings.items() if run[:2] == (kind, name)}
    by_rate: dict[float, list[Training]] = {}
    for run, training in mine.items():
        by_rate.setdefault(run.learning_rate, []).append(training)
    fails = [rate for rate, some in by_rate.items() if not all(training.is_stable for training in some)]
    stable = [rate for rate in by_rate if rate < min(fails, default=math.inf)]
    middle = {rate: median(training.final for training in some) for rate, some in by_rate.items()}
    best = min(middle, key=lambda rate: middle[rate])
    return {
        "kind": kind,
        "parameterization": name,
        "gradient_bound": gradient_bound(name),
        "modulus": parameterization(name).modulus(_BETA),
        "largest_ratio": max(max(_positive(training)[1].tolist(), default=0.0) for training in by_rate[best]),
        "constant": max(training.constant for training in by_rate[best]),
        "stable_up_to": max(stable, default=0.0),
        "best_loss": middle[best],
        "best_learning_rate": best,
    }


def _positive(training: Training) -> tuple[Any, Any, Any]:
    """Rates, ratios and bounds of a training's units with positive rates."""
    kept = (training.rates > 0) & (training.bounds > 0) & training.ratios.isfinite() & training.bounds.isfinite()
    return training.rates[kept], training.ratios[kept], training.constant * training.bounds[kept]


def _draw(
    trainings: Mapping[Run, Training], found: Sequence[dict[str, Any]], config: dict[str, Any], out: Path
) -> None:
    """Ratios of the first seed at the best learning rate; losses of all, medians of seeds."""
    from cofm_triton.experiment.figures import LossCurve, RatioCloud, plot_learning_rates, plot_ratios

    seed, clouds, curves = config["seed"], [], []
    for row in found:
        kind, name, best = row["kind"], row["parameterization"], row["best_learning_rate"]
        clouds.append(RatioCloud(name, kind, *(c.tolist() for c in _positive(trainings[Run(kind, name, best, seed)]))))
        losses = [
            median(trainings[Run(kind, name, rate, seed + k)].final for k in range(config["seeds"]))
            for rate in config["learning_rates"]
        ]
        curves.append(LossCurve(f"{kind} units", name, config["learning_rates"], losses))
    ratios, rates = FIGURES[: len(FORMATS)], FIGURES[len(FORMATS) :]
    plot_ratios(clouds, "Gradients over weights while training (arXiv 2311.14495)", [out / name for name in ratios])
    title = f"Training with {config['optimizer']} at growing learning rates, target {config['target']}"
    plot_learning_rates(curves, title, [out / name for name in rates])


def _explained(found: Sequence[dict[str, Any]]) -> str:
    """Who is best, and what the columns are."""
    by = {name: [row for row in found if row["kind"] == name] for name in KINDS}
    theory = by["real"]
    lines = [
        f"Best by StableSSM's criterion, the smallest bound: {_best(theory, 'gradient_bound')}",
        f"best by ours, the smallest modulus: {_best(theory, 'modulus')}",
        *(f"largest stable learning rate, {kind}: {_best(rows, 'stable_up_to', -1)}" for kind, rows in by.items()),
        *(f"lowest loss, {kind}: {_best(rows, 'best_loss')}" for kind, rows in by.items()),
    ]
    return ";\n".join(lines) + (
        ".\n\nsup bound: of |f'| / (f^2 |w|) over rates of 0.01 to 0.1. g(0.1): how far a rate moves, relative to\n"
        "itself, as its weight moves by 0.1. largest ratio: |dL/dw| / |w| measured at the best learning rate, C\n"
        "the factor with which the bound holds there. stable up to: the largest learning rate up to which every seed\n"
        "ends no worse than it began. best loss: median of seeds, over the zero model's.\n"
    )


def _best(rows: Sequence[dict[str, Any]], key: str, sign: int = 1) -> str:
    """Names of those with the smallest value, or the largest."""
    least = min(sign * row[key] for row in rows)
    return ", ".join(row["parameterization"] for row in rows if sign * row[key] <= least + 1e-12 * abs(least))


def _word(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value

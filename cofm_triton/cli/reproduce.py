"""`cofm reproduce`: the experiment of arXiv 2305.19190 end to end.

Trains models on targets of exponential and of polynomial memory, with direct and with stable parameterisations;
perturbs their parameters; and decides by the horizon test which approximations are stable.
Exit status 1: the widest models of some kind contradict the theory. 4: none does, but some kind is undecided.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from cofm_triton.cli.jobs.provenance import provenance
from cofm_triton.cli.options import (
    UsageError,
    add_common_options,
    name_list,
    require,
    resolve_device,
    width_list,
)
from cofm_triton.cli.progress import Progress
from cofm_triton.cli.reproduction.folder import RunFolder
from cofm_triton.cli.reproduction.settings import (
    NONLINEARITIES,
    OSCILLATING,
    PARAMETERIZATIONS,
    PRESETS,
    RECURRENCES,
    TARGETS,
    Settings,
)

UNDECIDED = 4
"""Exit status of a run that neither shows nor contradicts the theory. 2 is wrong usage, 3 a failure."""

_NAMES = {
    "targets": TARGETS,
    "nonlinearities": NONLINEARITIES,
    "parameterizations": PARAMETERIZATIONS,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default="default",
        help="smoke: under a minute; default: under 5 minutes; paper: the full protocol, with "
        f"{PRESETS['paper'].test_sequences} test sequences and two more parameterizations (default: default)",
    )
    parser.add_argument(
        "--discretization",
        choices=("exact", "euler"),
        default="exact",
        help="exact: decay exp(-dt rate), stable for every weight; euler: 1 - dt rate, the paper's (default: exact)",
    )
    parser.add_argument(
        "--recurrence",
        choices=RECURRENCES,
        default="diagonal",
        help="of all models; dense and orthogonal ones take many times as long (default: diagonal, the paper's)",
    )
    parser.add_argument(
        "--oscillating",
        action="store_true",
        help=f"units turn in pairs, for --recurrence {' or '.join(OSCILLATING)}",
    )
    for option, known in _NAMES.items():
        parser.add_argument(
            f"--{option}",
            type=name_list(known, every="all"),
            metavar="A,B",
            help=f"instead of the preset's, from {', '.join(known)}; or all",
        )
    parser.add_argument("--widths", type=width_list, metavar="M,M", help="hidden units, instead of the preset's")
    add_common_options(parser, out="out/reproduce-PRESET, -RECURRENCE behind it unless it is the paper's")
    parser.add_argument("--overwrite", action="store_true", help="replace a run with other settings in --out")


def run(arguments: argparse.Namespace) -> int:
    """Run the experiment, or the steps that are still missing.

    Returns:
        0 if every verdict is the predicted one, 1 if some verdict is the opposite, else `UNDECIDED`.
    """
    require(("matplotlib", "safetensors", "tqdm"), extra="reproduce")
    settings = settings_from(arguments)
    paper = Settings(settings.preset).kind
    name = settings.preset if settings.kind == paper else f"{settings.preset}-{settings.kind}"
    out: Path = arguments.out or Path("out") / f"reproduce-{name}"
    folder = RunFolder(out)
    progress = Progress(arguments.quiet)
    with folder.open(_config(settings), folder.report(settings.targets), overwrite=arguments.overwrite) as continued:
        progress.line(_headline(settings, out, continued))
        return _reproduce(settings, folder, progress)


def _reproduce(settings: Settings, folder: RunFolder, progress: Progress) -> int:
    """Every step that is missing, then the report; the exit status."""
    from cofm_triton.cli.reproduction.report import verdict_table, with_outcome, write_report
    from cofm_triton.cli.reproduction.stages import run_stages

    start = time.perf_counter()
    try:
        run_stages(settings, folder, progress)
    except KeyboardInterrupt:
        progress.line(f"Stopped. Finished steps are in {folder.root}: the same command continues.")
        raise
    verdicts = write_report(settings, folder)
    wrong, undecided = with_outcome(verdicts, "wrong"), with_outcome(verdicts, "undecided")
    print(verdict_table(verdicts))
    for title, some in (("Not as predicted", wrong), ("Undecided", undecided)):
        for v in some:
            print(f"{title}: {v.cell.name}: {v.trained.reason}")
    print(f"Results: {folder.root}")
    progress.line(f"{time.perf_counter() - start:.0f} s")
    if wrong:
        return 1
    return UNDECIDED if undecided else 0


def settings_from(arguments: argparse.Namespace) -> Settings:
    """The preset with the options given instead of its values.

    Raises:
        UsageError: --device cuda without a GPU, or --oscillating for a recurrence without pairs.
    """
    if arguments.oscillating and arguments.recurrence not in OSCILLATING:
        accepted = " or ".join(OSCILLATING)
        raise UsageError(f"--oscillating needs --recurrence {accepted}, got {arguments.recurrence}")
    chosen = {name: getattr(arguments, name) for name in (*_NAMES, "widths")}
    return replace(
        PRESETS[arguments.preset],
        **{name: value for name, value in chosen.items() if value is not None},
        recurrence=arguments.recurrence,
        oscillating=arguments.oscillating,
        discretization=arguments.discretization,
        seed=arguments.seed,
        device=resolve_device(arguments.device),
    )


def _config(settings: Settings) -> dict[str, Any]:
    """What the bits of the results depend on."""
    return {**settings.as_dict(), **provenance(settings.device)}


def _headline(settings: Settings, out: Path, continued: bool) -> str:
    models = len(settings.targets) * len(settings.nonlinearities)
    models *= len(settings.parameterizations) * len(settings.widths)
    return (
        f"{'Continuing' if continued else 'Writing to'} {out}: {models} kinds of models at "
        f"horizons {', '.join(map(str, settings.horizons))}; {settings.kind} recurrence, {settings.discretization} "
        f"discretization, {settings.train_sequences} training and {settings.test_sequences} test "
        f"sequences, seed {settings.seed}, on {settings.device}."
    )

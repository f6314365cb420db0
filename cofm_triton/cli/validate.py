"""`cofm validate`: every operator against `reference/` in float64, on every backend that can run here.

Exit status 1 means that a result is off by more than rounding explains. `--inject-fault` breaks the kernels on purpose,
at one element and by 10 bits of a float32, and must end with status 1.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cofm_triton.cli.options import UsageError, add_common_options, make_folder, resolve_device
from cofm_triton.cli.progress import Progress

if TYPE_CHECKING:
    from cofm_triton.evidence.validation.check import Outcome

FAULTS = ("forward", "backward")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--operators", metavar="A,B", help="names of operators (default: all)")
    parser.add_argument("--exhaustive", action="store_true", help="many more shapes; takes a quarter of an hour")
    parser.add_argument("--replay", metavar="CASE", help="one call again, as a table names it, with its worst element")
    parser.add_argument("--inject-fault", choices=FAULTS, help="break the kernels of this pass, to see them found out")
    add_common_options(parser, out="none is written")


def run(arguments: argparse.Namespace) -> int:
    """Validate, print the tables, write the file.

    Returns:
        0 if every result is within its bound, else 1.
    """
    from cofm_triton.evidence.validation import report

    resolve_device(arguments.device)
    start = time.perf_counter()
    progress = Progress(arguments.quiet)
    if arguments.replay is not None:
        outcomes = _replay(arguments)
        for outcome in outcomes:
            print("\n".join(report.details(outcome)))
    else:
        outcomes = _validate(arguments, progress)
        print("\n".join(report.lines(outcomes)))
    if arguments.out is not None:
        print(f"Results: {_write(arguments.out, arguments, outcomes)}")
    progress.line(f"{time.perf_counter() - start:.0f} s")
    return 1 if any(outcome.missed for outcome in outcomes) else 0


def _validate(arguments: argparse.Namespace, progress: Progress) -> list[Outcome]:
    """All problems in all places."""
    from cofm_triton.evidence.validation.place import places
    from cofm_triton.evidence.validation.registry import operators, problems
    from cofm_triton.evidence.validation.run import run

    chosen = tuple(operators()) if arguments.operators is None else tuple(arguments.operators.split(","))
    for name in chosen:
        if name not in operators():
            raise UsageError(f"--operators: {name!r} is not one of {', '.join(operators())}")
    make_folder(arguments.out)
    present, absent = places(arguments.device)
    for place, reason in absent.items():
        progress.line(f"{place} left out: {reason}")
    progress.line(f"Validating {', '.join(chosen)} on {', '.join(place.text for place in present)}")
    exhaustive, fault = arguments.exhaustive, arguments.inject_fault
    pairs = [
        (problem, place)
        for place in present
        for problem in problems(chosen, arguments.seed, interpreted=place.interpreted, exhaustive=exhaustive)
    ]
    with progress.bar("random calls") as on_step:
        return run(pairs, fault, on_step)


def _replay(arguments: argparse.Namespace) -> list[Outcome]:
    """One problem in one place."""
    from cofm_triton.evidence.validation.place import places
    from cofm_triton.evidence.validation.problem import Problem
    from cofm_triton.evidence.validation.registry import draw
    from cofm_triton.evidence.validation.run import run

    text: str = arguments.replay
    words, _, where = text.rpartition(":")
    present = {place.text: place for place in places(arguments.device)[0]}
    if where not in present:
        raise UsageError(f"--replay CASE must end with one of {', '.join(present)}, got {text!r}")
    try:
        problem = Problem.parse(words)
        draw(problem)
    except ValueError as error:
        raise UsageError(f"--replay: {error}") from error
    make_folder(arguments.out)
    return run([(problem, present[where])], arguments.inject_fault, lambda done, total: None)


def _write(folder: Path, arguments: argparse.Namespace, outcomes: list[Outcome]) -> Path:
    import torch

    from cofm_triton.evidence import machine
    from cofm_triton.evidence.validation import report

    device = torch.device(resolve_device(arguments.device))
    names = ("seed", "exhaustive", "inject_fault", "replay")
    options = {name: getattr(arguments, name) for name in names}
    return report.write(folder, outcomes, {"machine": machine.describe(device, machine.load()), "options": options})

"""`cofm kernels`: what the compiler makes of each GPU kernel. No GPU is needed.

Exit status 1: a kernel spills registers, or is worse than the committed baseline.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from cofm_triton.cli.options import UsageError, add_common_options, make_folder, require, resolve_device
from cofm_triton.cli.progress import Progress
from cofm_triton.evidence.compilation.devices import DEVICES

DEFAULT_TARGETS = ",".join(DEVICES)
BASELINE = Path("bench", "results", "kernels.json")
FILE = "kernels.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--targets",
        metavar="A,B",
        default=DEFAULT_TARGETS,
        help=f"GPU architectures to compile for (default: {DEFAULT_TARGETS})",
    )
    parser.add_argument("--operators", metavar="A,B", help="operators to compile (default: all)")
    parser.add_argument(
        "--all", action="store_true", help="compile every flag, dtype and width, not only the usual ones"
    )
    parser.add_argument(
        "--write-baseline",
        action="store_true",
        help=f"store what later runs are compared with in {BASELINE} (needs a checkout): the usual kernels, and the "
        "others for one GPU; only those that changed are compiled",
    )
    add_common_options(parser, out="none is written")


def run(arguments: argparse.Namespace) -> int:
    """Compile, print the tables, compare.

    Returns:
        0 if nothing spills and nothing has become worse, else 1.
    """
    require(("triton",), extra="cpu")
    import torch

    from cofm_triton.evidence import machine
    from cofm_triton.evidence.compilation import baseline, report
    from cofm_triton.evidence.compilation.offline import parse_targets
    from cofm_triton.evidence.compilation.run import all_tasks, compile_all, kept_tasks
    from cofm_triton.evidence.registry import compilations

    resolve_device(arguments.device)
    start = time.perf_counter()
    progress = Progress(arguments.quiet)
    chosen = tuple(compilations()) if arguments.operators is None else tuple(arguments.operators.split(","))
    for name in chosen:
        if name not in compilations():
            raise UsageError(f"--operators: {name!r} is not one of {', '.join(compilations())}")
    try:
        targets = parse_targets(arguments.targets)
    except ValueError as error:
        raise UsageError(f"--targets: {error}") from error
    if arguments.write_baseline and arguments.all:
        raise UsageError("--write-baseline chooses what it compiles: leave out --all")
    if arguments.write_baseline and not BASELINE.parent.parent.is_dir():
        raise UsageError(f"--write-baseline writes {BASELINE}: run it in a checkout of the repository")
    make_folder(arguments.out)
    with progress.bar(f"Compiling {', '.join(chosen)} for {', '.join(targets)}") as on_step:
        if arguments.write_baseline:
            known = baseline.read(BASELINE)[1].values() if BASELINE.is_file() else ()
            compiled = compile_all(kept_tasks(targets, chosen), on_step, known=tuple(known))
        else:
            compiled = compile_all(all_tasks(targets, chosen, everything=arguments.all), on_step)
    print("\n".join(report.lines(compiled)))
    about = {"machine": machine.describe(torch.device("cpu"), machine.load())}
    spilled = [entry for entry in compiled if entry.spilled]
    for entry in spilled:
        print(f"Spills: {entry.target} {entry.key}")
    worse = list(baseline.worse(compiled, BASELINE)) if BASELINE.is_file() and not arguments.write_baseline else []
    for line in worse:
        print(f"Worse than {BASELINE}: {line}")
    if arguments.write_baseline:
        baseline.update(BASELINE, compiled, about)
        print(f"Baseline: {BASELINE}")
    if arguments.out is not None:
        baseline.write(arguments.out / FILE, compiled, about)
        print(f"Results: {arguments.out / FILE}")
    progress.line(f"{time.perf_counter() - start:.0f} s")
    return 1 if spilled or worse else 0

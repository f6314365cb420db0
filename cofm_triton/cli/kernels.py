"""`cofm kernels`: what the compiler makes of each kernel, for GPUs that need not be there.

Exit status 1 means that a kernel spills registers, or has become worse than the committed baseline.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from cofm_triton.cli.options import UsageError, add_common_options, make_folder, require, resolve_device
from cofm_triton.cli.progress import Progress

DEFAULT_TARGETS = "sm_80,sm_90,sm_100,gfx942"
BASELINE = Path("bench", "results", "kernels.json")
FILE = "kernels.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--targets", metavar="A,B", default=DEFAULT_TARGETS, help=f"default: {DEFAULT_TARGETS}")
    parser.add_argument("--operators", metavar="A,B", help="names of operators (default: all)")
    parser.add_argument("--all", action="store_true", help="every flag, dtype and width instead of the usual ones")
    parser.add_argument(
        "--write-baseline",
        action="store_true",
        help=f"write what was compiled into {BASELINE}, which later runs are compared with (in a checkout)",
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
    from cofm_triton.evidence.compilation.launches import operators
    from cofm_triton.evidence.compilation.offline import parse_targets
    from cofm_triton.evidence.compilation.run import compile_all

    resolve_device(arguments.device)
    start = time.perf_counter()
    progress = Progress(arguments.quiet)
    chosen = tuple(operators()) if arguments.operators is None else tuple(arguments.operators.split(","))
    for name in chosen:
        if name not in operators():
            raise UsageError(f"--operators: {name!r} is not one of {', '.join(operators())}")
    try:
        targets = parse_targets(arguments.targets)
    except ValueError as error:
        raise UsageError(f"--targets: {error}") from error
    if arguments.write_baseline and arguments.all:
        raise UsageError("--write-baseline keeps the usual kernels: leave out --all")
    if arguments.write_baseline and not BASELINE.parent.parent.is_dir():
        raise UsageError(f"--write-baseline writes {BASELINE}: run it in a checkout of the repository")
    make_folder(arguments.out)
    with progress.bar(f"Compiling {', '.join(chosen)} for {', '.join(targets)}") as on_step:
        compiled = compile_all(targets, chosen, on_step, everything=arguments.all)
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

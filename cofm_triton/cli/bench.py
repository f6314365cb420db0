"""`cofm bench`: time of every recurrence against sequence length, beside a copy and other libraries.

Runs and copies take turns; times are given in copies of the input. A second table says what calls on a GPU cost the
host (`cofm_triton/evidence/host`), which needs no GPU. Other libraries (peers) take part if they are
installed and this is a checkout, since their adapters are in `bench/peers/`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from cofm_triton.cli.options import UsageError, add_common_options, own_folder, require, resolve_device
from cofm_triton.cli.progress import Progress
from cofm_triton.support.figure_file import FORMATS

PRESETS = ("smoke", "quick", "full")
JSON, TABLE = "scaling.json", "scaling.txt"
FIGURES = tuple(f"scaling.{suffix}" for suffix in FORMATS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default="quick",
        help="smoke: seconds, results checked; quick: 8 minutes; full: every power of two, an hour (default: quick)",
    )
    parser.add_argument("--operators", metavar="A,B", help="operators to measure (default: all)")
    parser.add_argument(
        "--page",
        action="store_true",
        help="measure nothing; write bench/RESULTS.md from the files in bench/results/ (needs a checkout)",
    )
    add_common_options(parser, out="out/bench-PRESET")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the table, write table, JSON and figures.

    Returns:
        0, whatever the times are.
    """
    if arguments.page:
        return _write_page()
    require(("matplotlib",), extra="plot")
    from cofm_triton.evidence.benchmark.scaling import scaling_operators

    start = time.perf_counter()
    progress = Progress(arguments.quiet)
    chosen = scaling_operators() if arguments.operators is None else tuple(arguments.operators.split(","))
    for name in chosen:
        if name not in scaling_operators():
            raise UsageError(f"--operators: {name!r} is not one of {', '.join(scaling_operators())}")
    out: Path = arguments.out or Path("out") / f"bench-{arguments.preset}"
    device = resolve_device(arguments.device)
    with own_folder(out):  # of two runs at a time, the table and the figure would not belong together
        _measure(arguments, chosen, device, out, progress)
    print(f"Results: {out}")
    progress.line(f"{time.perf_counter() - start:.0f} s")
    return 0


def _measure(
    arguments: argparse.Namespace, chosen: Sequence[str], kind: str, out: Path, progress: Progress
) -> None:  # fmt: skip
    """Measure operators on a kind of device, print and write."""
    import torch

    from cofm_triton.evidence import machine
    from cofm_triton.evidence.benchmark import figure, table
    from cofm_triton.evidence.benchmark.peers import peers
    from cofm_triton.evidence.benchmark.scaling import PRESETS, measure_scaling
    from cofm_triton.support.files import write_text

    device, load = torch.device(kind), machine.load()
    if not peers():
        progress.line("No peers: their adapters are in bench/peers/ of a checkout.")
    torch.manual_seed(arguments.seed)
    with progress.bar(f"Measuring {', '.join(chosen)} on {device}") as on_step:
        results = measure_scaling(PRESETS[arguments.preset], chosen, device, on_step)
    where = machine.describe(device, load)
    lines = list(table.lines(results, [peer.name for peer in peers() if not peer.same_work]))
    lines += ["", *_host_lines(arguments.preset == "smoke")]
    lines.append(machine.caption(where))
    print("\n".join(lines))
    write_text(out / TABLE, "\n".join(lines) + "\n")
    results.write(out / JSON, where, arguments.preset == "smoke")
    figure.draw([out / name for name in FIGURES], results.records, machine.caption(where))


def _host_lines(smoke: bool) -> Iterable[str]:
    """What a call on a GPU costs the host, measured without one; where it cannot be, the rest is worth keeping."""
    from cofm_triton.evidence.host import FLOOR, report

    reason = report.unavailable()
    if reason is None:
        try:
            return report.lines(report.measured(FLOOR, 1) if smoke else report.measured())
        except RuntimeError as error:  # no room for what a C compiler writes, say
            reason = str(error).splitlines()[-1]
    return [f"Host times of calls on a GPU are left out: {reason}"]


def _write_page() -> int:
    from cofm_triton.evidence.results_page import FOLDER, PAGE, write_page

    try:
        print(f"Results: {write_page(FOLDER, PAGE)}")
    except FileNotFoundError as error:
        raise UsageError(f"--page: {error}") from error
    return 0

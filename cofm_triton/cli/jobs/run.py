"""One run of a long job, from options to report: what `cofm sweep` and `cofm memory` have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cofm_triton.cli.jobs.blocks import BlockFiles
from cofm_triton.cli.jobs.folder import ResultFolder
from cofm_triton.cli.jobs.processes import Processes
from cofm_triton.cli.jobs.provenance import provenance
from cofm_triton.cli.options import require, resolve_device
from cofm_triton.cli.progress import Progress

Results = TypeVar("Results", covariant=True)


class Job(Protocol[Results]):
    """What a command computes in blocks."""

    def config(self) -> dict[str, Any]:
        """Everything the results depend on."""

    def files(self) -> list[str]:
        """Names of the files that the report writes."""

    def headline(self) -> str:
        """The job in a few words."""

    def compute(self, files: BlockFiles, processes: Processes, progress: Progress) -> Results:
        """All results, in every process; finished blocks are kept in `files`."""


def run_job(
    arguments: argparse.Namespace,
    make: Callable[[str], Job[Results]],
    report: Callable[[Results, dict[str, Any], Path], str],
) -> int:
    """Compute a job, or the blocks that are still missing, and report.

    Args:
        arguments: with the common options, and `command`, which names the folder if no --out is given.
        make: the job on a device.
        report: writes files to a folder, from results and their configuration, and returns the table to print.

    Returns:
        0.

    Raises:
        UsageError: a dependency is missing, there is no such device, or --out cannot be written.
        FileExistsError: --out holds something else.
    """
    require(("matplotlib", "safetensors", "tqdm"), extra="reproduce")
    out: Path = arguments.out or Path("out") / arguments.command
    processes = Processes.of()
    device = processes.device(resolve_device(arguments.device))
    progress = Progress(arguments.quiet or not processes.is_first)
    job = make(device)
    config = {**job.config(), **provenance(device)}
    with processes.joined(device):
        folder = ResultFolder(out, arguments.command)
        with folder.open_together(config, job.files(), processes, overwrite=arguments.overwrite) as continued:
            progress.line(f"{'Continuing' if continued else 'Writing to'} {out}: {job.headline()}, on {device}.")
            try:
                results = job.compute(BlockFiles(out / "parts", folder.job), processes, progress)
            except KeyboardInterrupt:
                progress.line(f"Stopped. Finished blocks are in {out}: the same command continues.")
                raise
            if processes.is_first:
                print(report(results, config, out))
                print(f"Results: {out}")
    return 0

"""Pairs that turn beside single units: instructions of GPU kernels, and time on the CPU.

    OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python bench/pairs.py
    python bench/pairs.py --targets sm_90 --shape 8 1024 256

Both recurrences have the same number of real channels, in float32. Instructions are counted in the machine code of the
loop along time, for each real number of h (`cofm kernels` has all kernels); no GPU is needed. Times on the CPU are by
turns with those of single units, see `cofm_triton/evidence/benchmark/measure.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from cofm_triton.evidence import machine
from cofm_triton.evidence.benchmark.measure import Turns
from cofm_triton.evidence.case import Case
from cofm_triton.evidence.compilation.devices import DEVICES
from cofm_triton.evidence.compilation.run import Task, compile_all
from cofm_triton.evidence.registry import benchmarks

CPU = torch.device("cpu")


class Recurrence(NamedTuple):
    """Operators that are timed, and options with which kernels of the first are compiled: of single units, of pairs."""

    single: str
    paired: str
    single_kernels: dict[str, Any]
    paired_kernels: dict[str, Any]


RECURRENCES = (
    Recurrence("linear_scan", "paired_linear_scan", dict(dtype=torch.float32), dict(dtype=torch.float32, pairs=True)),
    Recurrence(
        "rnn_scan",
        "paired_rnn_scan",
        dict(dtype=torch.float32, nonlinearity="hardtanh"),
        dict(dtype=torch.float32, nonlinearity="hardtanh", paired=True),
    ),
)


def instructions(recurrence: Recurrence, target: str) -> dict[str, tuple[float, float]]:
    """Of the forward and of the backward kernel, for each number: of single units, and of pairs."""
    kinds = recurrence.single_kernels, recurrence.paired_kernels
    tasks = [Task(target, recurrence.single, options) for options in kinds]
    counts: dict[str, list[float]] = {"forward": [], "backward": []}
    for entry in compile_all(tasks, lambda *_: None, processes=1):
        for name, found in counts.items():
            if name in entry.kernel:
                found.append(sum(entry.instructions.values()))
    return {name: (found[0], found[1]) for name, found in counts.items()}


def turns(recurrence: Recurrence, shape: tuple[int, int, int], seconds: float) -> dict[str, Turns]:
    """Both passes of pairs, timed by turns with those of single units."""
    runs = []
    for operator in (recurrence.single, recurrence.paired):
        entry = benchmarks()[operator]
        runs.append(entry.ours(entry.draw(Case(operator, "pairs", shape, torch.float32), CPU)).passes())
    found = {}
    for name, run in runs[1].items():
        found[name] = Turns(runs[0][name], run, CPU)
        found[name].take(seconds, 3)
    return found


def main(given: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(8, 4096, 256), metavar=("B", "T", "D"))
    parser.add_argument("--seconds", type=float, default=4.0, help="of measuring, for each pass")
    parser.add_argument("--targets", nargs="*", default=list(DEVICES), choices=DEVICES, metavar="TARGET")
    arguments = parser.parse_args(given)
    b, t, d = arguments.shape
    load = machine.load()
    print("| recurrence, CPU | pass | single, ms | pairs, ms | ratio | range |\n| --- | --- | --- | --- | --- | --- |")
    for recurrence in RECURRENCES:
        for name, turn in turns(recurrence, (b, t, d), arguments.seconds).items():
            single, paired = 1e3 * turn.yardstick_seconds().median, 1e3 * turn.candidate_seconds().median
            low, middle, high = turn.ratio()
            print(f"| {recurrence.single} | {name} | {single:.3g} | {paired:.3g} | {middle:.2f} ", end="")
            print(f"| {low:.2f} to {high:.2f} |", flush=True)
    print(f"\n{machine.caption(machine.describe(CPU, load))}\n")
    print("| kernel | target | single | pairs | ratio |\n| --- | --- | --- | --- | --- |")
    for recurrence in RECURRENCES:
        for target in arguments.targets:
            for name, (single, paired) in instructions(recurrence, target).items():
                kernel = f"{recurrence.single}, {name}"
                print(f"| {kernel} | {target} | {single:.2f} | {paired:.2f} | {paired / single:.2f} |", flush=True)


if __name__ == "__main__":
    main()

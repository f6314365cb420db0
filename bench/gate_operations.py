"""What gates cost on the CPU: operations of the machine for each register of numbers, and time in copies of x.

    OMP_NUM_THREADS=1 python bench/gate_operations.py [--rounds 15] [--gates rg_lru]

The first table counts instructions in the loop that forms decay and gain, and times that loop on numbers that stay in
the nearest cache. The second has medians of the whole operator, a copy of x before each run, where x is large.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from statistics import median
from time import perf_counter
from typing import Any

import torch
from numba import njit

from cofm_triton import gated_rnn
from cofm_triton.cpu.jit.compiled import OPTIONS
from cofm_triton.cpu.jit.gates import constant, formed
from cofm_triton.cpu.jit.vectors import load, store
from cofm_triton.evidence import machine
from cofm_triton.step.gates import GATES, gates_of

SHAPES = ((8, 4096, 256), (2, 65536, 64), (16, 1024, 512), (1, 1048576, 8))
LANES, NUMBERS = (0,) * 64, 1024
KINDS = {
    "products and fused": r"vf(n?m)(add|sub)|vmul", "sums": r"v(add|sub)p", "larger, smaller": r"v(max|min)p",
    "shifts": r"vpsll", "divisions": r"vdiv", "roots": r"vsqrt",
}  # fmt: skip
RESULT = r"\tvmov\w+\s+%[xyz]mm\d+, [^(\n]*\((?!%rsp|%rbp)"  # a store that is no spill


def loop_of(gates: str) -> tuple[Any, list[Any]]:
    """A compiled loop that forms decays and gains of `NUMBERS` numbers, and its arguments."""
    kind = constant(gates)

    def form(rate: Any, p: Any, q: Any, decays: Any, gains: Any, count: int) -> None:
        for k in range(0, count, len(LANES)):
            at = k * 4
            decay, gain = formed(
                kind, load(LANES, rate.ctypes.data + at, rate), load(LANES, p.ctypes.data + at, p),
                load(LANES, q.ctypes.data + at, q),
            )  # fmt: skip
            store(decay, decays.ctypes.data + at, decays, False)
            store(gain, gains.ctypes.data + at, gains, False)

    compiled = njit(**OPTIONS)(form)
    rows = [torch.rand(NUMBERS).numpy() for _ in range(5)]
    compiled(*rows, NUMBERS)
    return compiled, rows


def operations(compiled: Any) -> tuple[Counter[str], int]:
    """Instructions of the longest loop by kind, for one register of numbers, and how many numbers that has."""
    code = next(iter(compiled.inspect_asm().values())).split("\n")
    labels = {line[:-1]: at for at, line in enumerate(code) if line.startswith(".L") and line.endswith(":")}
    loops: list[list[str]] = []
    for at, line in enumerate(code):
        jump = re.match(r"\tj\w+\t(\.L\w+)", line)
        if jump and labels.get(jump[1], at) < at:
            loops.append(code[labels[jump[1]] : at])
    longest = max(loops, key=len)
    body, text = [line.split()[0] for line in longest], "\n".join(longest)
    numbers = 16 if "%zmm" in text else 8 if "%ymm" in text else 4
    registers = len(re.findall(RESULT, text)) // 2  # decays and gains; older compilers unroll the loop
    found = Counter({kind: sum(bool(re.match(mask, op)) for op in body) for kind, mask in KINDS.items()})
    return Counter({kind: round(count / registers) for kind, count in found.items()}), numbers


def seconds(run: Any) -> float:
    """Time of a run."""
    start = perf_counter()
    run()
    return perf_counter() - start


def row(shape: tuple[int, int, int], gates: str, rounds: int) -> str:
    """A line of the second table."""
    x, p, q, grad = (torch.randn(shape) for _ in range(4))
    rate, target = torch.rand(shape[2]) + 0.1, torch.empty(shape)
    given = [x, rate, p] + ([q] if gates_of(gates).has_input_logit else [])
    leaves = [tensor.requires_grad_() for tensor in given]

    def copy() -> None:
        target.copy_(x.detach())

    def forward() -> None:
        with torch.no_grad():
            gated_rnn(*given, gates=gates)

    def both() -> None:
        torch.autograd.grad(gated_rnn(*given, gates=gates)[0], leaves, grad)

    times: dict[Any, list[float]] = {copy: [], forward: [], both: []}
    for run in (forward, both):
        run()
        for _ in range(rounds):
            copy()
            times[copy].append(seconds(copy))
            times[run].append(seconds(run))
    unit, one, all_passes = (median(times[run]) for run in (copy, forward, both))
    nanoseconds = 1e9 * unit / x.numel()
    return f"| {shape} | {nanoseconds:.2f} | {one / unit:.2f} | {all_passes / unit:.2f} |"


def main(given: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--gates", choices=GATES, default="rg_lru")
    parser.add_argument("--shape", type=int, nargs=3, action="append", metavar=("B", "T", "D"), help="instead of ours")
    arguments = parser.parse_args(given)
    load_before = machine.load()
    compiled, rows = loop_of(arguments.gates)
    counts, numbers = operations(compiled)
    best = min(seconds(lambda: [compiled(*rows, NUMBERS) for _ in range(100)]) for _ in range(arguments.rounds)) / 100
    empty = min(seconds(lambda: [compiled(*rows, 0) for _ in range(100)]) for _ in range(arguments.rounds)) / 100
    print(f"| {arguments.gates}, of {numbers} numbers | {' | '.join(KINDS)} | ns |")
    print(f"|{' --- |' * (len(KINDS) + 2)}")
    time = 1e9 * (best - empty) / NUMBERS * numbers
    print(f"| operations | {' | '.join(str(counts[kind]) for kind in KINDS)} | {time:.1f} |\n")
    print("| (B, T, D) | copy, ns a number | forward, copies | both, copies |\n| --- | --- | --- | --- |")
    for shape in arguments.shape or SHAPES:
        print(row(tuple(shape), arguments.gates, arguments.rounds), flush=True)
    print(machine.caption(machine.describe(torch.device("cpu"), load_before)))


if __name__ == "__main__":
    main()

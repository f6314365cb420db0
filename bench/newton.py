"""Iterations of `rnn_scan(solver="newton")` for several lengths, rates and input sizes.

    python bench/newton.py      # prints a table in Markdown; takes seconds

Inputs are normal numbers times a size. At size 0.1 nearly every step is in the linear part of tanh and hardtanh, at 10
nearly none. float32, 8 channels; the largest count over SEEDS inputs. `-`: the sequential kernel takes over.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from cofm_triton.ops.newton import newton_scan
from cofm_triton.step.activations import NONLINEARITIES as ALL
from cofm_triton.step.activations import properties

NONLINEARITIES = tuple(name for name in ALL if not properties(name).is_linear)
LENGTHS = (100, 1000, 10_000)
SIZES = (0.1, 1.0, 10.0)
STEPS = (0.01, 0.1, 0.5, 1.0, 1.5, 2.5)
CHANNELS, SEEDS = 8, 3


def iterations(nonlinearity: str, length: int, step: float, size: float) -> int | None:
    """The largest count over the seeds; None if the sequential kernel takes over for one of them."""
    most = 0
    for seed in range(SEEDS):
        x = size * torch.randn(1, length, CHANNELS, generator=torch.Generator().manual_seed(seed))
        found = newton_scan(
            x, torch.full((CHANNELS,), step), None, None, dt=1.0, nonlinearity=nonlinearity, backend="torch"
        )
        if found.h is None:
            return None
        most = max(most, found.iterations)
    return most


def rows() -> Iterator[str]:
    """The table's lines."""
    yield "| act | input | " + " | ".join(f"dt rate = {step:g}" for step in STEPS) + " |"
    yield "| --- " * (2 + len(STEPS)) + "|"
    for nonlinearity in NONLINEARITIES:
        for size in SIZES:
            cells = []
            for step in STEPS:
                found = (iterations(nonlinearity, length, step, size) for length in LENGTHS)
                cells.append(", ".join("-" if count is None else str(count) for count in found))
            yield f"| {nonlinearity} | {size:g} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    print(f"Iterations at T = {', '.join(map(str, LENGTHS))}.\n")
    for line in rows():
        print(line, flush=True)

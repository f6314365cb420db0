"""The perturbation sweep at the paper's size beside the paper's way: one forward pass per perturbed model.

    python bench/paper_sweep.py                                   # the table; two minutes on two cores
    python bench/paper_sweep.py --sequences 1024 --directions 4

Both compute the errors of models `theta + radius * direction` on the same sequences (12,800 of 100 steps) at the 22
radii of arXiv 2305.19190. The paper's way is its equation in float64, written with PyTorch's operations and without
gradients, whose one pass is timed and stands for every radius and direction: as its code and `reference/` do it, with
encoder, states and read-out each a tensor over all steps; and lean, the best that PyTorch's operations give, where
nothing is kept but the outputs. Ours is the whole sweep in one call: float32 states and float64 errors for nonlinear
models, float64 and the quadratic form for linear ones; models of several widths in one call are the sweep of one of
the paper's figures, whose way takes the sum of their passes. Every row times all in turn, the passes before and after
the sweep, so that a busy machine slows them alike.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

import cofm_triton as cofm
from cofm_triton.perturbation.directions import paper_radii

STEPS, PASSES = 100, 3


class Row(NamedTuple):
    """One kind of model, of one width or several."""

    nonlinearity: str
    recurrence: str
    widths: tuple[int, ...]


ROWS = [
    Row("hardtanh", "diagonal", (8,)),
    Row("hardtanh", "diagonal", (64,)),
    Row("tanh", "diagonal", (64,)),
    Row("hardtanh", "orthogonal", (8,)),
    Row("hardtanh", "orthogonal", (64,)),
    Row("linear", "diagonal", (8,)),
    Row("linear", "diagonal", (64,)),
    Row("linear", "diagonal", (8, 16, 32, 64)),
]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "hardtanh": torch.nn.functional.hardtanh,
    "tanh": torch.tanh,
    "linear": lambda z: z,
}


@torch.no_grad()
def paper_pass(row: Row, width: int, inputs: Tensor, targets: Tensor, *, lean: bool) -> float:
    """The paper's equation: h += act(U x + b - W h), y = c^T h, and its error; W = diag(rate) or P^T diag(rate) P."""
    act, bound = ACTIVATIONS[row.nonlinearity], width**-0.5
    encoder, bias, readout = (torch.empty(width).uniform_(-bound, bound).double() for _ in range(3))
    rate, basis = torch.rand(width).double(), torch.linalg.qr(torch.randn(width, width).double()).Q

    def recurrent(h: Tensor) -> Tensor:
        if row.recurrence == "diagonal":
            return rate * h
        return h @ matrix if lean else ((h @ basis.T) * rate) @ basis

    matrix = basis.T @ (rate[:, None] * basis)
    h, kept = inputs.new_zeros(len(inputs), width), []
    encoded = None if lean else inputs * encoder + bias
    for k in range(inputs.shape[1]):
        drive = inputs[:, k] * encoder + bias if encoded is None else encoded[:, k]
        h = h + act(drive - recurrent(h))
        kept.append(h @ readout if lean else h)
    outputs = torch.stack(kept, 1) if lean else torch.stack(kept, 1) @ readout
    return float(cofm.temporally_weighted_mse(outputs[..., None], targets))


def seconds(run: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(row: Row, sequences: int, directions: int) -> str:
    """A line of the table."""
    inputs, targets = cofm.targets.generate("pol", sequences, STEPS)
    dtype = torch.float64 if row.nonlinearity == "linear" else torch.float32
    x, y = inputs.to(dtype), targets.to(dtype)
    models = [
        cofm.RNNFunctional(
            1, width, nonlinearity=row.nonlinearity, recurrence=row.recurrence, parameterization="exp",
            discretization="euler", dtype=dtype,
        )
        for width in row.widths
    ]  # fmt: skip
    cofm.perturbation_error(models, x, y, radii=[0.0], directions=1)  # compiles
    passes = {(width, lean): list[float]() for width in row.widths for lean in (False, True)}

    def time_passes() -> None:
        for (width, lean), taken in passes.items():
            way = partial(paper_pass, row, width, inputs, targets, lean=lean)
            taken.extend(seconds(way) for _ in range(PASSES))

    time_passes()
    sweep = seconds(lambda: cofm.perturbation_error(models, x, y, directions=directions))
    time_passes()
    moved = len(paper_radii()) * directions
    each = [sum(statistics.median(passes[width, lean]) for width in row.widths) for lean in (False, True)]
    steps = moved * sequences * STEPS * sum(row.widths)
    speed = f"{steps / sweep:.2g}" if row.nonlinearity != "linear" else "-"
    ratios = (f"{one * moved / sweep:,.0f}" for one in each)
    widths = ", ".join(map(str, row.widths))
    cells = (*row[:2], widths, moved, *(f"{one:.3f}" for one in each), f"{sweep:.3f}", speed, *ratios)
    return f"| {' | '.join(map(str, cells))} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sequences", type=int, default=12_800)
    parser.add_argument("--directions", type=int, default=30)
    chosen = parser.parse_args(arguments)
    print("| act | recurrence | m | each moved | paper, s a pass | lean | ours, s | unit-steps/s | x paper | x lean |")
    print("|" + " --- |" * 10)
    for row in ROWS:
        torch.manual_seed(0)
        print(measure(row, chosen.sequences, chosen.directions), flush=True)


if __name__ == "__main__":
    main()

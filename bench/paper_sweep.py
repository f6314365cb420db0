"""The perturbation sweep at the paper's size beside the paper's way: one forward pass per perturbed model.

    python bench/paper_sweep.py                                   # the table; about a minute on two cores
    python bench/paper_sweep.py --sequences 1024 --directions 4

Both compute the errors of models `theta + radius * direction` on the same sequences (12,800 of 100 steps) at the 22
radii of arXiv 2305.19190. The paper's way is its equation in float64, written with PyTorch's operations and without
gradients, whose one pass is timed and stands for every radius and direction. Ours is the whole sweep in one call:
float32 states and float64 errors for nonlinear models, float64 and the quadratic form for linear ones. Every row times
both in turn, the passes before and after the sweep, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

import cofm_triton as cofm
from cofm_triton.directions import paper_radii

STEPS, PASSES = 100, 3


class Row(NamedTuple):
    """One kind of model."""

    nonlinearity: str
    recurrence: str
    width: int


ROWS = [
    Row("hardtanh", "diagonal", 8),
    Row("hardtanh", "diagonal", 64),
    Row("tanh", "diagonal", 64),
    Row("hardtanh", "orthogonal", 8),
    Row("hardtanh", "orthogonal", 64),
    Row("linear", "diagonal", 8),
    Row("linear", "diagonal", 64),
]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "hardtanh": torch.nn.functional.hardtanh,
    "tanh": torch.tanh,
    "linear": lambda z: z,
}


@torch.no_grad()
def paper_pass(row: Row, inputs: Tensor, targets: Tensor) -> float:
    """The paper's equation: h += act(U x + b - W h), y = c^T h + d, and its error."""
    act, width = ACTIVATIONS[row.nonlinearity], row.width
    bound = width**-0.5
    encoder, bias, readout = (torch.empty(width).uniform_(-bound, bound).double() for _ in range(3))
    rate, matrix = torch.rand(width).double(), torch.rand(width, width).double() * bound
    h, outputs = inputs.new_zeros(len(inputs), width), []
    for k in range(inputs.shape[1]):
        recurrent = rate * h if row.recurrence == "diagonal" else h @ matrix
        h = h + act(inputs[:, k] * encoder + bias - recurrent)
        outputs.append(h @ readout)
    return float(cofm.temporally_weighted_mse(torch.stack(outputs, 1)[..., None], targets))


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
    model = cofm.RNNFunctional(
        1, row.width, nonlinearity=row.nonlinearity, recurrence=row.recurrence, parameterization="exp",
        discretization="euler", dtype=dtype,
    )  # fmt: skip
    cofm.perturbation_error(model, x, y, radii=[0.0], directions=1)  # compiles
    passes = [seconds(lambda: paper_pass(row, inputs, targets)) for _ in range(PASSES)]
    sweep = seconds(lambda: cofm.perturbation_error(model, x, y, directions=directions))
    passes += [seconds(lambda: paper_pass(row, inputs, targets)) for _ in range(PASSES)]
    models, one = len(paper_radii()) * directions, statistics.median(passes)
    speed = f"{models * sequences * STEPS * row.width / sweep:.2g}" if row.nonlinearity != "linear" else "-"
    cells = (*row, models, f"{one:.3f}", f"{sweep:.3f}", speed, f"{one * models / sweep:,.0f}")
    return f"| {' | '.join(map(str, cells))} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sequences", type=int, default=12_800)
    parser.add_argument("--directions", type=int, default=30)
    chosen = parser.parse_args(arguments)
    print("| act | recurrence | m | models | paper, s a pass | ours, s in all | unit-steps/s | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in ROWS:
        torch.manual_seed(0)
        print(measure(row, chosen.sequences, chosen.directions), flush=True)


if __name__ == "__main__":
    main()

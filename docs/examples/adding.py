"""The adding problem: two numbers of a long sequence are marked, and their sum is asked for at its end.

    python docs/examples/adding.py                # T = 200, half a minute
    python docs/examples/adding.py --length 1000

`bench/adding.py` compares layers on it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import cofm_triton as cofm
from cofm_triton.support.figure_file import draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHANCE = 1 / 6  # the error of who always answers 1


def sequences(count: int, length: int) -> tuple[Tensor, Tensor]:
    """Numbers and markers (count, length, 2), and sums (count, 1)."""
    numbers, half = torch.rand(count, length), length // 2
    marked = torch.cat([torch.randint(half, (count, 1)), torch.randint(half, length, (count, 1))], 1)
    markers = torch.zeros(count, length).scatter(1, marked, 1.0)
    return torch.stack([numbers, markers], 2), numbers.gather(1, marked).sum(1, keepdim=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=200)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    rnn = cofm.StableRNN(2, 32, nonlinearity="relu", recurrence="diagonal", batch_first=True)
    head = nn.Linear(32, 1)
    model = nn.ModuleList([rnn, head])
    optimizer = torch.optim.AdamW(cofm.parameter_groups(model), lr=0.03)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.03, options.steps)
    errors = []
    for _ in range(options.steps):
        x, sums = sequences(32, options.length)  # never the same twice: training errors are test errors
        loss = nn.functional.mse_loss(head(rnn(x)[0][:, -1]), sums)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        errors.append(loss.item())

    def plot(axes: Axes) -> None:
        axes.semilogy(errors, linewidth=1)
        axes.axhline(CHANCE, color="0.5")
        axes.set(xlabel="training step", ylabel="mean squared error", title="Adding problem; grey: always answering 1")

    figure = options.out / "adding.png"
    draw(figure, plot)
    last = sum(errors[-20:]) / len(errors[-20:])
    print(f"Over {options.length} steps the sum is off by {last**0.5:.3f}; always answering 1 is off by 0.41: {figure}")


if __name__ == "__main__":
    main()

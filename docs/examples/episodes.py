"""Episodes that begin inside a batch: `resets` keeps them apart.

    python docs/examples/episodes.py    # some seconds

Each episode begins with a number; at all of its steps the layer has to say what its number was, with noise in between.
`bench/episodes.py` trains an agent in this way.
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

ROWS, LENGTH = 32, 100


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (ROWS, LENGTH, 1), where episodes begin (ROWS, LENGTH), and what they began with (ROWS, LENGTH, 1)."""
    x = 0.3 * torch.randn(ROWS, LENGTH, 1)
    begins = torch.rand(ROWS, LENGTH) < 0.1
    begins[:, 0] = True
    firsts = torch.where(begins, torch.arange(LENGTH), 0).cummax(1).values
    x[begins] = torch.randn(int(begins.sum()), 1)
    return x, begins, x.gather(1, firsts[..., None])


def train(steps: int, with_resets: bool) -> list[float]:
    """Losses of every batch."""
    torch.manual_seed(0)
    rnn, head = cofm.StableRNN(1, 64, num_layers=2, batch_first=True), nn.Linear(64, 1)
    optimizer = torch.optim.AdamW(cofm.parameter_groups(nn.ModuleList([rnn, head])), lr=0.01)
    losses = []
    for _ in range(steps):
        x, begins, firsts = batch()
        output, _ = rnn(x, resets=begins if with_resets else None)
        loss = nn.functional.mse_loss(head(output), firsts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both ways, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)
    losses = {"resets": train(options.steps, True), "no resets": train(options.steps, False)}

    def plot(axes: Axes) -> None:
        for name, values in losses.items():
            axes.semilogy(values, linewidth=1, label=name)
        axes.set(xlabel="training step", ylabel="mean squared error", title="What did this episode begin with?")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))

    figure = options.out / "episodes.png"
    draw(figure, plot)
    last = {name: sum(values[-20:]) / len(values[-20:]) for name, values in losses.items()}
    print(f"Error with resets {last['resets']:.3f}, without them {last['no resets']:.3f}: {figure}")


if __name__ == "__main__":
    main()

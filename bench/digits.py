"""Handwritten digits as sequences of 64 pixels: `StableRNN` in every recurrence beside `nn.RNN`, `nn.GRU` and an LRU.

    python bench/digits.py                      # the table; many minutes on one core
    python bench/digits.py --select             # first tries every setting of GRID; an hour
    python bench/digits.py --models ssm nn.GRU --seeds 0 --epochs 30

The data are scikit-learn's (1,797 images of 8 x 8 pixels; extra `examples`) in a fixed random order: a fifth is the
test set, a fifth of the rest the validation set. Every layer reads one pixel at a time, a linear layer classifies its
last output. Width, optimiser, schedule and epochs are the same for all. Learning rate and nonlinearity of each layer
are those of GRID that did best on the validation set, after SELECTION_EPOCHS on the rest of the training set, seed 0;
with them it is trained on the training set, validation set included, and tested once for each seed. `max_time_scale`
is left at its default, fifteen times the length of these sequences.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cofm_triton as cofm

if __package__:
    from bench.plain_lru import PlainLRU
else:  # run as a script
    from plain_lru import PlainLRU  # type: ignore[import-not-found, no-redef]

PIXELS, CLASSES = 64, 10
TRAINING, VALIDATION, BATCH = 1437, 287, 32
SELECTION_EPOCHS = 15


class Settings(NamedTuple):
    """What is chosen for every layer by itself: largest learning rate and nonlinearity (of ours)."""

    rate: float
    nonlinearity: str


class Layer(NamedTuple):
    """A row of ours: recurrence, number of layers, and whether units turn. Elementwise ones mix between layers only."""

    recurrence: str
    num_layers: int
    oscillating: bool


OURS = {
    "ssm": Layer("ssm", 2, True),
    "diagonal": Layer("diagonal", 2, True),
    "ssm, real": Layer("ssm", 2, False),
    "diagonal, real": Layer("diagonal", 2, False),
    "orthogonal": Layer("orthogonal", 1, False),
    "dense": Layer("dense", 1, False),
}
RATES = (0.003, 0.01)
NONLINEARITIES = ("tanh", "hardtanh", "relu")
GRID: dict[str, list[Settings]] = {
    **{name: [Settings(*pair) for pair in product(RATES, NONLINEARITIES)] for name in OURS},
    "LRU": [Settings(rate, "gelu") for rate in RATES],
    "nn.RNN": [Settings(*pair) for pair in product(RATES, ("tanh", "relu"))],
    "nn.GRU": [Settings(rate, "tanh") for rate in RATES],
}
# The best of GRID on the validation set, seed 0, as `--select` prints them.
CHOSEN = {
    "ssm": Settings(0.01, "relu"),
    "diagonal": Settings(0.01, "tanh"),
    "ssm, real": Settings(0.01, "relu"),
    "diagonal, real": Settings(0.01, "tanh"),
    "orthogonal": Settings(0.01, "tanh"),
    "dense": Settings(0.01, "hardtanh"),
    "LRU": Settings(0.01, "gelu"),
    "nn.RNN": Settings(0.003, "relu"),
    "nn.GRU": Settings(0.01, "tanh"),
}


class Result(NamedTuple):
    """One run: accuracies between 0 and 1, seconds of training."""

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
    if name == "LRU":
        return PlainLRU(1, width, 2)
    layer = OURS[name]
    options: dict[str, Any] = dict(batch_first=True, recurrence=layer.recurrence, oscillating=layer.oscillating)
    return cofm.StableRNN(1, width, layer.num_layers, nonlinearity, **options)


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


def row(runs: Sequence[Result]) -> str:
    """A line of the table: runs with several seeds, test accuracies as mean and range."""
    first, tests = runs[0], [100 * result.test for result in runs]
    return (
        f"| {first.name} | {first.settings.nonlinearity} | {first.settings.rate:g} | {first.parameters:,} "
        f"| {sum(tests) / len(tests):.1f} % | {min(tests):.1f} to {max(tests):.1f} | {first.seconds:.0f} |"
    )


def main(arguments: Sequence[str] | None = None) -> list[list[Result]]:
    """Train what the command line names and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=CHOSEN, default=list(CHOSEN))
    parser.add_argument("--select", action="store_true", help="choose settings anew, on the validation set")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args(arguments)
    images, classes = load()
    chosen = dict(CHOSEN)
    if options.select:
        known = images[:TRAINING], classes[:TRAINING]
        chosen = {name: select(name, *known, width=options.width, seed=options.seeds[0]) for name in options.models}
    print("| layer | nonlinearity | learning rate | parameters | test, mean | range | s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    results = []
    for name in options.models:
        common = dict(width=options.width, epochs=options.epochs)
        runs = [train(name, chosen[name], images, classes, TRAINING, seed=seed, **common) for seed in options.seeds]
        results.append(runs)
        print(row(runs), flush=True)
    return results


if __name__ == "__main__":
    main()

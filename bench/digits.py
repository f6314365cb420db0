"""Handwritten digits as sequences of 64 pixels: `StableRNN` in every recurrence beside `nn.RNN`, `nn.GRU` and an LRU.

    python bench/digits.py                      # the table; many minutes on one core
    python bench/digits.py --select             # first tries every setting of the grids; an hour
    python bench/digits.py --models ssm nn.GRU --seeds 0 --epochs 30

The data are scikit-learn's (1,797 images of 8 x 8 pixels; extra `examples`) in a fixed random order: a fifth is the
test set, a fifth of the rest the validation set. Every layer reads one pixel at a time, a linear layer classifies its
last output. Width, optimiser, schedule and epochs are the same for all. Learning rate and nonlinearity of each layer
are those of its grid that did best on the validation set, after SELECTION_EPOCHS on the rest of the training set, seed
0; with them it is trained on the training set, validation set included, and tested once for each seed.
`max_time_scale` is left at its default, fifteen times the length of these sequences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING or __package__:
    from bench import learning
    from bench.learning import Row, Score, Settings
else:  # run as a script
    import learning
    from learning import Row, Score, Settings

CLASSES = 10
TRAINING, VALIDATION, BATCH = 1437, 287, 32
SELECTION_EPOCHS = 15
RATES = (0.003, 0.01)
OURS = learning.grid(RATES, "tanh", "hardtanh", "relu")
# Elementwise recurrences mix their units between layers only, and have two.
ROWS = {
    "ssm": Row(learning.stable(2), OURS, Settings(0.01, "relu")),
    "diagonal": Row(learning.stable(2, recurrence="diagonal"), OURS, Settings(0.01, "tanh")),
    "ssm, real": Row(learning.stable(2, oscillating=False), OURS, Settings(0.01, "relu")),
    "diagonal, real": Row(learning.stable(2, recurrence="diagonal", oscillating=False), OURS, Settings(0.01, "tanh")),
    "orthogonal": Row(learning.stable(recurrence="orthogonal"), OURS, Settings(0.01, "tanh")),
    "dense": Row(learning.stable(recurrence="dense"), OURS, Settings(0.01, "hardtanh")),
    "LRU": Row(learning.lru(), learning.grid(RATES, "gelu"), Settings(0.01, "gelu")),
    "nn.RNN": Row(learning.rnn, learning.grid(RATES, "tanh", "relu"), Settings(0.003, "relu")),
    "nn.GRU": Row(learning.gru, learning.grid(RATES, "tanh"), Settings(0.01, "tanh")),
}


def load() -> tuple[Tensor, Tensor]:
    """Images (1797, 64, 1) between 0 and 1 in a fixed random order, and their classes."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(data.data, dtype=torch.float32).unsqueeze(2) / 16
    return images[order], torch.tensor(data.target)[order]


def batches(images: Tensor, classes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """All images in random order, without end."""
    while True:
        for batch in torch.randperm(len(images)).split(BATCH):
            yield images[batch], classes[batch]


def loss(model: learning.Model, images: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of the scores after the last pixel."""
    return F.cross_entropy(model(images)[:, 0], classes)


def split(images: Tensor, classes: Tensor, selecting: bool) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What is learned from and what is held out; while settings are chosen, the test set is neither."""
    learned, end = (TRAINING - VALIDATION, TRAINING) if selecting else (TRAINING, len(images))
    return (images[:learned], classes[:learned]), (images[learned:end], classes[learned:end])


def main(arguments: Sequence[str] | None = None) -> list[list[learning.Result]]:
    """Train what the command line names and print the table."""
    parser = learning.arguments(__doc__, ROWS, width=128)
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args(arguments)
    data = load()

    def train(model: learning.Model, settings: Settings, seed: int, selecting: bool) -> tuple[float, float]:
        learned, (images, classes) = split(*data, selecting)
        epochs = SELECTION_EPOCHS if selecting else options.epochs
        steps = epochs * -(-len(learned[0]) // BATCH)
        seconds = learning.fit(model, batches(*learned), loss, steps=steps, settings=settings)
        with torch.no_grad():
            hits = model(images)[:, 0].argmax(1) == classes
        return seconds, 100 * float(hits.double().mean())

    return learning.Experiment(ROWS, Score("test (%)", ".1f", max), 1, CLASSES, train).table(options)


if __name__ == "__main__":
    main()

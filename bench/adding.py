"""The adding problem over 1,000 steps: `StableRNN` beside `nn.RNN`, `nn.GRU` and an LRU, after the same training.

    python bench/adding.py                      # the table; some ten minutes on one core, most of it for the peers
    python bench/adding.py --select             # first tries every setting of the grids
    python bench/adding.py --models ssm nn.GRU --steps 1000
    python bench/adding.py --models diagonal --length 10000

Every step brings a number, uniform in [0, 1], and a marker. Two numbers are marked, one in each half; their sum is
asked for after the last step (Hochreiter and Schmidhuber 1997, section 5.4; arXiv 1504.00941). Who always answers 1 has
a mean squared error of 1/6 = 0.167. A layer has to multiply the number by its marker, and to keep the product for up
to 1,000 steps.

All layers have the same width, batches and number of steps, and meet the same sequences, which are never repeated.
The settings are those of the grid that did best on 1,000 sequences of a validation set; the error is that on 2,000
other ones.
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

BATCH, VALIDATION, TEST = 16, 1000, 2000
RATES = (0.003, 0.03)
# Seeds of the data, apart from those of the weights.
VALIDATION_SEED, TEST_SEED, TRAINING_SEED = 1_000_001, 1_000_002, 1_000_003
ROWS = {
    "ssm": Row(learning.stable(2), learning.grid(RATES, "tanh", "relu"), Settings(0.03, "relu")),
    "diagonal": Row(
        learning.stable(recurrence="diagonal"), learning.grid(RATES, "tanh", "relu"), Settings(0.03, "relu")
    ),
    "diagonal, real": Row(
        learning.stable(recurrence="diagonal", oscillating=False),
        learning.grid(RATES, "tanh", "relu"),
        Settings(0.03, "relu"),
    ),
    "ResidualStack": Row(learning.residual(2), learning.grid(RATES, "relu"), Settings(0.03, "relu")),
    "LRU": Row(learning.lru(2, outer=0.999), learning.grid(RATES, "gelu"), Settings(0.03, "gelu")),
    "nn.RNN": Row(learning.rnn, learning.grid(RATES, "tanh", "relu"), Settings(0.003, "tanh")),
    "nn.GRU": Row(learning.gru, learning.grid(RATES, "tanh"), Settings(0.03, "tanh")),
}


def draw(count: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sequences (count, length, 2) of numbers and markers, and the sums (count,) of their two marked numbers."""
    half = length // 2
    numbers = torch.rand(count, length, generator=generator)
    first = torch.randint(half, (count, 1), generator=generator)
    second = torch.randint(half, length, (count, 1), generator=generator)
    marked = torch.cat([first, second], 1)
    markers = torch.zeros(count, length).scatter_(1, marked, 1.0)
    return torch.stack([numbers, markers], 2), numbers.gather(1, marked).sum(1)


def batches(length: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Fresh sequences without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield draw(BATCH, length, generator)


def loss(model: learning.Model, x: Tensor, sums: Tensor) -> Tensor:
    """Mean squared error."""
    return F.mse_loss(model(x)[:, 0, 0], sums)


@torch.no_grad()
def error(model: learning.Model, length: int, count: int, seed: int) -> float:
    """Mean squared error on `count` sequences, in parts of at most 250,000 steps, which fit into little memory."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [len(part) for part in torch.arange(count).split(max(1, 250_000 // length))]
    return sum(size * float(loss(model, *draw(size, length, generator))) for size in sizes) / count


def main(arguments: Sequence[str] | None = None) -> list[list[learning.Result]]:
    """Train what the command line names and print the table."""
    parser = learning.arguments(__doc__, ROWS, width=32)
    parser.add_argument("--length", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args(arguments)

    def train(model: learning.Model, settings: Settings, seed: int, selecting: bool) -> tuple[float, float]:
        data = batches(options.length, TRAINING_SEED + seed)
        seconds = learning.fit(model, data, loss, steps=options.steps, settings=settings)
        held_out = (VALIDATION, VALIDATION_SEED) if selecting else (TEST, TEST_SEED)
        return seconds, error(model, options.length, *held_out)

    return learning.Experiment(ROWS, Score("error", ".4f", min), 2, 1, train).table(options)


if __name__ == "__main__":
    main()

"""A long real series, carbon dioxide at Mauna Loa: `StableRNN` beside `nn.RNN`, `nn.GRU`, an LRU and simple forecasts.

    python bench/series.py                      # the table; some minutes on one core
    python bench/series.py --select             # first tries every setting of the grids

The series is statsmodels' `co2` (extra `examples`): 2,284 weeks from 1958 to 2001, parts per million; the 59 weeks
without a value, all before 1986, are interpolated. A layer reads the change from week to week, and after each week it
forecasts how much higher the concentration will be 13 weeks later, half way between the seasons' extremes.

The last eight years are the test set, the eight before them the validation set. Layers are trained on windows of six
years from the time before; of each window the first two years are only read. For validation and test, a layer reads
the whole history once, and its state is never set back. Nothing that a model learns from, targets included, lies in
the years it is tested on. The score is the root mean square error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING or __package__:
    from bench import learning
    from bench.learning import Row, Score, Settings
else:  # run as a script
    import learning
    from learning import Row, Score, Settings

HORIZON, YEAR = 13, 52
HELD_OUT = 8 * YEAR
WINDOW, WARM_UP, BATCH = 6 * YEAR, 2 * YEAR, 16
RATES = (0.003, 0.01, 0.03)
LINEAR_TOO = learning.grid(RATES, "linear", "tanh", "relu")
ROWS = {
    "ssm": Row(learning.stable(), LINEAR_TOO, Settings(0.03, "linear")),
    "ssm, 2 layers": Row(learning.stable(2), LINEAR_TOO, Settings(0.03, "linear")),
    "diagonal": Row(
        learning.stable(recurrence="diagonal"), learning.grid(RATES, "tanh", "relu"), Settings(0.03, "tanh")
    ),
    "ssm, real": Row(learning.stable(oscillating=False), LINEAR_TOO, Settings(0.03, "relu")),
    "ResidualStack": Row(learning.residual(), learning.grid(RATES, "linear", "relu"), Settings(0.01, "linear")),
    "LRU": Row(learning.lru(), learning.grid(RATES, "gelu"), Settings(0.03, "gelu")),
    "nn.RNN": Row(learning.rnn, learning.grid(RATES, "tanh", "relu"), Settings(0.003, "relu")),
    "nn.GRU": Row(learning.gru, learning.grid(RATES, "tanh"), Settings(0.003, "tanh")),
}


class Series(NamedTuple):
    """Changes (T,) of the last week, and changes (T,) over the next HORIZON weeks, ppm."""

    changes: Tensor
    targets: Tensor

    def before(self, week: int) -> Series:
        """What is known in this week: targets that are complete by then."""
        return Series(self.changes[: week - HORIZON], self.targets[: week - HORIZON])


def load() -> Series:
    """The whole series, gaps filled."""
    from statsmodels.datasets import co2

    weeks = torch.tensor(co2.load_pandas().data["co2"].interpolate().to_numpy())
    return Series(weeks.diff()[:-HORIZON], (weeks[HORIZON:] - weeks[:-HORIZON])[1:])


def naive(series: Series, week: int) -> dict[str, Tensor]:
    """Forecasts without a network for all weeks, fitted to what is known in `week`."""
    last_year = F.pad(series.targets[:-YEAR], (YEAR, 0))
    past = series.changes.unfold(0, WARM_UP, 1)
    past = torch.cat([past, past.new_ones(len(past), 1)], 1)
    known = len(series.before(week).targets) - WARM_UP + 1
    weights = torch.linalg.lstsq(past[:known], series.targets[WARM_UP - 1 :][:known, None]).solution
    regression = F.pad((past @ weights)[:, 0], (WARM_UP - 1, 0))
    return {
        "last value": torch.zeros_like(series.targets),
        "change of a year ago": last_year,
        f"linear regression, {WARM_UP} weeks": regression,
    }


def rmse(forecasts: Tensor, series: Series, weeks: slice) -> float:
    """Root mean square error over some weeks, ppm."""
    return float((forecasts - series.targets)[weeks].square().mean().sqrt())


def main(arguments: Sequence[str] | None = None) -> list[list[learning.Result]]:
    """Train what the command line names and print the table."""
    parser = learning.arguments(__doc__, ROWS, width=32)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args(arguments)
    series = load()
    end = len(series.targets)
    test = slice(end - HELD_OUT, end)

    def train(model: learning.Model, settings: Settings, seed: int, selecting: bool) -> tuple[float, float]:
        weeks = slice(test.start - HELD_OUT, test.start) if selecting else test
        known = series.before(weeks.start)
        (shift, scale), (level, spread) = ((float(x.mean()), float(x.std())) for x in known)
        x = ((series.changes - shift) / scale).float()[:, None]
        y = ((series.targets - level) / spread).float()

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            windows = torch.arange(WINDOW) + torch.zeros(BATCH, 1, dtype=torch.long)
            while True:
                places = windows + torch.randint(len(known.targets) - WINDOW + 1, (BATCH, 1))
                yield x[places], y[places]

        def loss(model: learning.Model, x: Tensor, y: Tensor) -> Tensor:
            return F.mse_loss(model(x, WARM_UP)[..., 0], y[:, WARM_UP:])

        seconds = learning.fit(model, batches(), loss, steps=options.steps, settings=settings)
        with torch.no_grad():
            forecasts = model(x[None], 0)[0, :, 0].double() * spread + level
        return seconds, rmse(forecasts, series, weeks)

    results = learning.Experiment(ROWS, Score("error (ppm)", ".3f", min), 1, 1, train).table(options)
    for name, forecasts in naive(series, test.start).items():
        print(f"| {name} | | | | {rmse(forecasts, series, test):.3f} | | |")
    return results


if __name__ == "__main__":
    main()

"""What the scripts that train layers share: rows, settings chosen on a validation set, one way to train, one table.

Every layer is trained in the same way (`fit`): AdamW, weight decay 0.01 on all but the recurrence, one cycle of the
learning rate, gradients clipped to norm 1. Only the settings of a `Row` are its own. `--select` tries the whole grid
with the first seed and takes what is best on the validation set; without it, what was found so is taken.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

import cofm_triton as cofm

if TYPE_CHECKING or __package__:
    from bench.plain_lru import PlainLRU
else:  # run as a script
    from plain_lru import PlainLRU


class Settings(NamedTuple):
    """What is chosen for every layer by itself: largest learning rate and nonlinearity."""

    rate: float
    nonlinearity: str


class Sizes(NamedTuple):
    """What a layer is made for; a `max_time_scale` of None is the default of ours, and peers have no such option."""

    inputs: int
    width: int
    max_time_scale: float | None


Make = Callable[[Sizes, str], nn.Module]


class Row(NamedTuple):
    """A layer of the table, the settings that are tried, and those that did best on the validation set."""

    make: Make
    grid: Sequence[Settings]
    chosen: Settings


class Score(NamedTuple):
    """What is measured on a validation or test set: title and format in the table, `max` or `min` for the best."""

    title: str
    form: str
    best: Callable[..., Any]


class Result(NamedTuple):
    """One run: the score on sequences that were held out, and the processor seconds of a training step."""

    name: str
    settings: Settings
    parameters: int
    score: float
    seconds: float


class Model(nn.Module):
    """A batch-first recurrent layer and a linear read-out of its outputs."""

    def __init__(self, layer: nn.Module, width: int, outputs: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, outputs)

    def forward(self, x: Tensor, since: int = -1) -> Tensor:
        """(B, T, d) to (B, T', outputs): from step `since` on, by default of the last step only."""
        output, _ = self.layer(x)
        return self.head(output[:, since:])


def grid(rates: Sequence[float], *nonlinearities: str) -> list[Settings]:
    """All combinations."""
    return [Settings(*combined) for combined in product(rates, nonlinearities)]


def stable(layers: int = 1, **options: Any) -> Make:
    """Makes a `StableRNN`."""
    return lambda sizes, nonlinearity: cofm.StableRNN(
        sizes.inputs, sizes.width, layers, nonlinearity, batch_first=True, **_time_scale(sizes), **options
    )


def residual(layers: int = 2, **options: Any) -> Make:
    """Makes a `ResidualStack`."""
    return lambda sizes, nonlinearity: cofm.ResidualStack(
        sizes.inputs, sizes.width, layers, nonlinearity=nonlinearity, batch_first=True, **_time_scale(sizes), **options
    )


def lru(layers: int = 2, **options: float) -> Make:
    """Makes a plain LRU."""
    return lambda sizes, _: PlainLRU(sizes.inputs, sizes.width, layers, **options)


def rnn(sizes: Sizes, nonlinearity: str) -> nn.Module:
    """`nn.RNN`."""
    return nn.RNN(sizes.inputs, sizes.width, nonlinearity=nonlinearity, batch_first=True)


def gru(sizes: Sizes, _: str) -> nn.Module:
    """`nn.GRU`."""
    return nn.GRU(sizes.inputs, sizes.width, batch_first=True)


def _time_scale(sizes: Sizes) -> dict[str, Any]:
    return {} if sizes.max_time_scale is None else {"max_time_scale": sizes.max_time_scale}


def fit(
    model: Model,
    batches: Iterator[tuple[Tensor, Tensor]],
    loss: Callable[[Model, Tensor, Tensor], Tensor],
    *,
    steps: int,
    settings: Settings,
) -> float:
    """Train on `steps` batches of inputs and targets; processor seconds that a step takes once it has its batch.

    They add up over threads, and do not depend on what else the machine does.
    """
    optimizer = torch.optim.AdamW(cofm.parameter_groups(model, weight_decay=0.01), settings.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.rate, steps)
    seconds = 0.0
    for _ in range(steps):
        inputs, targets = next(batches)
        started = time.process_time()
        optimizer.zero_grad()
        loss(model, inputs, targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        seconds += time.process_time() - started
    return seconds / steps


@dataclass(frozen=True)
class Experiment:
    """A script's rows and score, features of its inputs and outputs, and how it trains and scores a fresh model.

    `train(model, settings, seed, selecting)` gives the seconds of a step and the score: on the validation set, which it
    has not trained on, if `selecting`, otherwise on the test set.
    """

    rows: Mapping[str, Row]
    score: Score
    inputs: int
    outputs: int
    train: Callable[[Model, Settings, int, bool], tuple[float, float]]

    def table(self, options: argparse.Namespace) -> list[list[Result]]:
        """Train what the options name and print the table."""
        chosen = {
            name: self._select(name, options) if options.select else self.rows[name].chosen for name in options.models
        }
        print(
            f"| layer | nonlinearity | learning rate | parameters | {self.score.title}, mean | range | CPU ms a step |"
        )
        print("| --- " * 7 + "|")
        results = []
        for name in options.models:
            results.append([self._run(name, chosen[name], seed, False, options) for seed in options.seeds])
            print(self._line(results[-1]), flush=True)
        return results

    def _run(self, name: str, settings: Settings, seed: int, selecting: bool, options: argparse.Namespace) -> Result:
        torch.manual_seed(seed)
        layer = self.rows[name].make(Sizes(self.inputs, options.width, options.max_time_scale), settings.nonlinearity)
        model = Model(layer, options.width, self.outputs)
        seconds, score = self.train(model, settings, seed, selecting)
        return Result(name, settings, sum(parameter.numel() for parameter in model.parameters()), score, seconds)

    def _select(self, name: str, options: argparse.Namespace) -> Settings:
        """The settings of the grid that are best on the validation set."""
        tried = {}
        for settings in self.rows[name].grid:
            tried[settings] = self._run(name, settings, options.seeds[0], True, options).score
            print(f"{name}, {settings}: {tried[settings]:{self.score.form}} on the validation set", flush=True)
        finite = [settings for settings in tried if math.isfinite(tried[settings])]
        best: Settings = self.score.best(finite or tried, key=tried.__getitem__)
        return best

    def _line(self, runs: Sequence[Result]) -> str:
        """A layer trained with several seeds: mean and range of the score, median of the time."""
        first, form = runs[0], self.score.form
        scores, seconds = [run.score for run in runs], sorted(run.seconds for run in runs)[len(runs) // 2]
        return (
            f"| {first.name} | {first.settings.nonlinearity} | {first.settings.rate:g} | {first.parameters:,} "
            f"| {sum(scores) / len(scores):{form}} | {min(scores):{form}} to {max(scores):{form}} "
            f"| {1000 * seconds:.1f} |"
        )


def arguments(description: str | None, rows: Mapping[str, Row], *, width: int) -> argparse.ArgumentParser:
    """The options that every script has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=rows, default=list(rows), metavar="MODEL")
    parser.add_argument("--select", action="store_true", help="choose settings anew, on the validation set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--width", type=int, default=width)
    parser.add_argument("--max-time-scale", type=float, help="of our layers, in steps, instead of their default")
    return parser

"""StableSSM's experiment: how training depends on f in rate = f(w) (arXiv 2311.14495).

A state-space model learns a target of long memory with each f, from the same first rates, at learning rates that are
too small, right, and too large. Two questions:

- How large are gradients over weights, |dL/dw| / |w|, beside their bound C |f'| / (f^2 |w|)?
- Up to which learning rate is training stable?

What makes an f "best":

    theirs   the smallest sup |f'(w)| / (f(w)^2 |w|) over the rates that matter: no step is large beside its weight
    ours     the smallest modulus g(beta), of how far a rate can move with its weight: what stable approximation asks
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cofm_triton import targets
from cofm_triton.experiment.gradient_recorder import GradientRecorder
from cofm_triton.experiment.training import initial_model, one_thread
from cofm_triton.step.parameterization import parameterization as look_up
from cofm_triton.support.scalars import check_choice, check_int, check_number

OPTIMIZERS = ("sgd", "adam")
SLOWEST, FASTEST = 0.01, 0.1
"""Rates that `gradient_bound` looks at, 1 / time: memories of 10 to 100 steps."""
_RATES = 2000  # looked at, evenly in log


@dataclass(frozen=True)
class Training:
    """One training, float64 on the CPU; infinite from the step on that overflowed.

    Attributes:
        losses: (steps,), mean squared errors over that of the zero model.
        rates: (steps, units), f(w), 1 / time.
        ratios: (steps, units), |dL/dw| / |w|.
        bounds: (steps, units), |f'(w)| / (f(w)^2 |w|).
    """

    losses: Tensor
    rates: Tensor
    ratios: Tensor
    bounds: Tensor

    @property
    def final(self) -> float:
        """The mean loss of the last tenth of the steps: infinite where training overflowed."""
        return self.losses[-max(1, len(self.losses) // 10) :].mean().item()

    @property
    def is_stable(self) -> bool:
        """Whether it ended no worse than it began."""
        return self.final <= self.losses[0].item()

    @property
    def constant(self) -> float:
        """The smallest C with which the bound holds wherever it is asked to, at positive rates; 0 where none is."""
        asked = (self.rates > 0) & (self.bounds > 0) & self.ratios.isfinite() & self.bounds.isfinite()
        return (self.ratios / self.bounds)[asked].max().item() if bool(asked.any()) else 0.0


def recorded_training(
    parameterization: str,
    *,
    learning_rate: float,
    oscillating: bool = False,
    optimizer: str = "sgd",
    nonlinearity: str = "linear",
    target: str = "pol",
    length: int = 100,
    sequences: int = 32,
    width: int = 16,
    steps: int = 150,
    seed: int = 0,
) -> Training:
    """Train one state-space model on a target, all sequences in every step, and record its gradients over weights.

    Args:
        parameterization: name of f.
        learning_rate: of all steps.
        oscillating: whether units turn in pairs.
        optimizer: "sgd", of whose steps the theory speaks, or "adam".
        nonlinearity: of the states before the read-out; a bounded one hides a state that grows.
        target: a name of `cofm.targets`.
        length: T, steps of time.
        sequences: N.
        width: units.
        steps: of training.
        seed: of weights and data.

    Raises:
        TypeError: no number where there should be one.
        ValueError: an unknown name, or a number out of range.

    Example:
        >>> training = recorded_training("exp", learning_rate=0.01, steps=3, length=20)
        >>> training.ratios.shape
        torch.Size([3, 16])
    """
    learning_rate, steps = check_number("learning_rate", learning_rate), check_int("steps", steps, 1)
    check_choice("optimizer", optimizer, OPTIMIZERS)
    model = initial_model(
        width, parameterization=parameterization, recurrence="ssm", oscillating=oscillating, seed=seed,
        nonlinearity=nonlinearity,
    )  # fmt: skip
    recorder, losses = GradientRecorder(model), torch.full((steps,), math.inf, dtype=torch.float64)
    kind = torch.optim.SGD if optimizer == "sgd" else torch.optim.Adam
    stepper = kind(model.parameters(), lr=learning_rate)
    with one_thread():
        inputs, outputs = targets.generate(target, sequences, length, seed=seed)
        size = outputs.square().mean()
        for step in range(steps):
            stepper.zero_grad()
            loss = (model(inputs) - outputs).square().mean() / size
            if not bool(loss.isfinite()):
                break
            losses[step] = loss.item()
            loss.backward()
            recorder.record()
            stepper.step()
    columns = (next(iter(found.values())) for found in (recorder.rates, recorder.ratios, recorder.bounds))
    return Training(losses, *(_whole(column, steps) for column in columns))


def _whole(column: Tensor, steps: int) -> Tensor:
    """(steps, units), infinite where there were no more steps."""
    return torch.cat((column, column.new_full((steps - len(column), column.shape[1]), math.inf)))


def gradient_bound(parameterization: str, slowest: float = SLOWEST, fastest: float = FASTEST) -> float:
    """sup |f'(w)| / (f(w)^2 |w|) over rates f(w) in [slowest, fastest], those in the range of f: StableSSM's criterion.

    Of slow units only: at w = 0, where most f have a rate near 1, nothing is small beside w.

    Args:
        parameterization: name of f.
        slowest: rate, 1 / time.
        fastest: rate, 1 / time.

    Example:
        >>> round(gradient_bound("inverse"), 6), round(gradient_bound("direct"))
        (2.0, 1000000)
    """
    slowest, fastest = check_number("slowest", slowest), check_number("fastest", fastest)
    if slowest > fastest:
        raise ValueError(f"slowest must not exceed fastest, {fastest!r}, got {slowest!r}")
    f = look_up(parameterization)
    rate = torch.logspace(math.log10(slowest), math.log10(fastest), _RATES, dtype=torch.float64)
    w = f.inverse(rate[f.range.contains(rate)])
    return float((f.gradient_scale(w) / w.abs()).max())

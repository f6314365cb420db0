"""What one run of `cofm reproduce` computes. Imports no torch: `--help` shows it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cofm_triton.step.activations import NONLINEARITIES as ALL_NONLINEARITIES
from cofm_triton.step.activations import properties
from cofm_triton.step.parameterizations import PARAMETERIZATIONS

__all__ = ["NONLINEARITIES", "OSCILLATING", "PAPER_TARGETS", "PARAMETERIZATIONS", "RECURRENCES", "TARGETS", "Settings"]

TARGETS = ("exp", "pol", "shift", "twoparts", "airy", "sin")  # of cofm.targets, which imports torch
PAPER_TARGETS = TARGETS[:2]
# The paper's hypotheses: linear ones, and bounded acts inside the recurrence.
NONLINEARITIES = tuple(name for name in ALL_NONLINEARITIES if properties(name).is_linear or properties(name).is_bounded)
RECURRENCES = ("diagonal", "ssm", "orthogonal", "dense")
OSCILLATING = ("diagonal", "ssm")  # recurrences whose units may turn in pairs


@dataclass(frozen=True)
class Settings:
    """Everything the numbers of a run depend on.

    Attributes:
        preset: the name it started from.
        targets: memory targets, see `cofm.targets`.
        nonlinearities: activations of the trained models.
        parameterizations: of the recurrent rates.
        recurrence: of all models, see `RNNFunctional`; the paper's is "diagonal".
        oscillating: whether their units turn in pairs.
        widths: hidden units m of the models.
        horizons: lengths T for which models are trained.
        sweep_horizon: the one of them whose models are swept.
        directions: random directions per radius.
        train_sequences: sequences to train on.
        test_sequences: sequences the sweep measures the error on.
        horizon_sequences: sequences per horizon for the slow-direction radius.
        linear_steps: full-batch training steps of the linear models.
        sequence_steps: minibatch training steps of the others, which start from the linear ones.
        batch: a minibatch has batch / T sequences, at least 8.
        dt: time step.
        discretization: "exact" or "euler".
        seed: of everything random.
        device: "cpu" or "cuda".
    """

    preset: str
    targets: tuple[str, ...] = PAPER_TARGETS
    nonlinearities: tuple[str, ...] = ("linear", "hardtanh")
    parameterizations: tuple[str, ...] = ("direct", "exp", "softplus")
    recurrence: str = "diagonal"
    oscillating: bool = False
    widths: tuple[int, ...] = (8, 16, 32, 64)
    horizons: tuple[int, ...] = (50, 100, 200, 400, 800)
    sweep_horizon: int = 100
    directions: int = 30
    train_sequences: int = 4096
    test_sequences: int = 512
    horizon_sequences: int = 256
    linear_steps: int = 1600
    sequence_steps: int = 400
    batch: int = 3200
    dt: float = 1.0
    discretization: str = "exact"
    seed: int = 0
    device: str = "cpu"

    @property
    def kind(self) -> str:
        """The recurrence in words, for file names and titles."""
        return self.recurrence + "-oscillating" * self.oscillating

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON (lists instead of tuples)."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


PRESETS: dict[str, Settings] = {
    "default": Settings("default"),
    "paper": Settings(
        "paper",
        parameterizations=("direct", "relu", "exp", "softplus", "inverse"),
        train_sequences=12_800,
        test_sequences=12_800,
        horizon_sequences=1024,
        linear_steps=10_000,
        sequence_steps=2000,
    ),
    "smoke": Settings(
        "smoke",
        widths=(8, 16),
        horizons=(25, 50, 100, 200, 400),
        sweep_horizon=50,
        train_sequences=512,
        test_sequences=64,
        horizon_sequences=64,
        linear_steps=500,
        sequence_steps=150,
    ),
}
"""The full protocol, the one that fits in a coffee break, and the one that shows that it works."""

"""The contract of a recurrence, and the layer as a recurrence sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from cofm_triton import functional
from cofm_triton.layers.cell import StepCell
from cofm_triton.step.coefficients import Modes

Shapes = dict[str, tuple[int, ...]]


class Layer(nn.Module):
    """Options and parameters of a `StableRNN`, whose docstring says what they are."""

    input_size: int
    hidden_size: int
    num_layers: int
    nonlinearity: str
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    parameterization: str
    recurrence: str
    dt: float
    discretization: str
    constrained: bool
    oscillating: bool
    max_angle: float
    normalize_input: bool | str
    max_time_scale: float
    backend: str | None
    keeps_size: bool = False  # whether rows of a fresh U are sized as `fresh_size.py` says
    learnable_dt: bool = False  # layers that earlier versions have pickled have no such attribute
    gated: bool | str = False
    pair_places: tuple[int, int] | None = None
    dt_min: float | None = None
    dt_max: float | None = None

    weight_ih_l0: Tensor
    bias_l0: Tensor | None
    rate_l0: Tensor
    basis_l0: Tensor
    weight_hh_l0: Tensor

    def functions(self, suffix: str) -> Any:
        """Where the recurrences of one direction are: functions of the names and signatures of `functional`."""
        return functional


class Episodes(NamedTuple):
    """Where sequences are cut, see `StableRNN.forward`: resets (B, T) or None, and what they lead to."""

    resets: Tensor | None = None
    reset_to: str = "zero"

    def keywords(self) -> dict[str, Any]:
        """For a function of `functional`; none where no sequence is cut."""
        return {} if self.resets is None else dict(resets=self.resets, reset_to=self.reset_to)


class Weights(NamedTuple):
    """The parameters that every direction of every layer has: U (D, d), b (D,) or None, w (m,).

    With gates U and b have a multiple of D rows.
    """

    encoder: Tensor
    bias: Tensor | None
    rate: Tensor


def weights_of(layer: Layer, suffix: str) -> Weights:
    """As they are now, whatever makes them: parametrisations and hooks put other tensors in a parameter's place."""
    return Weights(*(getattr(layer, name + suffix) for name in ("weight_ih", "bias", "rate")))


class Recurrence(ABC):
    """One value of the option `recurrence`. A suffix, such as "_l0" or "_l1_reverse", says which direction is meant.

    Attributes:
        is_elementwise: whether units, or pairs of units, do not see each other: they may oscillate, and have
            normalised inputs.
        acts_on_output: whether the nonlinearity is applied to the states that are read out, not inside the loop.
    """

    is_elementwise: ClassVar[bool] = False
    acts_on_output: bool = False

    @abstractmethod
    def shapes(self, layer: Layer) -> Shapes:
        """Of its parameters besides U and b, by name without suffix, the raw rates first."""

    def encoded(self, layer: Layer) -> int:
        """How many numbers of each unit come from the input: the rows of U, in units of D."""
        return 1

    @abstractmethod
    def reset(self, layer: Layer, suffix: str) -> None:
        """Draw its parameters, but for the raw rates."""

    @abstractmethod
    def run(
        self, layer: Layer, suffix: str, x: Tensor, h0: Tensor | None, lengths: Tensor | None, episodes: Episodes
    ) -> tuple[Tensor, Tensor]:
        """The output, all states or act of them, and the last state.

        Args:
            layer: options and parameters.
            suffix: which direction.
            x: (B, T, d).
            h0: (B, D), or None for zeros.
            lengths: (B,) of padded sequences, or None.
            episodes: passed on to the scan.

        Returns:
            (B, T, D) in the dtype of the encoded input, and (B, D) in that of the states.
        """

    @abstractmethod
    def cell(self, layer: Layer, suffix: str) -> StepCell:
        """The coefficients of a step, in memory of their own; differentiable."""

    @abstractmethod
    def margin(self, layer: Layer, suffix: str) -> float:
        """The rate of the slowest mode, 1 / time."""

    @abstractmethod
    def modes(self, layer: Layer, suffix: str) -> Modes:
        """Those of fresh weights, single units or pairs (2k, 2k+1)."""

    def in_units(self, layer: Layer, suffix: str, rows: Tensor) -> Tensor:
        """Rows of a fresh U, (D, d) float64, that have been drawn for the modes."""
        return rows

    def upgrade(self, layer: Layer, state_dict: dict[str, Any], prefix: str, suffix: str) -> None:
        """Bring entries of a state_dict that an earlier version wrote up to date, in place."""
        return  # most have always been as they are

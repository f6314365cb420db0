"""The contract of models that answer Heaviside inputs without cancellation, `diagonal.py` and `dense.py`."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from cofm_triton.step.stacked_cells import StackedCells


class Heaviside(Protocol):
    """K models, and v[k] = (y[k] - y[k-1]) / dt of each under x[k] = x for k >= 0, from the state 0."""

    @property
    def cells(self) -> StackedCells:
        """Their coefficients."""

    @property
    def is_closed(self) -> bool:
        """Whether v has a closed form, so that each step is answered by itself."""

    @property
    def is_odd(self) -> bool:
        """Whether -x answers as x does, up to the sign."""

    @property
    def held(self) -> int:
        """Numbers that are held per model, input and step."""

    @property
    def slowest(self) -> Tensor:
        """The smallest decay rate of each model's modes, (K,), 1 / time."""

    def __getitem__(self, models: slice) -> Heaviside:
        """Some of the models."""

    def kernel(self, steps: Tensor) -> Tensor:
        """v of linear models is kernel (x, 1): (K, p, d + 1, S) for steps (S,)."""

    def increments(self, inputs: Tensor, steps: Tensor) -> Tensor:
        """v at steps (S,) for inputs (K, n, d), with a closed form also (K, n, S, d): (K, n, S, p)."""

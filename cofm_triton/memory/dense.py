"""How dense one-layer models answer a Heaviside input: increments of the output without cancellation.

    z[0] = U x + b,   v[k] = c^T act(z[k]),   z[k+1] = z[k] - dt A act(z[k]) = L z[k] + dt A (z[k] - act(z[k]))

with L = 1 - dt A; v[k] is (y[k] - y[k-1]) / dt, see `diagonal.py` for models whose units do not see each other. Where
act is linear the steps to the next sample are one power of L: always for linear models; for others once every |z| is
below `SMALL`, if L shrinks all z. Everything is float64.
Source: arXiv 2305.19190, Definition 3.1, for y = c^T h.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cofm_triton.cpu.blocked.memory_increment import LOOK_EVERY, SMALL
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.perturbation.stacking import stack
from cofm_triton.step.activation import bodies
from cofm_triton.step.activations import properties
from cofm_triton.step.stacked_cells import StackedCells

_ROUNDING = 1e-12  # by which the norm of a matrix that shrinks may exceed 1


@dataclass(frozen=True)
class DenseHeavisideCells:
    """K dense models that answer Heaviside inputs.

    Attributes:
        cells: their coefficients; pairs of units are a matrix of blocks.
        decay: L, (K, m, m).
    """

    cells: StackedCells
    decay: Tensor

    @classmethod
    def of(cls, model: RNNFunctional, parameters: Mapping[str, Tensor]) -> "DenseHeavisideCells":
        """K copies of a stackable model; arguments of `stack`."""
        cells = stack(model, parameters)
        cells = cells.as_dense() if cells.is_complex else cells
        return cls(cells, torch.eye(cells.rate.shape[1], device="cpu").to(cells.rate) - cells.dt * cells.rate)

    def __getitem__(self, models: slice) -> "DenseHeavisideCells":
        """Some of the models."""
        return DenseHeavisideCells(self.cells[models], self.decay[models])

    @property
    def is_closed(self) -> bool:
        """Whether any step is as cheap as the first: never."""
        return False

    @property
    def held(self) -> int:
        """Numbers that are held per model, input and step."""
        return self.cells.readout.shape[1]

    @property
    def slowest(self) -> Tensor:
        """The smallest decay rate of each model's modes, (K,), 1 / time."""
        return -torch.linalg.eigvals(self.decay).abs().amax(1).log() / self.cells.dt

    def kernel(self, steps: Tensor) -> Tensor:
        """v of linear models is kernel (x, 1): (K, p, d + 1, S) for steps (S,)."""
        drive = torch.cat((self.cells.encoder, self.cells.bias[..., None]), -1)
        return self._sampled(drive.mT, steps).permute(0, 3, 1, 2)

    def increments(self, inputs: Tensor, steps: Tensor) -> Tensor:
        """v[k] at some steps: (K, n, d) and (S,) int64, ascending -> (K, n, S, p)."""
        return self._sampled(inputs @ self.cells.encoder.mT + self.cells.bias[:, None], steps)

    def _sampled(self, z: Tensor, steps: Tensor) -> Tensor:
        """From z[0], (K, n, m)."""
        act, turned, step = bodies(self.cells.act_in), self.decay.mT, self.cells.dt * self.cells.rate.mT
        is_linear, now, rows = properties(self.cells.act_in).is_linear, 0, []
        for k in steps.tolist():
            while now < k:
                if now % LOOK_EVERY == 0 and self._is_linear(z):
                    z = z @ torch.linalg.matrix_power(turned, k - now)
                    now = k
                else:
                    z = z @ turned + (0 if is_linear else act.excess(z) @ step)
                    now += 1
            rows.append(act.act(z) @ self.cells.readout.mT)
        return torch.stack(rows, 2)

    def _is_linear(self, z: Tensor) -> bool:
        """Whether act is linear at every z, and at all that follow."""
        act = properties(self.cells.act_in)
        if act.is_linear:
            return True
        if act.linear_radius < SMALL or not bool((z.abs() < SMALL).all()):
            return False
        return bool((torch.linalg.matrix_norm(self.decay, ord=2) <= 1 + _ROUNDING).all())

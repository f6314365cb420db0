"""How dense one-layer models answer a Heaviside input: increments of the output without cancellation.

    z[0] = U x + b,   v[k] = c^T act(z[k]),   z[k+1] = z[k] - dt A act(z[k]) = L z[k] + dt A (z[k] - act(z[k]))

with L = 1 - dt A; v[k] is (y[k] - y[k-1]) / dt, see `heaviside` for the models whose units do not see each other. Where
act is linear the steps to the next sample are one power of L: always for linear models; for others once every |z| is
below `SMALL`, if L shrinks all z. Everything is float64.
Source: arXiv 2305.19190, Definition 3.1, for y = c^T h.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cofm_triton.cpu.blocked.memory_increment import LINEAR_AT_ZERO, LOOK_EVERY, SMALL, excess
from cofm_triton.layers.stable_rnn import RNNFunctional
from cofm_triton.perturbation.stacking import stack
from cofm_triton.step.activation import activation
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
    def slowest(self) -> Tensor:
        """The smallest decay rate of each model's modes, (K,), 1 / time."""
        return -torch.linalg.eigvals(self.decay).abs().amax(1).log() / self.cells.dt

    @property
    def is_odd(self) -> bool:
        """Whether -x answers as x does, up to the sign."""
        return self.cells.act_in != "relu" and not bool((self.cells.bias != 0).any())

    def kernel(self, steps: Tensor) -> Tensor:
        """v of linear models is kernel (x, 1): (K, p, d + 1, S) for steps (S,)."""
        drive = torch.cat((self.cells.encoder, self.cells.bias[..., None]), -1)
        return self._sampled(drive.mT, steps).permute(0, 3, 1, 2)

    def increments(self, inputs: Tensor, steps: Tensor) -> Tensor:
        """v[k] at some steps: (K, n, d) and (S,) int64, ascending -> (K, n, S, p)."""
        return self._sampled(inputs @ self.cells.encoder.mT + self.cells.bias[:, None], steps)

    def _sampled(self, z: Tensor, steps: Tensor) -> Tensor:
        """From z[0], (K, n, m)."""
        name, turned, step = self.cells.act_in, self.decay.mT, self.cells.dt * self.cells.rate.mT
        act, now, rows = activation(name), 0, []
        for k in steps.tolist():
            while now < k:
                if now % LOOK_EVERY == 0 and self._is_linear(z):
                    z = z @ torch.linalg.matrix_power(turned, k - now)
                    now = k
                else:
                    z = z @ turned + (excess(name, z) @ step if name != "linear" else 0)
                    now += 1
            rows.append(act(z) @ self.cells.readout.mT)
        return torch.stack(rows, 2)

    def _is_linear(self, z: Tensor) -> bool:
        """Whether act is linear at every z, and at all that follow."""
        if self.cells.act_in == "linear":
            return True
        if self.cells.act_in not in LINEAR_AT_ZERO or not bool((z.abs() < SMALL).all()):
            return False
        return bool((torch.linalg.matrix_norm(self.decay, ord=2) <= 1 + _ROUNDING).all())

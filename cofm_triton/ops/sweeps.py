"""What the backends of the sweeps offer: errors of stacked models, and increments under Heaviside inputs.

They are no operators of PyTorch's: nothing differentiates or traces through them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from cofm_triton.ops.backends import implementation
from cofm_triton.step.stacked_cells import StackedCells


class SweepBackend(Protocol):
    """Errors of K models on the same sequences; see `cpu/blocked/perturbation.py`."""

    def sweep_errors(self, cells: StackedCells, inputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """(K,) float64 from inputs (N, T, d), targets (N, T, p) and weights (T,), None for the largest gap."""


class CompiledSweepBackend(Protocol):
    """A compiled sweep, of models with one rate per unit or with a matrix."""

    def sweep_errors(
        self, cells: StackedCells, inputs: Tensor, targets: Tensor, weights: Tensor | None
    ) -> Tensor | None:
        """As of `SweepBackend`; None if models of that size are too much for it."""


class IncrementBackend(Protocol):
    """Increments of K models that are nonlinear in the loop; see `cpu/blocked/memory_increment.py`."""

    def sampled_increments(
        self, name: str, drive: Tensor, decay: Tensor, step: Tensor, readout: Tensor, steps: Tensor
    ) -> Tensor:
        """(K, n, S, p) read-outs at the steps (S,), of drives (K, n, m), by act's name."""


if TYPE_CHECKING:  # every backend has these signatures
    from cofm_triton.cpu.blocked import memory_increment, perturbation
    from cofm_triton.cpu.jit import dense_perturbation as jit_dense
    from cofm_triton.cpu.jit import memory_increment as jit_increment
    from cofm_triton.cpu.jit import perturbation as jit_sweep
    from cofm_triton.kernels import dense_perturbation as kernels_dense
    from cofm_triton.kernels import memory_increment as kernels_increment
    from cofm_triton.kernels import perturbation as kernels_sweep

    _BLOCKED: SweepBackend = perturbation
    _COMPILED: list[CompiledSweepBackend] = [jit_sweep, jit_dense, kernels_sweep, kernels_dense]
    _INCREMENTS: list[IncrementBackend] = [memory_increment, jit_increment, kernels_increment]


def compiled_sweep(backend: str, *, dense: bool) -> CompiledSweepBackend:
    """What computes errors on a resolved backend other than "torch"; `dense` for models with a matrix."""
    module: CompiledSweepBackend = implementation(backend, "dense_perturbation" if dense else "perturbation")
    return module


def increment_backend(backend: str) -> IncrementBackend:
    """What computes increments on a resolved backend."""
    module: IncrementBackend = implementation(backend, "memory_increment")
    return module

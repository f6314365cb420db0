"""Stacked models with known errors: what every sweep is held against."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from cofm_triton.cpu.blocked import perturbation as blocked
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.perturbation.stacking import stack
from cofm_triton.reference import Dynamics, rnn_functional
from cofm_triton.step.pairs import as_complex
from cofm_triton.step.stacked_cells import StackedCells


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def apart(tensor: Tensor) -> Tensor:
    """The same numbers, every other one in memory."""
    return torch.stack((tensor, tensor), -1)[..., 0]


def cells_apart(cells: StackedCells) -> StackedCells:
    """The same models; no coefficients are contiguous."""
    return replace(
        cells, rate=apart(cells.rate), encoder=apart(cells.encoder), bias=apart(cells.bias),
        readout=apart(cells.readout), offset=apart(cells.offset),
    )  # fmt: skip


def module_of(backend: str, name: str) -> Any:
    """Where a backend computes a sweep."""
    folders = {"triton": "kernels", "numba": "cpu.jit", "torch": "cpu.blocked"}
    return import_module(f"cofm_triton.{folders[backend]}.{name}")


def dense_models(
    nonlinearity: str, units: int, inputs: int, outputs: int, count: int
) -> tuple[StackedCells, dict[str, Tensor], Dynamics]:
    """Copies of a dense model, stacked; their parameters; and what they are."""
    torch.manual_seed(0)
    model = RNNFunctional(
        inputs, units, outputs, recurrence="dense", nonlinearity=nonlinearity, dt=0.5, dtype=torch.float64
    )
    moved = {
        name: p.detach() + 0.3 * randn(count, *p.shape, seed=i) for i, (name, p) in enumerate(model.named_parameters())
    }
    return stack(model, moved), moved, Dynamics("softplus", "dense", nonlinearity, 0.5, "exact")


def defined_errors(
    moved: dict[str, Tensor], dynamics: Dynamics, x: Tensor, y: Tensor, weights: Tensor | None
) -> Tensor:
    """Errors of every copy by the definition, (K,)."""
    count = len(next(iter(moved.values())))
    rows = [{name: value[k] for name, value in moved.items()} for k in range(count)]
    gaps = torch.stack([rnn_functional(row, x, dynamics) - y for row in rows])
    return gaps.abs().amax((1, 2, 3)) if weights is None else (weights[:, None] * gaps**2).sum((1, 2, 3))


def random_cells(act_in: str, act_out: str, units: int, inputs: int, outputs: int, count: int) -> StackedCells:
    """Models of random coefficients."""
    return StackedCells(
        0.5 * randn(count, units, seed=1).abs(), randn(count, units, inputs, seed=2), randn(count, units, seed=3),
        randn(count, outputs, units, seed=4), randn(count, outputs, seed=5), 0.7, act_in, act_out,
    )  # fmt: skip


def random_pairs(act_in: str, pairs: int, inputs: int, outputs: int, count: int) -> StackedCells:
    """The same of complex units."""
    whole = random_cells(act_in, "linear", 2 * pairs, inputs, outputs, count)
    rate, bias, readout = (as_complex(value) for value in (whole.rate, whole.bias, whole.readout))
    return replace(whole, rate=rate, encoder=as_complex(whole.encoder.mT).mT, bias=bias, readout=readout)


def autograd_gradients(cells: StackedCells, x: Tensor, y: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    """Errors of the PyTorch sweep and what autograd makes of it: by a, b, U, c and d."""
    leaves = cells.as_leaves()
    errors = blocked.sweep_errors(leaves.as_dense() if leaves.is_complex else leaves, x, y, weights)
    by = (leaves.rate, leaves.bias, leaves.encoder, leaves.readout, leaves.offset)
    return errors.detach(), *torch.autograd.grad(errors.sum(), by)


def increment_arguments(models: int, inputs: int, units: int, outputs: int, steps: list[int]) -> tuple[Tensor, ...]:
    """Arguments of `sampled_increments` after the nonlinearity: drive, decay, step, read-out and steps."""
    generator = torch.Generator().manual_seed(units)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    rate = normal(models, units).exp()
    drive, readout = 3 * normal(models, inputs, units), normal(models, outputs, units)
    return drive, torch.exp(-rate), -torch.expm1(-rate), readout, torch.tensor(steps)

"""Gradients of sweeps: the compiled adjoint, scans side by side, and the PyTorch sweep give the same."""

import types

import pytest
import torch
from scan_cases import BACKENDS, device_of
from sweep_cases import (
    apart,
    autograd_gradients,
    cells_apart,
    dense_models,
    module_of,
    randn,
    random_cells,
    random_pairs,
)

from cofm_triton.cpu.blocked import perturbation as blocked
from cofm_triton.ops import perturbation as ops
from cofm_triton.ops.backends import INSTALLED
from cofm_triton.ops.perturbation import scanned_errors, sweep_errors, sweep_errors_and_gradients
from cofm_triton.step.stacked_cells import StackedCells, join

X, Y = randn(9, 11, 2, seed=6), randn(9, 11, 3, seed=7)
WEIGHTS = torch.linspace(0.1, 2, 11, dtype=torch.float64)


def gradients(cells: StackedCells) -> tuple[torch.Tensor, ...]:
    leaves = cells.as_leaves()
    errors = sweep_errors_and_gradients(leaves, X, Y, WEIGHTS)
    by = (leaves.rate, leaves.bias, leaves.encoder, leaves.readout, leaves.offset)
    return errors.detach(), *torch.autograd.grad(errors.sum(), by)


@pytest.mark.parametrize("numba", [True, False])
@pytest.mark.parametrize("kinds", [("hardtanh", "linear"), ("linear", "tanh"), ("tanh", "linear")], ids="-".join)
def test_every_backend(kinds: tuple[str, str], numba: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = random_cells(*kinds, 4, 2, 3, 5)
    monkeypatch.setitem(INSTALLED, "numba", numba and INSTALLED["numba"])
    monkeypatch.setattr(ops, "_NUMBERS", 900)  # two models at a time
    for actual, expected in zip(gradients(cells), autograd_gradients(cells, X, Y, WEIGHTS), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11 * float(expected.abs().max()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_strides(backend: str) -> None:
    device = device_of(backend)
    cells, x, y = random_cells("tanh", "linear", 4, 2, 3, 5).to(device), X.to(device), Y.to(device)
    run = module_of(backend, "perturbation").sweep_errors
    assert torch.equal(run(cells_apart(cells), apart(x), apart(y), None), run(cells, x, y, None))


def test_finished_models_are_told() -> None:
    cells, told = random_cells("tanh", "linear", 4, 2, 3, 5), list[int]()
    blocked.sweep_errors(cells, X, Y, WEIGHTS, told.append)
    assert sum(told) == 5


def test_dense_models() -> None:
    cells, _, _ = dense_models("tanh", 4, 2, 3, 2)
    torch.testing.assert_close(gradients(cells)[0], sweep_errors(cells, X, Y, WEIGHTS), rtol=1e-12, atol=0)


@pytest.mark.parametrize("weighted", [True, False])
def test_blocks_of_sequences(weighted: bool) -> None:
    """More sequences than a block has, the largest error in the first one."""
    cells, weights = random_cells("tanh", "linear", 1, 1, 1, 2), torch.ones(1, dtype=torch.float64)
    x, y = randn(2050, 1, 1, seed=8), randn(2050, 1, 1, seed=9)
    y[3] = 100.0
    # One step from rest, of one unit.
    states = cells.dt * torch.tanh(x[:, 0] * cells.encoder[:, 0, 0] + cells.bias[:, 0])
    gaps = states * cells.readout[:, 0, 0] + cells.offset[:, 0] - y[:, 0]
    expected = gaps.square().sum(0) if weighted else gaps.abs().amax(0)
    actual = blocked.sweep_errors(cells, x, y, weights if weighted else None)
    torch.testing.assert_close(actual, expected, rtol=2050 * torch.finfo(torch.float64).eps, atol=0)


def test_models_side_by_side_have_the_errors_of_the_sweep() -> None:
    cells = random_cells("hardtanh", "linear", 4, 2, 3, 5)
    torch.testing.assert_close(
        scanned_errors(cells, X, Y, WEIGHTS), sweep_errors(cells, X, Y, WEIGHTS), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("act_in", ["linear", "hardtanh"])
def test_pairs(act_in: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Complex units: errors as matrices of blocks, gradients side by side, in any pieces."""
    cells = random_pairs(act_in, 3, 2, 3, 5)
    matrices = cells.as_dense()
    whole = blocked.sweep_errors(matrices, X, Y, WEIGHTS)
    torch.testing.assert_close(scanned_errors(cells, X, Y, WEIGHTS), whole, rtol=1e-12, atol=0)
    wanted = autograd_gradients(cells, X, Y, WEIGHTS)
    for numbers in (ops._NUMBERS, 900):
        monkeypatch.setattr(ops, "_NUMBERS", numbers)
        torch.testing.assert_close(sweep_errors(cells, X, Y, WEIGHTS), whole, rtol=1e-12, atol=0)
        for actual, expected in zip(gradients(cells), wanted, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11 * float(expected.abs().max()))
    largest = blocked.sweep_errors(matrices, X, Y, None)
    torch.testing.assert_close(sweep_errors(cells, X, Y, None), largest, rtol=1e-12, atol=0)
    parts = [cells, cells.widened(5)]  # joined: inert pairs
    torch.testing.assert_close(sweep_errors(join(parts), X, Y, WEIGHTS), whole.repeat(2), rtol=1e-12, atol=0)


def test_widths_that_do_not_fit_together_are_swept_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the widest model is too much for the kernel, narrow ones still take it."""
    seen: list[torch.Size] = []

    def kernel_errors(cells: StackedCells, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor | None:
        if cells.rate.shape[1] > 4:
            return None
        seen.append(cells.rate.shape)
        return blocked.sweep_errors(cells, x, y, w)

    monkeypatch.setattr(ops, "resolve", lambda *_: "triton")
    monkeypatch.setattr(ops, "compiled_sweep", lambda *_, **__: types.SimpleNamespace(sweep_errors=kernel_errors))
    parts = [random_cells("hardtanh", "linear", units, 2, 3, 2) for units in (4, 9, 3)]
    together = sweep_errors(join(parts), X, Y, WEIGHTS)
    alone = torch.cat([blocked.sweep_errors(part, X, Y, WEIGHTS) for part in parts])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=0)
    assert seen == [(2, 3), (2, 4)]

"""Increments of dense models: the definition's differences, digits that survive, and powers in place of steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from sweep_cases import randn, random_cells

from cofm_triton import reference
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.memory.dense import DenseHeavisideCells
from cofm_triton.memory.function import memory_function
from cofm_triton.memory.sweep import memory_sweep
from cofm_triton.reference import Dynamics, rnn_functional
from cofm_triton.step.activations import NONLINEARITIES

STEPS = 12


def dense(nonlinearity: str, **options: object) -> RNNFunctional:
    torch.manual_seed(0)
    model = RNNFunctional(2, 5, 3, recurrence="dense", nonlinearity=nonlinearity, dt=0.5, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("nonlinearity", ["hardtanh", "tanh", "relu", "linear"])
def test_definition(nonlinearity: str) -> None:
    model, inputs = dense(nonlinearity), 2 * randn(4, 2)
    parameters = {name: p.detach()[None] for name, p in model.named_parameters()}
    cells = DenseHeavisideCells.of(model, parameters)
    actual = cells.increments(inputs[None], torch.tensor([0, 1, 5, 11]))[0]
    row = {name: p.detach() for name, p in model.named_parameters()}
    y = rnn_functional(row, inputs[:, None].expand(-1, STEPS, -1), Dynamics("softplus", "dense", nonlinearity, 0.5))
    before = torch.cat((row["readout.bias"].expand(4, 1, 3), y[:, :-1]), 1)
    # Outputs are of order one, and their difference is divided by dt.
    torch.testing.assert_close(actual, ((y - before) / 0.5)[:, [0, 1, 5, 11]], rtol=1e-11, atol=1e-13)
    if nonlinearity == "linear":
        kernel = cells.kernel(torch.tensor([0, 1, 5, 11]))[0]
        ones = torch.cat((inputs, torch.ones(4, 1, dtype=torch.float64)), 1)
        torch.testing.assert_close(torch.einsum("pcs,nc->nsp", kernel, ones), actual, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("nonlinearity", ["hardtanh", "tanh", "linear"])
def test_a_dense_model_that_is_diagonal_has_the_memory_of_the_diagonal_one(nonlinearity: str) -> None:
    """Down to 1e-30, where differences of outputs would be rounding alone."""
    options: dict[str, Any] = dict(nonlinearity=nonlinearity, parameterization="exp", bias=False, dtype=torch.float64)
    one, other = (RNNFunctional(1, 3, recurrence=kind, **options) for kind in ("diagonal", "dense"))
    with torch.no_grad():
        for model in (one, other):
            model.rnn.rate_l0.copy_(torch.tensor([-2.0, -1.0, 0.5]))
            model.rnn.weight_ih_l0.copy_(torch.tensor([[1.0], [0.5], [2.0]]))
            model.readout.weight.copy_(torch.tensor([[1.0, 2.0, -1.0]]))
            model.readout.bias.zero_()
    inputs = torch.tensor([[1.0], [0.3]], dtype=torch.float64)
    slow, fast = (memory_function(model, 520, inputs=inputs, samples=40) for model in (one, other))
    assert slow.values[-1] < 1e-29
    # exp(-dt W) rounds its eigenvalues to 2^-53, and 520 of them are multiplied.
    torch.testing.assert_close(fast.values, slow.values, rtol=1e-11, atol=0)
    assert fast.beta0 == pytest.approx(slow.beta0, rel=1e-12)


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("size", [1e-8, 1e-4, 3.0, -3.0])
@pytest.mark.parametrize("largest", [0.99, 1.2])
def test_powers_stand_for_steps_where_act_is_linear_alone(largest: float, size: float, nonlinearity: str) -> None:
    """At a kink in 0, in a curve that float64 sees, and where states grow into saturation, every step is taken."""
    basis = torch.linalg.qr(randn(5, 5)).Q
    decay = (basis * torch.linspace(0.8, largest, 5, dtype=torch.float64)) @ basis.T
    cells = random_cells(nonlinearity, "linear", 5, 2, 3, 1)
    rate, bias = (torch.eye(5) - decay)[None] / cells.dt, torch.zeros(1, 5, dtype=torch.float64)
    cells = replace(cells, rate=rate, bias=bias, encoder=cells.encoder.abs())
    steps = [0, 1, 63, 64, 65, 130] if largest < 1 else [0, 130]
    inputs = size * (randn(1, 4, 2) if size > 0 else randn(1, 4, 2).abs())  # the last of the sizes: every z < 0
    z, rows = inputs @ cells.encoder.mT, []
    largest_z: list[float] = []
    for _ in range(steps[-1] + 1):
        value = reference.nonlinearity(nonlinearity).act(z)
        rows.append(value @ cells.readout.mT)
        largest_z.append(max([z.abs().max().item(), *largest_z[-1:]]))
        z = z - cells.dt * value @ cells.rate.mT
    expected = torch.stack([rows[k] for k in steps], 2)
    actual = DenseHeavisideCells(cells, decay[None]).increments(inputs, torch.tensor(steps))
    # Every step rounds sums over 5 units, each twice.
    scale = torch.tensor([(k + 1) * largest_z[k] for k in steps]).double() * cells.readout.abs().sum(2).max()
    assert bool(((actual - expected).abs().amax((0, 1, 3)) <= 10 * 2**-53 * scale).all())


def test_odd_models_are_those_without_bias_whose_act_is_odd() -> None:
    for name in NONLINEARITIES:
        cells = random_cells(name, "linear", 5, 2, 3, 1)
        dense = DenseHeavisideCells(cells, torch.eye(5, dtype=torch.float64)[None])
        assert not dense.cells.is_odd
        unbiased = replace(dense, cells=replace(cells, bias=torch.zeros_like(cells.bias)))
        assert unbiased.cells.is_odd == (name != "relu")
        x, steps = randn(1, 4, 2), torch.arange(3)
        assert unbiased.cells.is_odd == torch.equal(unbiased.increments(-x, steps), -unbiased.increments(x, steps))


@pytest.mark.parametrize("recurrence", ["dense", "orthogonal"])
def test_a_sweep_is_its_copies(recurrence: str) -> None:
    torch.manual_seed(1)
    model = RNNFunctional(1, 4, recurrence=recurrence, dtype=torch.float64)
    sweep = memory_sweep(model, 20, radii=[0.0, 0.1], directions=2)
    alone = memory_function(model, 20)
    torch.testing.assert_close(sweep.values[0], alone.values.expand(2, -1), rtol=1e-12, atol=0)
    assert bool((sweep.values[1] != sweep.values[0]).any()) and not sweep.diverged.any()

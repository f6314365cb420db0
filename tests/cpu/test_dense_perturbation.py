"""The compiled sweep over dense models against the definition."""

import pytest
import torch
from sweep_cases import defined_errors, dense_models, randn

jit = pytest.importorskip("cofm_triton.cpu.jit.dense_perturbation", reason="numba is not installed")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("nonlinearity", ["hardtanh", "tanh", "relu", "linear"])
@pytest.mark.parametrize("shape", [(3, 5, 70, 7, 2, 3), (2, 33, 5, 9, 1, 1), (1, 8, 1, 1, 1, 1)])
def test_definition(shape: tuple[int, ...], nonlinearity: str, weighted: bool, dtype: torch.dtype) -> None:
    """Ragged blocks of sequences and panels of columns, several channels."""
    count, units, sequences, steps, inputs, outputs = shape
    cells, moved, dynamics = dense_models(nonlinearity, units, inputs, outputs, count)
    x, y = randn(sequences, steps, inputs, seed=10), randn(sequences, steps, outputs, seed=11)
    weights = torch.linspace(0.1, 2, steps, dtype=torch.float64) if weighted else None
    expected = defined_errors(moved, dynamics, x, y, weights)
    actual = jit.sweep_errors(cells, x.to(dtype), y.to(dtype), weights)
    assert actual.dtype == torch.float64
    # A step sums `units` products, errors of T steps add up, and E is quadratic in y.
    rtol = 2 * (units + 8) * steps * torch.finfo(dtype).eps
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=0)


def test_many_tasks_and_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    cells, _, _ = dense_models("hardtanh", 6, 1, 1, 3)
    x, y = randn(100, 5, 1, seed=1), randn(100, 5, 1, seed=2)
    weights = torch.ones(5, dtype=torch.float64)
    whole = jit.sweep_errors(cells, x, y, weights)
    monkeypatch.setattr(jit, "_BLOCKS_PER_TASK", 2)
    assert torch.equal(jit.sweep_errors(cells, x, y, weights), whole)


@pytest.mark.parametrize("weighted", [True, False])
def test_a_lost_state_shows_and_stays_with_its_model(weighted: bool) -> None:
    cells, _, _ = dense_models("relu", 4, 1, 1, 3)
    cells.rate[1, 0, 0] = torch.nan
    x = randn(20, 5, 1)
    errors = jit.sweep_errors(cells, x, x, torch.ones(5, dtype=torch.float64) if weighted else None)
    assert errors.isnan().tolist() == [False, True, False]

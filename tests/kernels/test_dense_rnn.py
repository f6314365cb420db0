"""The dense recurrence's kernels: every way to hold the matrix, at widths where the operator would take another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scan_cases import dense_problem

from cofm_triton.ops.backends import INSTALLED, interpreting
from cofm_triton.ops.checks import RESET_TO
from cofm_triton.step.activations import NONLINEARITIES

if not INSTALLED["triton"] or not (torch.cuda.is_available() or interpreting()):
    pytest.skip("triton cannot run here", allow_module_level=True)

from cofm_triton.kernels import dense_rnn
from cofm_triton.kernels.launch import Dense


@pytest.mark.parametrize("resident", [1, 3, 4])
def test_tiles_in_registers_and_read_again(resident: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_rnn, "dense", lambda *_: Dense(16, 2, resident, False, 1))
    for width, reset_to in ((17, None), (32, "h0")):
        dense_problem(2, 5, width, nonlinearity="tanh", reset_to=reset_to).check("triton")


@pytest.mark.parametrize("resident", [1, 8])
def test_two_numbers_a_word(resident: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_rnn, "dense", lambda *_: Dense(16, 4, resident, True, 1))
    for width in (35, 64):
        dense_problem(2, 5, width, dtype=torch.bfloat16, wide=False, nonlinearity="tanh").check("triton")


@pytest.mark.parametrize(("width", "dtype"), [(140, torch.float32), (200, torch.float32), (200, torch.bfloat16)])
def test_wide_matrices_as_they_are_launched(width: int, dtype: torch.dtype) -> None:
    dense_problem(1, 3, width, dtype=dtype, wide=False).check("triton")


@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("reset_to", [None, *RESET_TO])
def test_step_by_step(reset_to: str | None, dtype: torch.dtype, states: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_rnn, "dense", lambda *_: None)
    for precision in ("ieee", "tf32x3"):
        options: dict[str, Any] = dict(dtype=dtype, states=states, precision=precision, reset_to=reset_to)
        dense_problem(17, 3, 40, nonlinearity="tanh", **options).check("triton")


@pytest.mark.parametrize("dt", [1e-3, 1.9, 6.0])  # eigenvalues of the matrix are 0.25 to 0.75
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_step_sizes(nonlinearity: str, dt: float) -> None:
    """Euler's method slow, oscillating and diverging: as the definition does, gradients included."""
    dense_problem(2, 8, 3, nonlinearity=nonlinearity, dt=dt).check("triton")

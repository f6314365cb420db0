"""The dense recurrence's kernels: every way to hold the matrix, at widths where the operator would take another."""

from __future__ import annotations

import pytest
import torch
from scan_cases import dense_case

from cofm_triton.ops.backends import INSTALLED, interpreting

if not INSTALLED["triton"] or not (torch.cuda.is_available() or interpreting()):
    pytest.skip("triton cannot run here", allow_module_level=True)

from cofm_triton.kernels import dense_rnn
from cofm_triton.kernels.launch import Dense


@pytest.mark.parametrize("resident", [1, 3, 4])
def test_tiles_in_registers_and_read_again(resident: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_rnn, "dense", lambda *_: Dense(16, 2, resident, 1))
    for width in (17, 32):
        dense_case(2, 5, width, nonlinearity="tanh").check("triton")


def test_a_quarter_of_the_matrix_in_registers() -> None:
    dense_case(1, 3, 140).check("triton")


@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_step_by_step(dtype: torch.dtype, states: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_rnn, "dense", lambda *_: None)
    for precision in ("ieee", "tf32x3"):
        dense_case(17, 3, 40, dtype=dtype, states=states, precision=precision).check("triton")
